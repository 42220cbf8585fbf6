"""Stage one of the pipeline, on CPU workers: read a unit's rows, fetch, decode and resize their pictures.

What a task imports must not wait for torch, which would cost each of its processes two seconds.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from darkroom.batch.progress import counted
from darkroom.batch.row_state import RowState, Source, guarded, to_block
from darkroom.batch.units import Unit, read_unit
from darkroom.storage import NotFound, decode, join, open_store, read_uri, resize_square

FETCHES = 16  # at once in one task; a fetch waits on the network, not on the processor


@dataclass(frozen=True)
class LoadOptions:
    """What every task that loads is told.

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


def load_block(units: pa.Table, options: LoadOptions, counter: Any) -> pa.Table:
    """`load_unit` as Ray Data calls it."""
    with counted(counter, "load"):
        (unit,) = units.to_pylist()
        return to_block(load_unit(Unit(**unit), options))


def load_unit(unit: Unit, options: LoadOptions) -> list[RowState]:
    """The rows of one unit. A picture that is missing or broken is its row's error; an outage is a StorageError."""
    lines = read_unit(open_store(options.run), options.plan, unit)
    with ThreadPoolExecutor(FETCHES) as pool:
        return list(pool.map(lambda line: load_row(RowState.of_line(unit.number, line), options), lines))


def load_row(state: RowState, options: LoadOptions) -> RowState:
    """Fetches, decodes and resizes the pictures that a row names."""
    with guarded(state):
        paths = _paths(state.row)
        if paths:
            state.source, state.inputs = _load(paths, options, options.wanted(state.row))
    return state


def _paths(row: dict[str, Any]) -> dict[str, str]:
    """The row's pictures by the part they play."""
    given = [part["image"] for part in row.get("components", ()) if part.get("image")]
    named = {"image": row.get("image"), "mask": row.get("mask"), "given": given[0] if given else None}
    return {name: path for name, path in named.items() if path}


def _load(paths: dict[str, str], options: LoadOptions, sizes: tuple[int, ...]) -> tuple[Source, dict[str, np.ndarray]]:
    """The first picture's source, and all pictures at these sizes. ValueError in plain words."""
    data = {name: _read(join(options.base, path)) for name, path in paths.items()}
    arrays = {name: _decode(name, data[name], paths[name], options.channels) for name in paths}
    if "mask" in arrays and arrays["mask"].shape[:2] != arrays["image"].shape[:2]:
        mask, image = ("{1} x {0}".format(*arrays[name].shape) for name in ("mask", "image"))
        raise ValueError(f"the mask {paths['mask']} is {mask}, its image {paths['image']} is {image}; they must match")
    inputs = {
        f"{name}/{size}": resize_square(array, size, nearest=name == "mask").transpose(2, 0, 1)
        for name, array in arrays.items()
        for size in sizes
    }
    first = next(iter(paths))
    return Source(join(options.base, paths[first]), hashlib.sha256(data[first]).hexdigest()), inputs


def _read(uri: str) -> bytes:
    try:
        return read_uri(uri)
    except NotFound:
        raise ValueError(f"there is no file {uri}") from None


def _decode(name: str, data: bytes, path: str, channels: int) -> np.ndarray:
    return decode(data, path, "L" if name == "mask" or channels == 1 else "RGB")
