"""The whole manifest held against what the model can do, before anything is loaded: every problem in one message.

It is read once, as a stream, in chunks that processes of their own parse and check; what they find is put together in
the manifest's order. Whoever plans with the rows gives a function of theirs along, and gets its answers back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import ValidationError

from darkroom.manifest.abilities import Abilities, as_read
from darkroom.manifest.capabilities import doubts, misfits
from darkroom.manifest.messages import sentences, shown
from darkroom.manifest.problems import ManifestError, Problems
from darkroom.manifest.processes import ordered_map
from darkroom.manifest.readers import Chunk, file_name, read_chunks, read_rows
from darkroom.manifest.sources import Source, find_parts
from darkroom.manifest.sweeps import WrittenRow
from darkroom.manifest.tasks import TASKS, Task, parse_task
from darkroom.manifest.token_limits import Lengths, Prompts
from darkroom.storage import NotFound, without_secrets
from darkroom.storage.hashing import HashSet, hashed, hashes

T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """A manifest without problems.

    base: the folder its relative paths start from, absolute; by_task: rows of each task.
    digest: SHA-256 of the file; of a folder or glob that of its files' digests and names.
    sizes, paired, guidance: the model's, on which depends what a row means, see `as_read`; warnings: what to know
    of rows that can be made.
    """

    uri: str
    base: str
    digest: str
    rows: int
    by_task: dict[str, int]
    sizes: tuple[int, ...] = ()
    paired: bool = False
    usual: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def tasks(self, limit: int | None = None) -> Iterator[Task]:
        """The tasks once more, in order. ManifestError, at its end at the latest, when the manifest is no longer the
        one that was checked."""
        source, digests = find_parts(self.uri), {}
        changed = ManifestError([f"{file_name(self.uri)}: the file changed after it was checked; start again"])
        left = self.rows if limit is None else min(limit, self.rows)
        for chunk in read_chunks(source, digests):
            for row in chunk.rows() if left else ():
                try:
                    task = None if row.problem else parse_task(as_read(row.data, self.sizes, self.paired, self.usual))
                except ValueError:
                    task = None
                if task is None:
                    raise changed
                if left:
                    left -= 1
                    yield task
        if source.digest(digests) != self.digest:
            raise changed


class Reading(Generic[T]):
    """A manifest that is being read: iterating gives work(tasks) for the good rows of each chunk, in order.

    ManifestError at the end for what the user can mend, in whatever row; StorageError when storage fails. Only after
    that is the manifest known to be good, and `manifest` there. work: pickled where it is done elsewhere.
    """

    manifest: Manifest

    def __init__(self, uri: str, abilities: Abilities, work: Callable[[list[Task]], T]) -> None:
        self._uri, self._abilities, self._work = uri, abilities, work
        self._problems = Problems()
        self._doubts = Problems("warnings")
        self._lengths = Lengths(abilities.prompt_tokens, abilities.max_tokens)
        self._ids = HashSet()
        self._twice = HashSet()
        self._by_task: Counter[str] = Counter()
        self._rows = 0

    def __iter__(self) -> Iterator[T]:
        try:
            source, digests = find_parts(self._uri), {}
        except (NotFound, ValueError) as error:
            raise ManifestError([f"{file_name(without_secrets(self._uri))}: {error}"]) from error
        # Counting tokens is the model's, which is not sent about.
        able = replace(self._abilities, prompt_tokens=None)
        check = Check(able, self._work, with_prompts=self._abilities.prompt_tokens is not None)
        for checked in ordered_map(check, read_chunks(source, digests)):
            self._take(checked)
            yield checked.answer
        self._finish(source, digests)

    def _take(self, checked: Checked[T]) -> None:
        for number, where, text in checked.problems:
            self._problems.add(self._rows + number, where, text)
        for number, where, text in checked.doubts:
            self._doubts.add(self._rows + number, where, text)
        self._lengths.take(self._rows, checked.prompts)
        new = self._ids.add(checked.ids)
        self._twice.add(checked.ids[~new])
        self._by_task.update(checked.by_task)
        self._rows += checked.rows

    def _finish(self, source: Source, digests: dict[str, str]) -> None:
        if not self._rows:
            self._problems.add(0, file_name(self._uri), "the manifest has no rows")
        if len(self._twice):
            _add_duplicates(self._problems, self._uri, set(self._twice.values().tolist()))
        if self._problems:
            raise ManifestError(self._problems.lines())
        self.manifest = Manifest(
            uri=self._uri,
            base=source.base,
            digest=source.digest(digests),
            rows=self._by_task.total(),
            by_task=dict(self._by_task),
            sizes=self._abilities.sizes,
            paired=self._abilities.paired,
            usual=self._abilities.usual,
            warnings=(*self._doubts.lines(), *self._lengths.lines(), *_of_pictures(self._by_task)),
        )


def _of_pictures(by_task: Counter[str]) -> Iterator[str]:
    """What becomes of pictures that are not square, said where a row begins with one."""
    count = sum(by_task[name] for name, task in TASKS.items() if "image" in task.model_fields)
    if count:
        yield (
            f"{count:,} row{' begins' if count == 1 else 's begin'} with a picture: one that is not square is cut to "
            "its middle, or padded or stretched where a row's 'fit' says so"
        )


def open_manifest(uri: str, abilities: Abilities) -> Manifest:
    """Reads and checks every row. ManifestError for what the user can mend, StorageError when storage fails."""
    reading = Reading(uri, abilities, _nothing)
    for _ in reading:
        pass
    return reading.manifest


def check(uri: str, abilities: Abilities) -> Iterator[Task]:
    """Tasks of the good rows as they are read; ManifestError at the end if any row was not good."""
    for tasks in Reading(uri, abilities, list):
        yield from tasks


def _nothing(tasks: list[Task]) -> None:
    return None


@dataclass
class Checked(Generic[T]):
    """What is found in a chunk. problems: number of the row within the chunk from 1, place, text; doubts: the same, of
    rows that can be made; rows: good or not; ids: hashes of those that are given; answer: of the work."""

    answer: T
    rows: int
    ids: np.ndarray
    problems: list[tuple[int, str, str]]
    doubts: list[tuple[int, str, str]]
    prompts: Prompts
    by_task: Counter[str]


@dataclass(frozen=True)
class Check(Generic[T]):
    """Parses and checks a chunk; this runs in whatever process."""

    abilities: Abilities
    work: Callable[[list[Task]], T]
    with_prompts: bool

    def __call__(self, chunk: Chunk) -> Checked[T]:
        tasks: list[Task] = []
        problems: list[tuple[int, str, str]] = []
        found = [(0, where, text) for where, text in chunk.doubts]
        ids: list[str] = []
        prompts = Prompts()
        number = 0
        for number, row in enumerate(chunk.rows(), 1):
            if isinstance(given := row.data.get("id"), str):
                ids.append(given)
            task, texts = _checked(row, self.abilities)
            problems += [(number, row.where, text) for text in texts]
            if task is not None and not texts:
                tasks.append(task)
                found += [(number, row.where, text) for text in doubts(task, self.abilities)]
                if self.with_prompts:
                    prompts.add(number, row.where, task)
        by_task = Counter(task.task for task in tasks)
        return Checked(self.work(tasks), number, hashes(ids), problems, found, prompts, by_task)


def _checked(row: WrittenRow, abilities: Abilities) -> tuple[Task | None, list[str]]:
    if row.problem:
        return None, [row.problem]
    try:
        task = parse_task(as_read(row.data, abilities.sizes, abilities.paired, abilities.usual))
    except ValidationError as error:
        return None, sentences(error, row.data)
    except ValueError as error:
        return None, [str(error)]
    return task, list(misfits(task, abilities))


def _add_duplicates(problems: Problems, uri: str, suspects: set[int]) -> None:
    """Hashes are all that is kept of the ids; only when two are equal are the rows read again, to name both places."""
    places: dict[str, tuple[str, int, str, int]] = {}
    for number, row in enumerate(read_rows(uri), 1):
        given = row.data.get("id")
        if not isinstance(given, str) or hashed(given) not in suspects:
            continue
        first, second, where, count = places.get(given, (row.where, 0, "", 0))
        places[given] = (first, number if count == 1 else second, row.where if count == 1 else where, count + 1)
    for given, (first, number, where, count) in places.items():
        if count > 1:
            often = "twice" if count == 2 else f"{count:,} times"
            problems.add(number, where, f"the id {shown(given)} is given {often}, first in {first}")
