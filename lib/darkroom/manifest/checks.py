"""The whole manifest held against what the model can do, before anything is loaded: every problem in one message."""

from __future__ import annotations

import hashlib
import itertools
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from darkroom.manifest.capabilities import Abilities, in_pixels, misfits
from darkroom.manifest.messages import sentences, shown
from darkroom.manifest.problems import ManifestError, Problems
from darkroom.manifest.readers import file_name, read_rows, rows_in
from darkroom.manifest.sweeps import Row
from darkroom.manifest.tasks import Task, parse_task
from darkroom.manifest.token_limits import Lengths
from darkroom.storage import NotFound, read_uri
from darkroom.storage.hashing import hashed


@dataclass(frozen=True)
class Manifest:
    """A manifest without problems.

    base: the folder its relative paths start from, absolute; digest: SHA-256 of the file; by_task: rows of each task.
    sizes: the model's, which a `size: stage2` stands for; warnings: what to know of rows that can be made.
    """

    uri: str
    base: str
    digest: str
    rows: int
    by_task: dict[str, int]
    sizes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    def tasks(self, limit: int | None = None) -> Iterator[Task]:
        """The tasks once more, in order. ManifestError when the file is no longer the one that was checked."""
        content = _content(self.uri)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ManifestError([f"{file_name(self.uri)}: the file changed after it was checked; start again"])
        for row in itertools.islice(rows_in(self.uri, content), limit):
            yield parse_task(in_pixels(row.data, self.sizes))


def open_manifest(uri: str, abilities: Abilities) -> Manifest:
    """Reads and checks every row. ManifestError for what the user can mend, StorageError when storage fails."""
    content = _content(uri)
    lengths = Lengths(abilities.prompt_tokens, abilities.max_tokens)
    checked = _checked(lambda: rows_in(uri, content), file_name(uri), abilities, lengths)
    by_task = Counter(task.task for task in checked)
    return Manifest(
        uri=uri,
        base=_folder(uri),
        digest=hashlib.sha256(content).hexdigest(),
        rows=by_task.total(),
        by_task=dict(by_task),
        sizes=abilities.sizes,
        warnings=lengths.lines(),
    )


def check(uri: str, abilities: Abilities) -> Iterator[Task]:
    """Tasks of the good rows as they are read; ManifestError at the end if any row was not good."""
    return _checked(lambda: read_rows(uri), file_name(uri), abilities, Lengths())


def _folder(uri: str) -> str:
    folder, slash, _ = uri.rpartition("/")
    # Absolute, because the workers that will open the images stand in other folders.
    return folder if "://" in uri else os.path.abspath(os.path.expanduser(folder or slash))


def _content(uri: str) -> bytes:
    try:
        return read_uri(uri)
    except (NotFound, ValueError) as error:
        raise ManifestError([f"{file_name(uri)}: {error}"]) from error


def _checked(rows: Callable[[], Iterator[Row]], name: str, abilities: Abilities, lengths: Lengths) -> Iterator[Task]:
    problems = Problems()
    ids = array("Q")
    number = 0
    for number, row in enumerate(rows(), 1):
        texts = [row.problem] if row.problem else []
        if isinstance(row.data.get("id"), str):
            ids.append(hashed(row.data["id"]))
        if not texts:
            try:
                task = parse_task(in_pixels(row.data, abilities.sizes))
            except ValidationError as error:
                texts = sentences(error, row.data)
            except ValueError as error:
                texts = [str(error)]
            else:
                texts = list(misfits(task, abilities))
        for text in texts:
            problems.add(number, row.where, text)
        if not texts:
            lengths.add(number, row.where, task)
            yield task
    if not number:
        problems.add(0, name, "the manifest has no rows")
    _add_duplicates(problems, rows, ids)
    if problems:
        raise ManifestError(problems.lines())


def _add_duplicates(problems: Problems, rows: Callable[[], Iterator[Row]], ids: array[int]) -> None:
    """Hashes are all that is kept of the ids; only when two are equal are the rows read again, to name both places."""
    hashes, counts = np.unique(np.frombuffer(ids, dtype=np.uint64), return_counts=True)
    suspects = set(hashes[counts > 1].tolist())
    if not suspects:
        return
    places: dict[str, tuple[str, int, str, int]] = {}
    for number, row in enumerate(rows(), 1):
        given = row.data.get("id")
        if not isinstance(given, str) or hashed(given) not in suspects:
            continue
        first, second, where, count = places.get(given, (row.where, 0, "", 0))
        places[given] = (first, number if count == 1 else second, row.where if count == 1 else where, count + 1)
    for given, (first, number, where, count) in places.items():
        if count > 1:
            often = "twice" if count == 2 else f"{count:,} times"
            problems.add(number, where, f"the id {shown(given)} is given {often}, first in {first}")
