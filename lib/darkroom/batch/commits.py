"""Finished units, committed to the run several at once; and duplicates of the rows that were made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from darkroom.batch.planned_rows import read_lines
from darkroom.batch.progress import TooManyFailed
from darkroom.batch.write_results import Receipt
from darkroom.runs import SCHEMA, Shard, Writer, stage
from darkroom.runs.log import Index
from darkroom.runs.results import SCHEMA_VERSION
from darkroom.storage import StorageError
from darkroom.storage.hashing import hashes

COMMIT_ROWS, COMMIT_SECONDS = 2_000, 1.0
COPIES, COPIED_BYTES = 10_000, 256 * 2**20  # of duplicates in one shard, about: their pictures may lie inside


class Commits:
    """Commits the units' shards as they come: the first at once, then about once a second, several by one record.
    totals: of what is committed. heard: told of each unit, once its rows count. most_failed: rows; TooManyFailed where
    there are more."""

    def __init__(self, writer: Writer, heard: Callable[[Receipt], None], most_failed: float = float("inf")) -> None:
        self.writer, self.heard, self.most_failed = writer, heard, most_failed
        self.totals = Counter[str]()
        self._waiting: list[Receipt] = []
        self._flushed = float("-inf")

    def add(self, receipt: Receipt) -> None:
        self._waiting.append(receipt)
        if sum(waiting.ok + waiting.failed for waiting in self._waiting) >= COMMIT_ROWS:
            self.flush()
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """To be called about once a second."""
        if self._waiting and time.monotonic() - self._flushed >= COMMIT_SECONDS:
            self.flush()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Commits what waits; also where the job ends before its time, as those rows are made."""
        if kind is None:
            self.flush()
        else:
            with suppress(StorageError):  # the other error is the one to tell of
                self._commit()

    def flush(self) -> None:
        self._commit()
        if self.totals["failed"] > self.most_failed:
            counts = f"{self.totals['failed']:,} of {self.totals['ok'] + self.totals['failed']:,} rows failed"
            raise TooManyFailed(f"{counts}, --max-failed-rows allows {self.most_failed:,.0f} in all")

    def _commit(self) -> None:
        receipts, self._waiting = self._waiting, []
        self.writer.commit([Shard.from_json(receipt.shard) for receipt in receipts])
        self._flushed = time.monotonic()
        for receipt in receipts:
            self.totals.update(ok=receipt.ok, failed=receipt.failed, evaluations=receipt.evaluations)
            self.heard(receipt)


def commit_duplicates(writer: Writer, plan: str) -> int:
    """Commits a result row for every duplicate of this plan, a copy of the row that was made; how many. Those whose
    picture was never made are left for the next run."""
    lines = read_lines(writer.store, f"duplicates/{plan}")
    index, known = writer.log.index, set(writer.log.shards)
    size = sum(shard.bytes for shard in writer.log.shards.values()) / max(index.rows, 1)  # of a row
    most = max(1, min(COPIES, int(COPIED_BYTES / max(size, 1))))
    count = number = 0
    while batch := list(islice(lines, most)):
        if not known <= writer.log.shards.keys():  # some were rewritten, without rows that these copies replace
            index, known = writer.log.index, set(writer.log.shards)
        copies = _copies(writer, index, batch)
        if len(copies):
            writer.commit([stage(writer.store, f"{plan}-duplicates-{number:06d}", copies)])
        count, number = count + len(copies), number + 1
    return count


def _copies(writer: Writer, index: Index, lines: list[dict[str, Any]]) -> pa.Table:
    ids, keys = (pa.array([line[name] for line in lines]) for name in ("id", "key"))
    found = writer.rows_with_keys(hashes(line["key"] for line in lines), index)
    originals = pa.concat_tables([SCHEMA.empty_table(), *found])
    places = pc.index_in(keys, originals["key"])
    copies = originals.take(places.drop_null())
    # It cost nothing: sums over evaluations and seconds stay true.
    own = {"evaluations": 0, "seconds": 0.0, "created_at": datetime.now(UTC), "schema_version": SCHEMA_VERSION}
    columns = {name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), len(copies)) for name, value in own.items()}
    for name, column in {"id": ids.filter(places.is_valid()), **columns}.items():
        copies = copies.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    return copies
