"""Picture files as arrays: every kind of file that people keep pictures in, each process within a bound of memory.

Whatever is wrong with a file is a PictureError in words of ours: Pillow's may quote the file, which need be no picture.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from darkroom.storage import png_files
from darkroom.storage.colour import correction

Mode = Literal["RGB", "L"]
T = TypeVar("T")

MAX_PIXELS = 64_000_000  # that are unpacked, twice as many of one byte; inputs are shrunk to 1024 a side anyway
MAX_DRAFTED = 256_000_000  # of a JPEG, which can be unpacked at a fraction of its size
BUDGET_BYTES = 512_000_000  # for all pictures that a process unpacks at once
LARGEST_BYTES = 800_000_000  # for one of them, then alone
DECODERS = 4  # threads: glibc gives each memory of its own, and keeps there what was given back
BAND_PIXELS = 2**20  # that are brought to their colours at once
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and what it says of a picture that lies on its side

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
# Bytes a pixel while a file is unpacked, its own buffers included; as measured, of Pillow 12 and 13.
_UNPACKING = {"WEBP": 17, "AVIF": 12, "JPEG2000": 24}
_ONE_BYTE = ("1", "L", "P")

# What Pillow's decoders are known to let out on damaged files, besides the OSError they promise.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class PictureError(ValueError):
    """A file that is no picture, or none that is taken."""


class Budget:
    """Memory that threads share: who wants more than is free waits. Who wants more than there is gets all of it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0
        self._freed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        amount = min(amount, self.limit)
        with self._freed:
            self._freed.wait_for(lambda: self.taken + amount <= self.limit)
            self.taken += amount
        try:
            yield
        finally:
            with self._freed:
                self.taken -= amount
                self._freed.notify_all()


BUDGET = Budget(BUDGET_BYTES)  # of this process
_POOLS: dict[int, ThreadPoolExecutor] = {}  # by process: one that is forked has none of its parent's threads

if "PILLOW_BLOCK_SIZE" not in os.environ:
    # Of 16 MB, as Pillow has them, glibc keeps those that are given back; of what is larger than 32 MB none.
    Image.core.set_block_size(2**26)


def in_a_decoder(function: Callable[..., T], *given: Any) -> T:
    """function(*given), in one of a few threads: for whoever reads with many, and decodes what was read."""
    process = os.getpid()
    if process not in _POOLS:
        _POOLS[process] = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
    return _POOLS[process].submit(function, *given).result()


@dataclass(eq=False)
class Unpacked:
    """A picture as its file has it, upright. shape: (height, width) of the file, also where less was unpacked;
    profile, gamma, primaries: what its colours mean; id_step: between neighbouring class ids, where they are
    grey levels."""

    where: str
    image: Image.Image
    shape: tuple[int, int]
    profile: bytes | None
    gamma: float | None
    id_step: int = 1
    primaries: png_files.Primaries | None = None

    def converted(self, mode: Mode, box: tuple[int, int, int, int] | None = None) -> Image.Image:
        """A part (left, top, right, bottom) of it, or all, in sRGB; alpha is laid on white. Of 16-bit grey the upper
        8 of the bits that are in use. Band by band: what stands between is never whole in memory."""
        if self.image.mode in ("I", "F"):
            raise PictureError(
                f"{self.where}: the image has 32-bit pixels, which have no agreed white; save it with 8 or 16 bits"
            )
        left, top, right, bottom = box or (0, 0, *self.image.size)
        correct = correction(self.image.mode, self.profile, self.gamma, self.primaries)
        shift = _unused_bits(self.image)
        result = Image.new(mode, (right - left, bottom - top))
        rows = max(1, BAND_PIXELS // (right - left))
        for first in range(top, bottom, rows):
            band = self.image.crop((left, first, right, min(first + rows, bottom)))
            if band.mode.startswith("I;16"):
                # Pillow's own conversion clips at 255 instead of scaling, which turns a 16-bit picture white.
                band = Image.fromarray((np.asarray(band) >> shift).astype(np.uint8))
            result.paste(_on_white(band, correct).convert(mode), (0, first - top))
        return result


def _on_white(image: Image.Image, correct: Callable[[Image.Image], Image.Image] | None) -> Image.Image:
    if not image.has_transparency_data:
        return correct(image) if correct else image
    image = image.convert("RGBA")
    if correct:
        colours = correct(image.convert("RGB"))
        colours.putalpha(image.getchannel("A"))
        image = colours
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _unused_bits(image: Image.Image) -> int:
    """How far 16-bit samples are moved to be 8: cameras and microscopes leave the upper 4 of them empty."""
    if not image.mode.startswith("I;16"):
        return 0
    return 4 if 255 < int(np.asarray(image).max()) < 2**12 else 8


def decode(data: bytes, where: str, mode: Mode = "RGB") -> np.ndarray:
    """An image file as uint8 [H, W, 3] ("RGB") or [H, W, 1] ("L"), in sRGB, upright as its EXIF says, alpha laid on
    white; of an animation the first frame.

    PictureError, a ValueError with a sentence that names `where`, if the bytes are no image, are cut short or damaged,
    or would unpack to more than 64 megapixels.
    """
    array = unpack(data, where, lambda unpacked: np.array(unpacked.converted(mode)))
    return array[:, :, None] if array.ndim == 2 else array


def unpack(data: bytes, where: str, work: Callable[[Unpacked], T], least: int | None = None) -> T:
    """work(the picture), within the budget of memory. PictureError, whatever `work` does with a damaged picture.

    least: pixels of the shorter side that are wanted: of a JPEG with more than 64 megapixels no more is unpacked than
    serves that.
    """
    with _in_our_words(data, where):
        png = _png(data, where) if data.startswith(png_files.SIGNATURE) else None
        image = _opened(png.drawn if png else data, where)
        size = image.size
        if image.format == "JPEG" and least is not None:
            _draft(image, where, least)
        _check_size(image.size, where, image.mode in _ONE_BYTE)
        with BUDGET.take(_cost(image, size, where, len(data))):
            image.load()
            return work(_upright(where, image, size, png))


def stored_size(data: bytes, where: str) -> tuple[int, int]:
    """(width, height) as the file's header has them, before it is turned upright; nothing is unpacked. PictureError."""
    with _in_our_words(data, where):
        if data.startswith(png_files.SIGNATURE):
            return png_files.size_of(data)[0]
        return _opened(data, where).size


@contextmanager
def _in_our_words(data: bytes, where: str) -> Iterator[None]:
    if not data:
        raise PictureError(f"{where}: the file is empty, wanted an image")
    try:
        yield
    except PictureError:
        raise
    except png_files.Damaged as error:
        raise PictureError(f"{where}: the image is cut short or damaged: {error}") from error
    except png_files.Unmeant as error:
        raise PictureError(f"{where}: {error}") from error
    except _DAMAGED as error:
        raise PictureError(f"{where}: the image is cut short or damaged") from error


def _png(data: bytes, where: str) -> png_files.PngFile:
    """By its header, before anything is unpacked, and then as a whole."""
    size, one_byte = png_files.size_of(data)
    _check_size(size, where, one_byte)
    return png_files.read_png(data)


def _opened(data: bytes, where: str) -> Image.Image:
    """Pillow's image, nothing of it unpacked. Not by Image.open, whose limits are those of the whole process."""
    Image.preinit()
    beginning = data[:16].ljust(16, b"\0")
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory and accepts and accepts(beginning) is True:
            return factory(io.BytesIO(data), "")
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        raise PictureError(f"{where}: a HEIC picture, which is not read; save it as JPEG or PNG")
    raise PictureError(f"{where}: not an image of a known format; wanted PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF")


def _draft(image: Image.Image, where: str, least: int) -> None:
    """Has a JPEG that is too large unpacked at a half, a quarter or an eighth of its size."""
    pixels = image.width * image.height
    if MAX_PIXELS < pixels <= MAX_DRAFTED:
        side = min(2 * least, min(image.size) // 2)  # twice, as its means of 2 x 2 pixels are not Lanczos'
        image.draft(None, (side, side))  # type: ignore[attr-defined]


def _check_size(size: tuple[int, int], where: str, one_byte: bool) -> None:
    width, height = size
    most = 2 * MAX_PIXELS if one_byte else MAX_PIXELS
    if width * height > most:
        raise PictureError(f"{where}: the image is {width} x {height}, more than {most:,} pixels")


def _cost(image: Image.Image, size: tuple[int, int], where: str, length: int) -> int:
    """Bytes to unpack it and to bring it to its colours. size: of the whole picture, where less is unpacked."""
    stored = 1 if image.mode in _ONE_BYTE else 2 if image.mode.startswith("I;16") else 4
    pixels = image.width * image.height
    unpacking = _UNPACKING.get(image.format or "", stored) * pixels
    if image.info.get("progressive"):  # libjpeg keeps all coefficients, of two bytes
        parts = [across * down for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
        unpacking += 2 * size[0] * size[1] * sum(parts) // max(parts)
    cost = max(unpacking, (stored + 4) * pixels)
    if cost + length > LARGEST_BYTES:
        raise PictureError(
            f"{where}: the image is {size[0]} x {size[1]} pixels, which take {cost // 10**6:,} MB to unpack as "
            f"{image.format}, more than {LARGEST_BYTES // 10**6:,}; save it smaller"
        )
    return cost


def _upright(where: str, image: Image.Image, size: tuple[int, int], png: png_files.PngFile | None) -> Unpacked:
    """size: (width, height) of the file as it lies."""
    width, height = size
    shape = (width, height) if image.getexif().get(ORIENTATION) in TURNED else (height, width)
    ImageOps.exif_transpose(image, in_place=True)
    if png is None:
        return Unpacked(where, image, shape, image.info.get("icc_profile"), None)
    return Unpacked(where, image, shape, png.profile, png.gamma, png.id_step, png.primaries)
