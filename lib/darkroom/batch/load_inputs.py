"""Stage one of the pipeline, on CPU workers: read a unit's rows, fetch, decode and resize their pictures."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.batch import row_state
from darkroom.batch.units import Unit, read_unit
from darkroom.storage import NotFound, decode, join, open_store, read_uri, resize_square

FETCHES = 16  # at once in one task; a fetch waits on the network, not on the processor


@dataclass(frozen=True)
class Preparation:
    """What every prepare task of a job is told.

    base: where relative paths begin; sizes: pixels of the stages that work on pixels, ascending; default_size: of a row
    that names none, the first of them unless given.
    """

    run: str
    plan: str
    base: str
    sizes: tuple[int, ...]
    channels: int
    default_size: int | None = None

    def wanted(self, row: dict[str, Any]) -> tuple[int, ...]:
        """The sizes that the stages take a row's pictures in: for `upscale` the smallest, else up to the row's own."""
        largest = row.get("size", self.default_size or self.sizes[0])
        if row["task"] in ("upscale", "forward", "denoise"):
            return self.sizes[:1]
        return tuple(size for size in self.sizes if size <= largest)


def prepare(unit: Unit, how: Preparation) -> list[dict[str, Any]]:
    """The parcels of one unit. A picture that is missing or broken is its row's error; an outage is a StorageError."""
    lines = read_unit(open_store(how.run), how.plan, unit)
    with ThreadPoolExecutor(FETCHES) as pool:
        return list(pool.map(lambda line: _prepare_row(unit.number, line, how), lines))


def _prepare_row(unit: int, line: dict[str, Any], how: Preparation) -> dict[str, Any]:
    made = row_state.new_parcel(unit, line)
    sources = _sources(line["row"])
    if not sources:
        return made
    try:
        made["source_uri"], made["source_sha256"], made["inputs"] = _fetch(sources, how, how.wanted(line["row"]))
    except ValueError as error:
        row_state.fail(made, error)
    return made


def _sources(row: dict[str, Any]) -> dict[str, str]:
    """The row's pictures by the part they play."""
    given = [part["image"] for part in row.get("components", ()) if part.get("image")]
    named = {"image": row.get("image"), "mask": row.get("mask"), "given": given[0] if given else None}
    return {name: path for name, path in named.items() if path}


def _fetch(sources: dict[str, str], how: Preparation, sizes: tuple[int, ...]) -> tuple[str, str, bytes]:
    """First source's uri and digest, and all pictures at these sizes. ValueError in plain words."""
    data = {name: _read(join(how.base, path)) for name, path in sources.items()}
    arrays = {name: _decode(name, data[name], sources[name], how.channels) for name in sources}
    if "mask" in arrays and arrays["mask"].shape[:2] != arrays["image"].shape[:2]:
        mask, image = ("{1} x {0}".format(*arrays[name].shape) for name in ("mask", "image"))
        raise ValueError(
            f"the mask {sources['mask']} is {mask}, its image {sources['image']} is {image}; they must match"
        )
    tensors = {
        f"{name}/{size}": resize_square(array, size, nearest=name == "mask").transpose(2, 0, 1)
        for name, array in arrays.items()
        for size in sizes
    }
    first = next(iter(sources))
    return join(how.base, sources[first]), hashlib.sha256(data[first]).hexdigest(), row_state.pack(tensors)


def _read(uri: str) -> bytes:
    try:
        return read_uri(uri)
    except NotFound:
        raise ValueError(f"there is no file {uri}") from None


def _decode(name: str, data: bytes, path: str, channels: int) -> np.ndarray:
    return decode(data, path, "L" if name == "mask" or channels == 1 else "RGB")
