"""Units of work: the rows that one task reads, that travel through the actors together and are committed as one shard.

Cutting is ours because Ray would make one block of a small file, and a block is lost or kept whole. How many rows a
unit has depends on the workers, which are not known while the manifest is read: a unit is a part of a file.

    RUN/manifest/PLAN/000000.jsonl   every row of the manifest: id, key, canonical form (what `audit` goes by)
    RUN/work/PLAN/000000.jsonl       the rows to be made, with the prompts of each and flags that it begins with

Every worker process of a job imports this module, and must not wait for torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store


@dataclass(frozen=True)
class Unit:
    """Rows start .. stop - 1 of a file of work."""

    number: int
    part: int
    start: int
    stop: int


def read_lines(store: Store, folder: str) -> Iterator[dict[str, Any]]:
    """Every line of a folder that `cut` wrote, in order."""
    for key in store.list(f"{folder}/"):
        yield from map(json.loads, store.read(key).splitlines())


def read_unit(store: Store, plan: str, unit: Unit) -> list[dict[str, Any]]:
    """A unit's rows."""
    lines = store.read(f"work/{plan}/{unit.part:06d}.jsonl").splitlines()
    return [json.loads(line) for line in lines[unit.start : unit.stop]]


def unit_name(plan: str, number: int) -> str:
    """What the unit is called in the ledger."""
    return f"{plan}-{number:06d}"


class LineWriter:
    """JSON lines, gathered into files of so many; with no store they are only counted."""

    def __init__(self, store: Store | None, folder: str, per_file: int) -> None:
        self.store, self.folder, self.per_file = store, folder, per_file
        self.files = 0
        self._buffer: list[str] = []

    def add(self, line: dict[str, Any]) -> None:
        self._buffer.append(json.dumps(line, ensure_ascii=False))
        if len(self._buffer) == self.per_file:
            self.flush()

    def flush(self) -> None:
        if not self._buffer:
            return
        if self.store is not None:
            self.store.write(f"{self.folder}/{self.files:06d}.jsonl", "\n".join(self._buffer).encode())
        self.files += 1
        self._buffer = []
