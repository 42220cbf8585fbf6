"""An object of a store as a file to seek in, for readers that need only parts of it."""

from __future__ import annotations

import io
import os

from darkroom.storage.stores import Store


class StoredFile(io.RawIOBase):
    """Read-only; every read is a request, so it is for readers that ask for much at once, as Parquet's does."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key, self._at = store, key, 0
        self._size = store.size(key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        count = self._size - self._at if size is None or size < 0 else min(size, self._size - self._at)
        data = self._store.read_part(self._key, self._at, count) if count > 0 else b""
        self._at += len(data)
        return data
