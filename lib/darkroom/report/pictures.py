"""The pictures a report draws: those of the run, and what they were made from."""

from __future__ import annotations

import hashlib
import posixpath
from threading import Lock

import numpy as np
import pyarrow.compute as pc

from darkroom.report.rows import Shown
from darkroom.runs import Ledger
from darkroom.storage import (
    NotFound,
    Size,
    StorageError,
    Store,
    decode,
    image_key_of,
    join,
    read_mask,
    read_squares,
    read_uri,
    stored_size,
)
from darkroom.storage.hashing import hashed

WHOLE = 8 * 2**20  # bytes of a shard that is read as a whole


class Pictures:
    """Reads pictures of one run. Methods may be called from many threads."""

    def __init__(self, store: Store) -> None:
        self._store, self._ledger = store, Ledger(store)
        self._lock = Lock()
        self._shard: tuple[str, dict[str, bytes | None]] = ("", {})

    def made(self, shown: Shown) -> np.ndarray:
        """The row's picture, uint8 [S, S, 3]; ValueError if it is missing or damaged."""
        where = f"the picture of row {shown.row['id']}"
        if shown.row["image_uri"]:
            key = image_key_of(shown.row["image_uri"])
            try:
                data = self._store.read(key)
            except NotFound as error:
                raise ValueError(f"{where} is gone: {key}") from error
        else:
            data = self._inline(shown)
        return decode(data, where)

    def source(self, shown: Shown, beside: np.ndarray) -> np.ndarray | None:
        """The picture the row began with, as the model saw it, in the shape of its result, [H, W, 3], or smaller where
        its file is: uint8 [h, w, 3].

        None if it cannot be read, or is no longer the one that was used: a report is not the place to complain.
        """
        try:
            data = read_uri(shown.row["source_uri"])
            if hashlib.sha256(data).hexdigest() != shown.row["source_sha256"]:
                return None
            fit = shown.parameters.get("fit", "crop")
            stored, whole = stored_size(data, "the source"), beside.shape[1::-1]
            scale = min(1.0, *(own / side for own, side in zip(stored, whole, strict=True)))
            size = _size(*(max(1, round(scale * side)) for side in whole))
            return read_squares(data, "the source", [size], fit=fit).arrays[size]
        except (StorageError, ValueError):
            return None

    def mask(self, shown: Shown, beside: np.ndarray) -> np.ndarray | None:
        """The row's mask at the size of its result, [H, W, 3], white where it was painted; None if it cannot be
        read."""
        size = _size(*beside.shape[1::-1])
        try:
            data, words = read_uri(_mask_uri(shown)), shown.parameters
            mask = read_mask(data, "the mask", [size], words.get("fit", "crop"), words.get("mask_value"))
        except (StorageError, ValueError):
            return None
        return np.repeat(mask.arrays[size], 3, axis=2)

    def map(self, key: str) -> np.ndarray | None:
        """What a control network saw, uint8 [H, W, 3]; None if it cannot be read."""
        try:
            return decode(self._store.read(key), "the map")
        except (StorageError, ValueError):
            return None

    def _inline(self, shown: Shown) -> bytes:
        with self._lock:  # one shard at a time, because with pictures inside it is large; neighbours ask for the same
            if shown.shard.bytes > WHOLE:  # and of the largest, of which few rows are drawn, those beside the row alone
                places = np.flatnonzero(shown.shard.ids == hashed(shown.row["id"]))
                (found,) = self._ledger.rows(shown.shard, places)
                return found["image"][0].as_py()["bytes"] or b""
            if self._shard[0] != shown.shard.name:
                table = self._ledger.table(shown.shard)
                pictures = pc.struct_field(table["image"], "bytes").to_pylist()
                ids = table["id"].to_pylist()
                self._shard = (shown.shard.name, dict(zip(ids, pictures, strict=True)))
            return self._shard[1][shown.row["id"]] or b""


def _size(width: int, height: int) -> Size:
    return width if width == height else (width, height)


def _mask_uri(shown: Shown) -> str:
    """Paths of a row are relative to its manifest, which may be anywhere by now; the source's uri is on record."""
    image, mask = shown.parameters["image"], shown.parameters["mask"]
    if "://" in image or image.startswith("/"):
        return mask if "://" in mask or mask.startswith("/") else ""
    anywhere = "/manifest/folder"
    beside = posixpath.relpath(posixpath.join(anywhere, mask), posixpath.dirname(posixpath.join(anywhere, image)))
    return join(posixpath.dirname(shown.row["source_uri"]), mask if "://" in mask or mask[:1] == "/" else beside)
