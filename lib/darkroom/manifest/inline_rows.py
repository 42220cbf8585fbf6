"""Rows that Python or a command hands over instead of a file: written as a manifest, with the pictures that come with
them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from darkroom.manifest.problems import ManifestError
from darkroom.storage import Store

FOLDER = "inputs"  # of the store
PICTURES = ("image", "mask")  # fields of a row, and of its parts, that name a picture
_KEPT = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # as they are; what PNG lacks becomes RGB

Rows = Mapping[str, Any] | Iterable[Mapping[str, Any]]


def write_rows(rows: Rows, store: Store) -> str:
    """The uri of a JSONL manifest of these rows, a line a row, in the store's folder FOLDER.

    rows: as in a manifest. `image` and `mask` may also be a PIL image or an array, uint8 or bool [H, W], or uint8
    [H, W, 3 or 4]: they are stored beside the manifest. A path is meant from the present folder. Names are made of the
    content, so that what another call has written stays. ManifestError for what is no row.
    """
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    lines = [_line(number, row, store) for number, row in enumerate(rows, 1)]
    data = "".join(f"{line}\n" for line in lines).encode()
    key = f"{FOLDER}/rows-{hashlib.sha256(data).hexdigest()[:12]}.jsonl"
    store.write(key, data)
    return store.uri(key)


@contextmanager
def named_by_row(places: Sequence[str] = ()) -> Iterator[None]:
    """What is wrong with a row is said of the row, or of its place where that is known, and not of the line of a file
    that nobody has seen."""
    try:
        yield
    except ManifestError as error:
        raise ManifestError([_named(text, places) for text in error.problems], error.note) from None


def _named(problem: str, places: Sequence[str]) -> str:
    def place(found: re.Match[str]) -> str:
        number = int(found[1] or 0)
        return places[number - 1] if 0 < number <= len(places) else f"row {number}" if number else "rows"

    return re.sub(r"rows-[0-9a-f]{12}\.jsonl(?: line ([0-9]+))?", place, problem)


def _line(number: int, row: Any, store: Store) -> str:
    if not isinstance(row, Mapping):
        raise ManifestError([f"row {number}: wanted a mapping such as {{'task': ...}}, was {str(row)[:60]!r}"])
    try:
        line = json.dumps(_plain(row, store), ensure_ascii=False)
        line.encode()
        return line
    except RecursionError:
        raise ManifestError([f"row {number}: holds itself, or is nested too deeply"]) from None
    except (TypeError, ValueError) as error:
        raise ManifestError([f"row {number}: {error}"]) from None


def _plain(value: Any, store: Store, name: str = "") -> Any:
    """What JSON can say. name: the key that the value stands under."""
    if isinstance(value, Mapping):
        return {key: _plain(item, store, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, store) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if name in PICTURES:
        return _picture(value, store, name)
    return str(value) if isinstance(value, Path) else value


def _picture(value: Any, store: Store, name: str) -> Any:
    if isinstance(value, (str, Path)):
        text = str(value)
        return text if "://" in text or not text else os.path.abspath(os.path.expanduser(text))
    if isinstance(value, np.ndarray):
        value = _of_array(value, name)
    if not isinstance(value, Image.Image):
        return value  # the manifest's checks say what is wrong with it
    buffer, upright = io.BytesIO(), ImageOps.exif_transpose(value)
    (upright if upright.mode in _KEPT else upright.convert("RGB")).save(buffer, "PNG")
    key = f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
    store.write(f"{FOLDER}/{key}", buffer.getvalue())
    return key


def _of_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype == bool and array.ndim == 2:
        return Image.fromarray(np.where(array, 255, 0).astype(np.uint8))
    plain = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not plain:
        shape = " x ".join(map(str, array.shape))
        raise ValueError(f"'{name}' is an array of {array.dtype}, {shape}: wanted uint8, H x W, H x W x 3 or H x W x 4")
    return Image.fromarray(np.ascontiguousarray(array))
