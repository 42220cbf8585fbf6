"""Gzip files as streams of what is in them: by pieces, and never many times what a file of rows could be."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, cast

from darkroom.manifest.texts import BadText

PIECE = 2**16  # packed bytes that are looked at together
# A text of long prompts that differ in their seeds is some hundred times as long as it is packed, zeros are a thousand.
FREE, MOST_TIMES = 64 * 2**20, 300
GZIP = 31  # zlib's number for it


class Unpacking(io.RawIOBase):
    """What a gzip file, of one member or several, unpacks to. Reading raises BadText where it is none, is cut short or
    is a flood."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._unpacker = packed, zlib.decompressobj(GZIP)
        self._waiting = b""
        self._taken = self._given = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not (data or self._ended):
            if self._unpacker.eof:
                self._waiting = self._unpacker.unused_data.lstrip(b"\0")  # which tapes are filled up with
                self._unpacker = zlib.decompressobj(GZIP)
                self._ended = not (self._waiting or self._fill())
            else:
                data = self._some(len(buffer))
        buffer[: len(data)] = data
        self._given += len(data)
        if self._given > max(FREE, MOST_TIMES * self._taken):
            raise BadText(f"the gzip file unpacks to more than {MOST_TIMES} times its size, and was read no further")
        return len(data)

    def _some(self, most: int) -> bytes:
        """What comes of the bytes that wait, or of the next; may be nothing yet."""
        filled = bool(self._waiting) or self._fill()
        try:
            data = self._unpacker.decompress(self._waiting, most)
        except zlib.error as error:
            raise BadText(f"not a gzip file, or a damaged one ({error})") from None
        self._waiting = self._unpacker.unconsumed_tail
        if not (data or filled or self._unpacker.eof):
            raise BadText("the gzip file is cut short")
        return data

    def _fill(self) -> bool:
        self._waiting = self._packed.read(PIECE)
        self._taken += len(self._waiting)
        return bool(self._waiting)


def unpacked(packed: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(Unpacking(packed), PIECE))
