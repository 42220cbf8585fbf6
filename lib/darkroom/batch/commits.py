"""Finished units, committed to the run several at once; and duplicates of the rows that were made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from darkroom.batch.planned_rows import read_lines
from darkroom.batch.progress import TooManyFailed
from darkroom.batch.write_results import Receipt
from darkroom.runs import Shard, Writer, stage, to_table
from darkroom.storage import StorageError
from darkroom.storage.hashing import hashed, hashes

COMMIT_ROWS, COMMIT_SECONDS = 2_000, 1.0


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
    count = number = 0
    while batch := list(islice(lines, COMMIT_ROWS)):
        rows = list(_copies(writer, batch))
        if rows:
            writer.commit([stage(writer.store, f"{plan}-duplicates-{number:06d}", to_table(rows))])
        count, number = count + len(rows), number + 1
    return count


def _copies(writer: Writer, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    rows = writer.rows_with_keys(hashes(line["key"] for line in lines))
    originals = {hashed(row["key"]): row for row in rows}
    for line in lines:
        row = originals.get(hashed(line["key"]))
        if row is None or row["key"] != line["key"]:
            continue
        copy = {name: value for name, value in row.items() if name != "schema_version"}
        # It cost nothing: sums over evaluations and seconds stay true.
        yield copy | {"id": line["id"], "evaluations": 0, "seconds": 0.0, "created_at": datetime.now(UTC)}
