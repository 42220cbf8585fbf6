"""64 bits that stand for a text, and sets of them: what is kept of the ids and keys of millions of rows.

Two different texts of a million share their bits once in 40 million such sets, of a hundred million once in 4,000:
whoever would lose something by that holds the texts themselves against each other before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def hashed(text: str) -> int:
    """The 64 bits of a text, as an int >= 0."""
    return int.from_bytes(_digest(text))


def hashes(texts: Iterable[str]) -> np.ndarray:
    """uint64 [N], one for each text: what `hashed` says of it."""
    return np.frombuffer(b"".join(map(_digest, texts)), dtype=">u8").astype(np.uint64)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


class HashSet:
    """Hashes as sorted arrays, 8 bytes each, where a Python set takes about 90. Each array is at least twice as long as
    the next, so that adding N in any number of parts sorts each of them log2(N) times at most."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def values(self) -> np.ndarray:
        """uint64 [N], in no order."""
        return np.concatenate([np.empty(0, np.uint64), *self._runs])

    def contains(self, values: np.ndarray) -> np.ndarray:
        """bool [N]: which of these, uint64 [N], are in the set."""
        found = np.zeros(len(values), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, values), len(run) - 1)
            found |= run[places] == values
        return found

    def add(self, values: np.ndarray) -> np.ndarray:
        """Takes these, uint64 [N], in. bool [N]: which of them are new, the first of equal ones alone."""
        new = ~self.contains(values)
        _, first = np.unique(values, return_index=True)
        once = np.zeros(len(values), dtype=bool)
        once[first] = True
        new &= once
        run = np.sort(values[new])
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)
        return new
