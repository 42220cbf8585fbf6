"""Failed rows of a run: which of them are to be tried again, how often they were, and all of them as a manifest."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc

from darkroom.phases import plural
from darkroom.runs.ledger import Damaged, Ledger
from darkroom.runs.log import Index, Shard
from darkroom.runs.reading import open_run
from darkroom.storage import Store, open_store

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


@dataclass(frozen=True)
class FailedRow:
    """row: as a manifest has it, with its id; error and kind: why it failed, and the class of that."""

    row: dict[str, Any]
    error: str
    kind: str


def failed_rows(uri: str, only: str | None = None) -> list[FailedRow]:
    """Those of a run, in the order of its manifest. only: classes of errors, joined by commas. NoRun; ValueError for a
    class that no row failed by; StorageError."""
    run = open_run(uri)
    found = run.rows(["id", "error", "error_class", "status"])
    failed = found.filter(pc.equal(found["status"], "failed")).to_pylist()
    classes = Counter(row["error_class"] for row in failed)
    wanted = [name.strip() for name in only.split(",")] if only else list(classes)
    if unknown := [name for name in wanted if name not in classes]:
        raise ValueError(
            f"--only names {', '.join(map(repr, unknown))}: no row of {uri} failed by it{_counted(classes)}"
        )
    errors = {row["id"]: row for row in failed if row["error_class"] in wanted}
    store = open_store(uri)
    rows = []
    for key in store.list(f"manifest/{run.record['plan']}/"):
        for line in map(json.loads, store.read(key).splitlines()):
            if line["id"] in errors:
                error = errors[line["id"]]
                rows.append(FailedRow({"id": line["id"]} | line["row"], error["error"], error["error_class"]))
    return rows


def describe_failed(rows: list[FailedRow]) -> str:
    """What they failed by, for people."""
    if not rows:
        return "no row failed"
    counted = f"{plural(len(rows), 'row')} failed{_counted(Counter(row.kind for row in rows))}"
    return "\n".join([counted, *(f"  {row.row['id']}: {row.error}" for row in rows)])


def _counted(classes: Counter[str]) -> str:
    return ": " * bool(classes) + ", ".join(f"{count:,} {name}" for name, count in classes.most_common())
