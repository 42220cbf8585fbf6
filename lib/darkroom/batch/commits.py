"""From receipts of units to rows that count: what the run's owner does while workers go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from darkroom.batch.write_results import Receipt
from darkroom.runs import Shard, Writer
from darkroom.storage import StorageError

COMMIT_ROWS, COMMIT_SECONDS = 2_000, 1.0


class Commits:
    """Commits the units' shards as they come: the first at once, then about once a second, several by one record.
    totals: of what is committed. heard: told of each unit, once its rows count."""

    def __init__(self, writer: Writer, heard: Callable[[Receipt], None]) -> None:
        self.writer, self.heard = writer, heard
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
                self.flush()

    def flush(self) -> None:
        receipts, self._waiting = self._waiting, []
        self.writer.commit([Shard.from_json(receipt.shard) for receipt in receipts])
        self._flushed = time.monotonic()
        for receipt in receipts:
            self.totals.update(ok=receipt.ok, failed=receipt.failed, evaluations=receipt.evaluations)
            self.heard(receipt)
