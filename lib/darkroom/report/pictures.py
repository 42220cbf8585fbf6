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
            key = image_key_of(shown.image_path)
            try:
                data = self._store.read(key)
            except NotFound as error:
                raise ValueError(f"{where} is gone: {key}") from error
        else:
            data = self._inline(shown)
        return decode(data, where)

    def source(self, shown: Shown, side: int) -> np.ndarray | None:
        """The picture the row began with, as the model saw it, at most `side` pixels wide: uint8 [S, S, 3].

        None if it cannot be read, or is no longer the one that was used: a report is not the place to complain.
        """
        try:
            data = read_uri(shown.row["source_uri"])
            if hashlib.sha256(data).hexdigest() != shown.row["source_sha256"]:
                return None
            fit = shown.parameters.get("fit", "crop")
            small = min(side, *stored_size(data, "the source"))
            return read_squares(data, "the source", [small], fit=fit).arrays[small]
        except (StorageError, ValueError):
            return None

    def mask(self, shown: Shown, side: int) -> np.ndarray | None:
        """The row's mask at the picture's size, white where it was painted; None if it cannot be read."""
        try:
            data, words = read_uri(_mask_uri(shown)), shown.parameters
            mask = read_mask(data, "the mask", [side], words.get("fit", "crop"), words.get("mask_value"))
        except (StorageError, ValueError):
            return None
        return np.repeat(mask.arrays[side], 3, axis=2)

    def map(self, key: str) -> np.ndarray | None:
        """What a control network saw, uint8 [H, W, 3]; None if it cannot be read."""
        try:
            return decode(self._store.read(key), "the map")
        except (StorageError, ValueError):
            return None

    def _inline(self, shown: Shown) -> bytes:
        with self._lock:  # one shard at a time, because with pictures inside it is large; neighbours ask for the same
            if self._shard[0] != shown.shard.name:
                table = self._ledger.table(shown.shard)
                pictures = pc.struct_field(table["image"], "bytes").to_pylist()
                ids = table["id"].to_pylist()
                self._shard = (shown.shard.name, dict(zip(ids, pictures, strict=True)))
            return self._shard[1][shown.row["id"]] or b""


def _mask_uri(shown: Shown) -> str:
    """Paths of a row are relative to its manifest, which may be anywhere by now; the source's uri is on record."""
    image, mask = shown.parameters["image"], shown.parameters["mask"]
    if "://" in image or image.startswith("/"):
        return mask if "://" in mask or mask.startswith("/") else ""
    anywhere = "/manifest/folder"
    beside = posixpath.relpath(posixpath.join(anywhere, mask), posixpath.dirname(posixpath.join(anywhere, image)))
    return join(posixpath.dirname(shown.row["source_uri"]), mask if "://" in mask or mask[:1] == "/" else beside)
