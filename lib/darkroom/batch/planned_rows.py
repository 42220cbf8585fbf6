"""What a plan must know of rows and can know without the run: keys, lines, ways through the stages, questions.

Worked out by chunks, in processes of their own; so it goes between them as bytes and arrays.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from darkroom.manifest import Abilities, Task, row_key
from darkroom.manifest.checks import Reading
from darkroom.sampling.plans import SAMPLER_VERSION, Stage, condition_keys, goes_through
from darkroom.storage.hashing import hashes

IN_MEMORY = 64 * 2**20  # bytes

T = TypeVar("T")
Questions = tuple[tuple[str, tuple[str, ...]], ...]
"""Of each text encoder that a row asks, the prompts."""


def _never(encoder: str, prompt: str) -> bool:
    return False


@dataclass(frozen=True)
class Maker:
    """The model and what belongs to it, as far as the rows' keys and their way depend on it.

    encoders: of each stage, the text encoder whose embeddings it attends to, "" where it takes no text.
    finish: what else has a say in every picture (a watermark); judge: in that of a row with candidates (a scorer).
    too_long: whether a text encoder, by its name, would cut a prompt.
    """

    revision: str
    stages: tuple[Stage, ...]
    default_size: int
    encoders: tuple[str, ...]
    finish: str = ""
    judge: str = ""
    too_long: Callable[[str, str], bool] = _never

    def key(self, task: Task, row: dict[str, Any]) -> str:
        """The row's key: what its picture depends on. row: the task's canonical form."""
        judge = self.judge if _candidates(row) > 1 else ""
        return row_key(task, "+".join(filter(None, (self.revision, self.finish, judge))), SAMPLER_VERSION, row)

    def way(self, row: dict[str, Any]) -> list[Stage]:
        """The stages that a row goes through, in order."""
        return [stage for stage in self.stages if goes_through(row, stage, self.default_size)]

    def without_tokens(self) -> Maker:
        """As it can be sent to another process."""
        return replace(self, too_long=_never)


@dataclass(frozen=True)
class Kind:
    """What rows may share. stages: numbers; size: pixels of the largest; chosen: among candidates."""

    task: str
    stages: tuple[int, ...]
    size: int
    chosen: bool


@dataclass(frozen=True)
class PlannedRows:
    """Rows in the manifest's order.

    ids, keys: uint64 [N], hashes; lines: JSON of id, key and canonical row; tails: what a line of work has beside;
    asked, kind: int [N], indices of each row's questions and kind in `questions` and `all_kinds`.
    """

    ids: np.ndarray
    keys: np.ndarray
    lines: list[bytes]
    tails: list[bytes]
    asked: np.ndarray
    kind: np.ndarray
    questions: list[Questions]
    all_kinds: list[Kind]

    def __len__(self) -> int:
        return len(self.lines)

    def pack(self) -> bytes:
        return zlib.compress(pickle.dumps(self), 1)

    @classmethod
    def unpack(cls, packed: bytes) -> PlannedRows:
        return pickle.loads(zlib.decompress(packed))

    def where(self, mask: np.ndarray) -> PlannedRows:
        """The rows, bool [N], for which it holds, and what they ask."""
        if mask.all():
            return self
        at = np.flatnonzero(mask)
        used, asked = np.unique(self.asked[at], return_inverse=True)
        return PlannedRows(
            self.ids[at],
            self.keys[at],
            [self.lines[index] for index in at],
            [self.tails[index] for index in at],
            asked,
            self.kind[at],
            [self.questions[index] for index in used],
            self.all_kinds,
        )

    def first(self, count: int) -> PlannedRows:
        return self.where(np.arange(len(self)) < count)

    def kinds(self) -> Iterator[tuple[Kind, int]]:
        """How many there are of each kind."""
        for index, count in zip(*np.unique(self.kind, return_counts=True), strict=True):
            yield self.all_kinds[index], int(count)


@dataclass(frozen=True)
class PlanRows:
    """From the tasks of a chunk to its planned rows, packed; it can be sent to another process."""

    maker: Maker

    def __call__(self, tasks: list[Task]) -> bytes:
        return self.plan(tasks).pack()

    def plan(self, tasks: list[Task]) -> PlannedRows:
        ids: list[str] = []
        keys: list[str] = []
        lines: list[bytes] = []
        tails: list[bytes] = []
        asked = _Numbers[Questions]()
        kind = _Numbers[Kind]()
        for task in tasks:
            row = task.canonical()
            key = self.maker.key(task, row)
            row_id = task.id or key
            ids.append(row_id)
            keys.append(key)
            lines.append(_to_json({"id": row_id, "key": key, "row": row}).encode())
            way = self.maker.way(row)
            tails.append(b'"prompts": ' + _to_json(prompts_of(row)).encode())
            asked.add(self._questions(row, way))
            sizes = [stage.size for stage in way]
            kind.add(Kind(row["task"], tuple(stage.number for stage in way), max(sizes), _candidates(row) > 1))
        return PlannedRows(
            hashes(ids), hashes(keys), lines, tails, asked.array(), kind.array(), asked.known(), kind.known()
        )

    def _questions(self, row: dict[str, Any], way: list[Stage]) -> Questions:
        encoders = [(self.maker.encoders[stage.number - 1], stage) for stage in way]
        return tuple((encoder, tuple(condition_keys(row, stage))) for encoder, stage in encoders if encoder)


class ReadRows:
    """A manifest that was read and is good, and its planned rows: in memory packed, on disk where they are many (about
    80 bytes a row). So nothing of a run has changed while a manifest may still turn out to be wrong."""

    def __init__(self, uri: str, abilities: Abilities, maker: Maker) -> None:
        """ManifestError with all problems of all rows, StorageError."""
        reading = Reading(uri, abilities, PlanRows(maker.without_tokens()))
        # It lives as long as this object.
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._lengths: list[int] = []
        for packed in reading:
            self._file.write(packed)
            self._lengths.append(len(packed))
        self.manifest = reading.manifest

    def __iter__(self) -> Iterator[PlannedRows]:
        self._file.seek(0)
        for length in self._lengths:
            yield PlannedRows.unpack(self._file.read(length))


class _Numbers(Generic[T]):
    """Values that repeat, as numbers."""

    def __init__(self) -> None:
        self._known: dict[T, int] = {}
        self._numbers: list[int] = []

    def add(self, value: T) -> None:
        self._numbers.append(self._known.setdefault(value, len(self._known)))

    def array(self) -> np.ndarray:
        return np.array(self._numbers, dtype=np.int64)

    def known(self) -> list[T]:
        return list(self._known)


def prompts_of(row: dict[str, Any]) -> list[str]:
    """What a row asks for, as its result row states it: every prompt or "label N", but not the negative one."""
    return [key for key in condition_keys(row) if key != row.get("negative_prompt", "")]


def _candidates(row: dict[str, Any]) -> int:
    return row.get("best_of") or 1


# Made once: json.dumps would make an encoder for every row.
_to_json = json.JSONEncoder(ensure_ascii=False).encode
