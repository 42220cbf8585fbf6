"""The beginning of the pipeline, on CPU workers: read a unit's rows, fetch, decode and resize their pictures.

What a task imports must not wait for torch, which would cost each of its processes two seconds.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from darkroom.batch.progress import counted
from darkroom.batch.row_state import RowState, Source, Unit, guarded, read_unit, to_block
from darkroom.storage import NotFound, decode, join, open_store, read_uri, resize_square

FETCHES = 16  # at once in one task; a fetch waits on the network, not on the processor
CACHE_BYTES = 128 * 2**20  # of pictures at the stages' sizes, for each process that loads


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


@dataclass(frozen=True, eq=False)
class Picture:
    """An input as the stages take it. shape: (height, width) as it was stored; sizes: uint8 [C, S, S] by S."""

    sha256: str
    shape: tuple[int, int]
    sizes: dict[int, np.ndarray]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.sizes.values())


class PictureCache:
    """The pictures that were used last, up to so many bytes: a sweep asks for one a thousand times. Who asks for
    one that is being loaded waits for that; what cannot be loaded is tried anew by the next who asks."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[Hashable, Future[Picture]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Picture]) -> Picture:
        with self._lock:
            found = self._pictures.get(key)
            if found is None:
                mine = self._pictures[key] = Future()
            else:
                self._pictures.move_to_end(key)
        if found is not None:
            return found.result()
        try:
            picture = load()
        except BaseException as error:
            with self._lock:
                del self._pictures[key]
            mine.set_exception(error)
            raise
        mine.set_result(picture)
        self._make_room(picture.nbytes)
        return picture

    def _make_room(self, more: int) -> None:
        with self._lock:
            self.nbytes += more
            loaded = [key for key, picture in self._pictures.items() if picture.done()]
            while self.nbytes > self.limit and len(loaded) > 1:
                self.nbytes -= self._pictures.pop(loaded.pop(0)).result().nbytes


CACHE = PictureCache(CACHE_BYTES)  # of this process, which does many tasks one after the other


def _load(paths: dict[str, str], options: LoadOptions, sizes: tuple[int, ...]) -> tuple[Source, dict[str, np.ndarray]]:
    """The first picture's source, and all pictures at these sizes. ValueError in plain words."""
    pictures = {
        name: _picture(join(options.base, path), path, name == "mask", options.channels, sizes)
        for name, path in paths.items()
    }
    if "mask" in pictures and pictures["mask"].shape != pictures["image"].shape:
        mask, image = ("{1} x {0}".format(*pictures[name].shape) for name in ("mask", "image"))
        raise ValueError(f"the mask {paths['mask']} is {mask}, its image {paths['image']} is {image}; they must match")
    inputs = {f"{name}/{size}": array for name, picture in pictures.items() for size, array in picture.sizes.items()}
    first = next(iter(paths))
    return Source(join(options.base, paths[first]), pictures[first].sha256), inputs


def _picture(uri: str, path: str, is_mask: bool, channels: int, sizes: tuple[int, ...]) -> Picture:
    """path: as the manifest has it, for people."""
    mode = "L" if is_mask or channels == 1 else "RGB"

    def load() -> Picture:
        try:
            data = read_uri(uri)
        except NotFound:
            raise ValueError(f"there is no file {uri}") from None
        array = decode(data, path, mode)
        made = {size: resize_square(array, size, nearest=is_mask).transpose(2, 0, 1) for size in sizes}
        return Picture(hashlib.sha256(data).hexdigest(), array.shape[:2], made)

    return CACHE.get((uri, mode, is_mask, sizes), load)
