"""Failed rows of a run: which of them are to be tried again, and how often they were."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from darkroom.runs.ledger import Damaged, Ledger
from darkroom.runs.log import Index, Shard
from darkroom.storage import Store

_KEPT = 64  # shards whose rows were looked at
_COLUMNS = ["error_class", "attempts"]


class Failures:
    """rerun: the classes of errors whose rows are tried again; None: all."""

    def __init__(self, store: Store, rerun: frozenset[str] | None = None) -> None:
        self._ledger, self._rerun = Ledger(store), rerun
        self._rows = lru_cache(_KEPT)(self._read)

    def of(self, index: Index, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of failed rows, uint64 hashes [N] of their ids: bool [N], whether they are tried again, and int64 [N], how
        often they were tried. StorageError."""
        again, attempts = np.ones(len(ids), dtype=bool), np.ones(len(ids), dtype=np.int64)
        for shard in index.holding(ids):
            try:
                classes, tried = self._rows(shard)
            except Damaged:
                continue
            _, here, there = np.intersect1d(ids, shard.ids, return_indices=True)
            attempts[here] = tried[there]
            if self._rerun is not None:
                again[here] = [classes[place] in self._rerun for place in there]
        return again, attempts

    def _read(self, shard: Shard) -> tuple[list[str], np.ndarray]:
        table = self._ledger.table(shard, _COLUMNS)
        return table["error_class"].to_pylist(), table["attempts"].fill_null(1).to_numpy().astype(np.int64)
