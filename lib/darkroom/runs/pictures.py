"""Which pictures of a run are there: what lies under images/, held against what its rows say."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from darkroom.runs.ledger import READERS, Damaged, Ledger
from darkroom.runs.log import Index, Shard
from darkroom.storage import Store, image_key, image_key_of, video_key
from darkroom.storage.hashing import hashes

MANY = 10_000  # rows, whose pictures are listed folder by folder, several at once
_FOLDERS = 256  # of images/, by the first byte of a row's key
_KEPT = 64  # shards whose rows were looked at


class Pictures:
    """A listing of images/, in 8 bytes a picture. broken: uint64 hashes of ids whose picture is known not to be whole,
    wherever it lies."""

    def __init__(self, store: Store, rows: int, broken: np.ndarray | None = None) -> None:
        """rows: of the run, about. StorageError."""
        self._ledger = Ledger(store)
        self._broken = np.empty(0, dtype=np.uint64) if broken is None else broken
        self._there = np.sort(_listed(store, rows))
        self._uris = lru_cache(_KEPT)(self._read_uris)

    def gone(
        self, index: Index, ids: Sequence[str], keys: Sequence[str], filmed: Sequence[bool] | None = None
    ) -> np.ndarray:
        """bool [N]: whether the pictures, or the videos, of these good rows of the run are gone or broken. A row says
        itself where its picture lies, and is asked if nothing lies where it usually does: it may have it inside, or be
        a duplicate. filmed: whether a row has a video; None: none has."""
        numbers = hashes(ids)
        missing = ~self._holds(hashes(map(image_key, ids, keys)))
        if filmed is not None and any(filmed):
            videos = np.flatnonzero(filmed)
            missing[videos] |= ~self._holds(hashes(video_key(ids[place], keys[place]) for place in videos))
        missing[missing] = self._lost(index, numbers[missing])
        return missing | np.isin(numbers, self._broken)

    def _holds(self, wanted: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._there, wanted)
        places[places == len(self._there)] = 0
        return self._there[places] == wanted if len(self._there) else np.zeros(len(wanted), dtype=bool)

    def _lost(self, index: Index, ids: np.ndarray) -> np.ndarray:
        """bool [N]: the same of ids, uint64 [N], by what their rows say."""
        lost = np.ones(len(ids), dtype=bool)
        for shard in index.holding(ids) if len(ids) else ():
            try:
                there = [absent | self._holds(files) for absent, files in self._uris(shard)]
            except Damaged:
                continue
            whole = shard.ids[np.logical_and.reduce(there)]
            lost &= ~np.isin(ids, whole)
        return lost

    def _read_uris(self, shard: Shard) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of the pictures and of the videos of a shard's rows, bool and uint64 [rows]: whether there is no such file,
        as it lies inside or is none, and the hash of its key."""
        columns = self._ledger.table(shard, ["image_uri", "video_uri"]).columns
        found = (column.to_pylist() for column in columns)
        return [(np.array([not uri for uri in uris]), hashes(map(image_key_of, uris))) for uris in found]


def _listed(store: Store, rows: int) -> np.ndarray:
    if rows < MANY:
        return hashes(store.list("images/"))
    with ThreadPoolExecutor(READERS, thread_name_prefix="pictures") as pool:
        folders = (f"images/{number:02x}/" for number in range(_FOLDERS))
        return np.concatenate(list(pool.map(lambda folder: hashes(store.list(folder)), folders)))
