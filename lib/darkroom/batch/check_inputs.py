"""`--check-inputs`: every picture that rows name is looked at before anything runs, as a worker would read it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any

from darkroom.batch.load_inputs import FETCHES, LoadOptions, look_at
from darkroom.manifest import Manifest, ManifestError, parse_task, read_rows
from darkroom.manifest.abilities import as_read
from darkroom.manifest.problems import KEPT_TEXTS, Problems
from darkroom.storage.hashing import hashed

AHEAD = 8 * FETCHES  # rows that wait for their pictures
# What of a row says how its pictures are read.
PICTURES = ("image", "mask", "components", "control")
HOW = (*PICTURES, "task", "size", "width", "height", "fit", "mask_value", "empty_mask", "full_mask")


def check_inputs(manifest: Manifest, options: LoadOptions, limit: int | None = None) -> int:
    """How many ways there are to read the rows' pictures; each was read once, however many rows ask for it.

    limit: of the rows. ManifestError with all that are missing, broken or do not fit, by the rows' places; StorageError
    for an outage.
    """
    problems, looks = Problems(), _Looks(options)
    waiting: deque[tuple[int, str, Future[list[str]]]] = deque()
    with looks.pool:
        try:
            for number, where, row in _with_pictures(manifest, limit):
                waiting.append((number, where, looks.at(row)))
                while len(waiting) > AHEAD:
                    _take(waiting, problems)
            while waiting:
                _take(waiting, problems)
        except BaseException:
            looks.pool.shutdown(wait=False, cancel_futures=True)
            raise
    if problems:
        raise ManifestError(problems.lines())
    return looks.count


def _with_pictures(manifest: Manifest, limit: int | None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, place and canonical form of each row that names a picture."""
    for number, row in enumerate(islice(read_rows(manifest.uri), limit)):
        if any(key in row.data for key in PICTURES):
            with suppress(ValueError):  # a file that changed is told when its digest is seen
                task = parse_task(as_read(row.data, manifest.sizes, manifest.paired, manifest.usual))
                yield number, row.where, task.canonical()


def _take(waiting: deque[tuple[int, str, Future[list[str]]]], problems: Problems) -> None:
    number, where, found = waiting.popleft()
    for text in found.result():
        problems.add(number, where, text)


class _Looks:
    """What is found of each way to read pictures, by the hash of what a row says of it."""

    def __init__(self, options: LoadOptions) -> None:
        self.pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="inputs")
        self.count = 0
        self._options = options
        self._good: set[int] = set()
        self._others: dict[int, Future[list[str]]] = {}  # under way, or not good
        self._nothing: Future[list[str]] = Future()
        self._nothing.set_result([])

    def at(self, row: dict[str, Any]) -> Future[list[str]]:
        told = {name: row[name] for name in HOW if name in row}
        key = hashed(json.dumps(told, sort_keys=True))
        if key in self._good:
            return self._nothing
        if key not in self._others:
            self.count += 1
            self._forget_good()
            self._others[key] = self.pool.submit(lambda: list(look_at(row, self._options)))
        return self._others[key]

    def _forget_good(self) -> None:
        """So that what is kept of millions of pictures is their hashes, and of bad ones no more than is told."""
        if self.count % AHEAD:
            return
        for key, found in list(self._others.items()):
            if found.done() and not found.exception() and (not found.result() or len(self._others) > KEPT_TEXTS):
                del self._others[key]
                if not found.result():
                    self._good.add(key)
