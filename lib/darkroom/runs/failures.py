"""Failed rows of a run: which of them are to be tried again, how often they were, and all of them as a manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkroom.manifest.inline_rows import PICTURES
from darkroom.manifest.sources import find_parts
from darkroom.phases import plural
from darkroom.runs.ledger import Damaged, Ledger
from darkroom.runs.log import Index, Shard
from darkroom.runs.reading import Run, open_run
from darkroom.storage import Store, folder_of, join, open_store

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


def failed_rows(uri: str, only: str | None = None, out: str | None = None) -> list[FailedRow]:
    """Those of a run, in the order of its manifest, also where a limit kept them from its last job. only: classes of
    errors, joined by commas. out: the file that will hold them; unless it lies beside the manifest, their pictures'
    paths become absolute, to lead there from anywhere. NoRun; ValueError for a class that no row failed by;
    StorageError."""
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
    rows = []
    for row in _asked(run, {*errors}):
        error = errors[row["id"]]
        rows.append(FailedRow(row, error["error"], error["error_class"]))
    base = _base(run.record["manifest"]) if rows else ""
    if not rows or (out is not None and folder_of(out) == base):
        return rows
    return [replace(failed, row=_absolute(failed.row, base)) for failed in rows]


def _asked(run: Run, ids: set[str]) -> Iterator[dict[str, Any]]:
    """What the rows of these ids ask for, in the manifest's order; then those that a limit kept from the last plan."""
    store = open_store(run.uri)
    for key in store.list(f"manifest/{run.record['plan']}/"):
        for line in map(json.loads, store.read(key).splitlines()):
            if line["id"] in ids:
                ids.remove(line["id"])
                yield {"id": line["id"]} | line["row"]
    if not ids:
        return
    rows = run.rows(["id", "parameters"])
    for row in rows.filter(pc.is_in(rows["id"], pa.array(sorted(ids), pa.string()))).to_pylist():
        yield {"id": row["id"]} | json.loads(row["parameters"])


def _base(manifest: dict[str, Any]) -> str:
    """The folder that the paths in a run's manifest start from; records of earlier versions do not name it."""
    return open_store(manifest["base"] if "base" in manifest else find_parts(manifest["uri"]).base).root


def _absolute(value: Any, base: str) -> Any:
    """The same with the paths of its pictures, and of its parts', read from `base`."""
    if isinstance(value, list):
        return [_absolute(part, base) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: _absolute(item, base) for key, item in value.items()}
    for key in PICTURES:
        if isinstance(found.get(key), str):
            with suppress(ValueError):  # a path that leads nowhere, by which the row failed
                found[key] = join(base, found[key])
    return found


def describe_failed(rows: list[FailedRow]) -> str:
    """What they failed by, for people."""
    if not rows:
        return "no row failed"
    counted = f"{plural(len(rows), 'row')} failed{_counted(Counter(row.kind for row in rows))}"
    return "\n".join([counted, *(f"  {row.row['id']}: {row.error}" for row in rows)])


def _counted(classes: Counter[str]) -> str:
    return ": " * bool(classes) + ", ".join(f"{count:,} {name}" for name, count in classes.most_common())
