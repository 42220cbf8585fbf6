"""Units of work: the rows that one task reads, that travel through the actors together and are committed as one shard.

Cutting is ours because Ray would make one block of a small file, and a block is lost or kept whole. How many rows a
unit has depends on the workers, which are not known while the manifest is read: a unit is a part of a file.

    RUN/manifest/PLAN/000000.jsonl   every row of the manifest: id, key, canonical form (what `audit` goes by)
    RUN/work/PLAN/000000.jsonl       the rows to be made, with the prompts of each and flags that it begins with

Every worker process of a job imports this module, and must not wait for torch.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store

READERS = WRITERS = 16  # files at once: on S3 each waits for an answer


@dataclass(frozen=True)
class Unit:
    """Rows start .. stop - 1 of a file of work."""

    number: int
    part: int
    start: int
    stop: int


def read_files(store: Store, folder: str) -> Iterator[bytes]:
    """Every file of a folder, in order; a few are read ahead."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="lines") as pool:
        for key in store.list(f"{folder}/"):
            waiting.append(pool.submit(store.read, key))
            if len(waiting) == READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_lines(store: Store, folder: str) -> Iterator[dict[str, Any]]:
    """Every line of a folder that `cut` wrote, in order."""
    for data in read_files(store, folder):
        yield from map(json.loads, data.splitlines())


def read_unit(store: Store, plan: str, unit: Unit) -> list[dict[str, Any]]:
    """A unit's rows."""
    lines = store.read(f"work/{plan}/{unit.part:06d}.jsonl").splitlines()
    return [json.loads(line) for line in lines[unit.start : unit.stop]]


def unit_name(plan: str, number: int) -> str:
    """What the unit is called in the ledger."""
    return f"{plan}-{number:06d}"


class Files:
    """Files of a plan, written by several threads; all are there when the block ends. With no store none is written."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="plan")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        for future in self._waiting if kind is None else ():
            future.result()

    def write(self, key: str, data: bytes) -> None:
        """StorageError, of this write or an earlier one."""
        if self._store is None:
            return
        self._waiting.append(self._pool.submit(self._store.write, key, data))
        if len(self._waiting) > 4 * WRITERS:
            self._waiting.popleft().result()


class LineWriter:
    """JSON lines, each already written out, gathered into files of so many."""

    def __init__(self, files: Files, folder: str, per_file: int) -> None:
        self._out, self.folder, self.per_file = files, folder, per_file
        self.files = 0
        self._buffer: list[bytes] = []

    def add(self, lines: list[bytes]) -> None:
        self._buffer += lines
        whole = len(self._buffer) // self.per_file * self.per_file
        for first in range(0, whole, self.per_file):
            self._write(self._buffer[first : first + self.per_file])
        self._buffer = self._buffer[whole:]

    def flush(self) -> None:
        if self._buffer:
            self._write(self._buffer)
        self._buffer = []

    def _write(self, lines: list[bytes]) -> None:
        self._out.write(f"{self.folder}/{self.files:06d}.jsonl", b"\n".join(lines))
        self.files += 1
