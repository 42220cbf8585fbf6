"""The runs and trainings below a folder, looked for folder by folder: within a run there may be a million files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from darkroom.runs.reading import read_run_record
from darkroom.storage import StorageError, Store, open_store

# What may come of reading files that others wrote, or half wrote.
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, OSError, StorageError,
    pa.ArrowException,
)  # fmt: skip
DEEPEST = 6  # folders below the one that was named
MOST = 5_000  # folders to look into: a studio that was started on "/" must open too
MORE = "(more)"  # the name of what stands last for those that were left out
_AT_ONCE = 16


@dataclass(frozen=True)
class Found:
    """A folder with a run.json. name: its path below the folder that was searched, "" for that itself; record: what
    run.json says; problem: why it cannot be read, "" where it can."""

    uri: str
    name: str
    record: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_training(self) -> bool:
        return self.record.get("kind") == "training"


def find_runs(uri: str) -> list[Found]:
    """Every run and training below a folder or s3:// uri, by name. Within a run none is looked for; a folder that
    cannot be listed counts as a run with a problem, unless it is `uri` itself: StorageError. So do all those that are
    too many to be looked into, as MORE."""
    store = open_store(uri)
    store.folders()  # raises where there is nothing to search in
    found: list[Found] = []
    level, seen, left = [""], 0, 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="runs") as pool:
        for _ in range(DEEPEST + 1):
            left += max(0, len(level) - (MOST - seen))
            level = level[: MOST - seen]
            seen += len(level)
            looks = list(pool.map(lambda name: _look(store, name), level))
            found += [look for look in looks if isinstance(look, Found)]
            level = [name for look in looks if isinstance(look, list) for name in look]
    found.sort(key=lambda one: one.name)
    if left:
        why = f"{MOST:,} folders of {store.root} were looked into, {left:,} more were not, nor what lies below them"
        found.append(Found(store.root, MORE, problem=f"{why}: start the studio on a folder further down"))
    return found


def _look(store: Store, name: str) -> Found | list[str]:
    """What is in a folder: a run, or the folders to look into next."""
    place = store.uri(name) if name else store.root
    try:
        inner = open_store(place)
        if inner.exists("run.json"):
            return Found(place, name, read_run_record(inner))
        return list(_below(name, inner.folders()))
    except DAMAGED as error:
        return Found(place, name, problem=str(error))


def _below(name: str, folders: list[str]) -> Iterator[str]:
    for folder in folders:
        if not folder.startswith("."):
            yield f"{name}/{folder}" if name else folder
