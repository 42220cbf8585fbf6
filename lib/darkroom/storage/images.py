"""Pictures as arrays and PNG bytes, and the names they lie under."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any, TypeVar

import numpy as np
from PIL import Image

AnyArray = TypeVar("AnyArray", np.ndarray, Any)  # or a tensor: this room knows no torch


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
