"""What a PNG file says of itself, and whether it is whole: Pillow draws one that is cut off in its pixels as if it were
all there, and refuses a whole one for the length of a text that nobody asked for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DRAWN = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # those that may say which side is up
_MOST_TEXT, _MOST_PROFILE, _PIECE = 2**16, 16 * 2**20, 2**20  # bytes
# Adam7 (PNG, third edition, 8.1): first column and row of each pass, and how far its pixels are apart.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


_COLOURS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
Primaries = tuple[float, ...]
SRGB: Primaries = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# By their numbers in ITU-T H.273: BT.709, which is sRGB's, BT.2020 and Display P3. Curves of video are shown by 2.4.
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_CURVES = {13: None, 4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0, **dict.fromkeys((1, 6, 14, 15), 1 / 2.4)}
_BRIGHTER = {16: "PQ", 18: "HLG"}


class Damaged(ValueError):
    """The file is no whole PNG."""


class Unmeant(ValueError):
    """The file is whole, and its colours are none that are read."""


@dataclass(frozen=True)
class PngFile:
    """size: (width, height); depth: bits a sample; profile: ICC; gamma: that made the samples of light, None for sRGB's
    curve; primaries: chromaticities x, y of white, red, green and blue, None for sRGB's. Where several chunks speak of
    colours, cICP comes before iCCP, that before sRGB, and last gAMA and cHRM (PNG, third edition, 4.3).
    drawn: the file without whatever has no say in the picture."""

    size: tuple[int, int]
    depth: int
    profile: bytes | None
    gamma: float | None
    drawn: bytes
    primaries: Primaries | None = None

    @property
    def id_step(self) -> int:
        """What Pillow multiplies grey levels of 2 and 4 bits by, so that the highest is 255."""
        return {2: 85, 4: 17}.get(self.depth, 1)


def size_of(data: bytes) -> tuple[tuple[int, int], bool]:
    """(width, height), from the header alone, and whether Pillow has a byte for a pixel. Damaged."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Damaged("it has no header")
    return struct.unpack(">II", data[16:24]), data[24] <= 8 and data[25] in (0, 3)


def read_png(data: bytes) -> PngFile:
    """Damaged where the file ends too early, or its pixels do."""
    size, _ = size_of(data)
    depth, colours, _, _, interlaced = data[24:29]
    chunks = list(_chunks(data))
    found = {kind: body for kind, body, _ in reversed(chunks)}
    _check_pixels([body for kind, body, _ in chunks if kind == b"IDAT"], _length(size, depth, colours, interlaced))
    kept = [whole for kind, body, whole in chunks if kind in _DRAWN or _says_what_is_up(kind, body)]
    profile, gamma, primaries = _colours({kind: bytes(found[kind]) for kind in _COLOURS if kind in found})
    drawn = data if len(kept) == len(chunks) else b"".join([SIGNATURE, *kept])
    return PngFile(size, depth, profile, gamma, drawn, primaries)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Each chunk's name, body and whole; the last is IEND."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        kind = data[at + 4 : at + 8]
        yield kind, view[at + 8 : end - 4], view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise Damaged("it ends before its end is marked")


def _length(size: tuple[int, int], depth: int, colours: int, interlaced: int) -> int:
    """Bytes of the unpacked pixels: each line begins with a byte for its filter."""
    width, height = size
    bits = depth * _CHANNELS.get(colours, 1)
    whole = ((0, 0, 1, 1),)
    passes = [
        (-(-(width - left) // across), -(-(height - top) // down))
        for left, top, across, down in (_PASSES if interlaced else whole)
    ]
    return sum(lines * (1 + -(-columns * bits // 8)) for columns, lines in passes if columns > 0 and lines > 0)


def _check_pixels(bodies: list[memoryview], wanted: int) -> None:
    """Unpacks the pixels piece by piece, to keep none of them."""
    inflater, length = zlib.decompressobj(), 0
    try:
        for body in bodies:
            rest: bytes | memoryview = body
            while rest and not inflater.eof and length <= wanted:
                length += len(inflater.decompress(rest, _PIECE))
                rest = inflater.unconsumed_tail
        while not inflater.eof and length <= wanted and (more := inflater.decompress(b"", _PIECE)):
            length += len(more)
    except zlib.error:
        raise Damaged("its pixels are damaged") from None
    if length < wanted or not (inflater.eof or length > wanted):
        raise Damaged("its pixels are cut off")


def _says_what_is_up(kind: bytes, body: memoryview) -> bool:
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or len(body) > _MOST_TEXT:
        return False
    text = bytes(body)
    return text.startswith(_TEXTS) and (kind == b"tEXt" or len(_inflated(_packed(kind, text), _PIECE)) < _PIECE)


def _packed(kind: bytes, text: bytes) -> bytes:
    """The part of a text that may be compressed."""
    return text.split(b"\0", 1)[1][1:] if kind == b"zTXt" else text.split(b"\0", 4)[-1]


def _profile(body: bytes) -> bytes | None:
    """None where it is damaged or larger than any in use: the picture is drawn all the same."""
    profile = _inflated(body.partition(b"\0")[2][1:], _MOST_PROFILE)
    return profile if 0 < len(profile) < _MOST_PROFILE else None


def _inflated(packed: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return b""


def _colours(found: dict[bytes, bytes]) -> tuple[bytes | None, float | None, Primaries | None]:
    """profile, gamma, primaries. Unmeant where no eight bits of sRGB can be made of them."""
    if cicp := found.get(b"cICP"):
        return None, *_code_points(cicp)
    if profile := _profile(found.get(b"iCCP", b"")):
        return profile, None, None
    if b"sRGB" in found:
        return None, None, None
    corners = found.get(b"cHRM", b"")
    primaries = tuple(value / 100_000 for value in struct.unpack(">8I", corners)) if len(corners) == 32 else None
    return None, _gamma(found.get(b"gAMA", b"")), primaries


def _code_points(body: bytes) -> tuple[float | None, Primaries]:
    """Of colour primaries, transfer function, matrix and range (ITU-T H.273, tables 2 and 3)."""
    if len(body) != 4:
        raise Damaged("its cICP is cut off")
    primaries, transfer, matrix, full = body
    if transfer in _BRIGHTER:
        raise Unmeant(f"it has the brightness of {_BRIGHTER[transfer]} (cICP); save it with the colours of sRGB")
    if primaries not in _PRIMARIES or transfer not in _CURVES or matrix or not full:
        numbers = ", ".join(map(str, body))
        raise Unmeant(f"its colours are of a kind that is not known (cICP {numbers}); save it with those of sRGB")
    return _CURVES[transfer], _PRIMARIES[primaries]


def _gamma(body: bytes) -> float | None:
    """The exponent that made the samples of light (PNG, 11.3.2.2)."""
    value = struct.unpack(">I", body)[0] / 100_000 if len(body) == 4 else 0.0
    return value or None
