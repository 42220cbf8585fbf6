"""Pictures as arrays and PNG bytes, and the names they lie under."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

AnyArray = TypeVar("AnyArray", np.ndarray, Any)  # or a tensor: this room knows no torch

MAX_PIXELS = 64_000_000  # decoded this is 256 MB; inputs are shrunk to 1024 pixels or less anyway

# What Pillow's decoders are known to let out on damaged files, besides the OSError they promise.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def decode(data: bytes, where: str, mode: Literal["RGB", "L"] = "RGB") -> np.ndarray:
    """An image file as uint8 [H, W, 3] ("RGB") or [H, W, 1] ("L"), upright as its EXIF says, alpha laid on white.

    Of an animation the first frame, of 16-bit grey the upper 8 bits. ValueError, with a sentence that names `where`,
    if the bytes are no image, are cut short or damaged, or would unpack to more than 64 megapixels.
    """
    if not data:
        raise ValueError(f"{where}: the file is empty, wanted an image")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError(f"{where}: not an image of a known format (its first bytes are {data[:8]!r})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where}: the image has more than {MAX_PIXELS:,} pixels, too many to decode") from error
    except _DAMAGED as error:
        raise ValueError(f"{where}: the image is damaged ({error})") from error
    width, height = image.size
    if width * height > MAX_PIXELS:  # known from the header, before anything is unpacked
        raise ValueError(f"{where}: the image is {width} x {height}, more than {MAX_PIXELS:,} pixels")
    if image.mode in ("I", "F"):
        raise ValueError(f"{where}: the image has 32-bit pixels, which have no agreed white; save it with 8 or 16 bits")
    try:
        image.load()
        return _pixels(ImageOps.exif_transpose(image), mode)
    except _DAMAGED as error:
        raise ValueError(f"{where}: the image is cut short or damaged ({error})") from error


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling, which turns a 16-bit picture white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.array(image.convert(mode))
    return array[:, :, None] if array.ndim == 2 else array


def encode_png(array: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG bytes: lossless, and the same bytes for the same pixels."""
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3, f"{array.dtype} {array.shape}"
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def to_uint8(image: AnyArray) -> AnyArray:
    """Floats in [-1, 1], clamped, of any shape -> the nearest of 0..255, halves to even, as a result is stored: an
    array or a tensor, wherever it lies. diffusers' rounding, which starts from [0, 1], comes to the same bits."""
    levels = ((image.clip(-1, 1) + 1) * 127.5).round()
    return levels.astype(np.uint8) if isinstance(levels, np.ndarray) else levels.byte()


def resize_square(array: np.ndarray, size: int, nearest: bool = False) -> np.ndarray:
    """uint8 [H, W, C], C 1 or 3, cut to its central square and brought to [size, size, C].

    Lanczos; `nearest` for masks, whose values must not be mixed.
    """
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (1, 3), f"{array.dtype} {array.shape}"
    height, width, channels = array.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(array[top : top + side, left : left + side])
    image = Image.fromarray(square[:, :, 0] if channels == 1 else square)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return np.array(image.resize((size, size), method)).reshape(size, size, channels)


def image_key(row_id: str, row_key: str) -> str:
    """Where a row's picture lies in its run; `row_key` is the hex digest of what the row asks for.

    A row with an id of its own has its key in the name too: made anew with other parameters, it must not overwrite
    the picture that still counts until the new one is committed.
    """
    assert row_id and re.fullmatch(r"[0-9a-f]{8,}", row_key), f"id {row_id!r}, key {row_key!r}"
    version = "" if row_id == row_key else f".{row_key[:8]}"
    return f"images/{row_key[:2]}/{_safe(row_id)}{version}.png"


def image_key_of(uri: str) -> str:
    """The key of a picture, of whatever its uri or path says: wherever the run lay when the row was written, moved or
    copied as a whole it is still whole."""
    return "/".join(uri.split("/")[-3:])


def _safe(row_id: str) -> str:
    """The id as part of a file name. Leading dots go too: such files are hidden, and unseen by a store's list."""
    safe = re.sub(r"^\.|[^A-Za-z0-9._-]", "_", row_id)
    if safe == row_id and len(safe) <= 100:
        return safe
    # "~" is in no id that is used as it is, so a mended id never meets another id.
    return f"{safe[:100]}~{hashlib.sha256(row_id.encode()).hexdigest()[:12]}"
