"""The beginning of the pipeline, on CPU workers: read a unit's rows, fetch, decode and resize their pictures.

What a task imports must not wait for torch, which would cost each of its processes two seconds.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import pyarrow as pa

from darkroom.batch.control_maps import ControlMap, drawn, keep
from darkroom.batch.input_files import ANYWHERE, check_place, opened_input
from darkroom.batch.progress import counted
from darkroom.batch.row_state import RowState, Source, Unit, guarded, read_unit, to_block
from darkroom.storage import Mode, Size, in_a_decoder, join, open_store, read_mask, read_squares, size_name

if TYPE_CHECKING:
    from darkroom.models.catalog import Model
    from darkroom.models.depth import StoredDepth

FETCHES = 16  # at once in one task; a fetch waits on the network, not on the processor
VALUES = 8  # of a mask, in a message
CACHE_BYTES = 128 * 2**20  # of pictures at the stages' sizes, for each process that loads

Loaded = TypeVar("Loaded")  # has `nbytes`


@dataclass(frozen=True)
class LoadOptions:
    """What every task that loads is told.

    base: where relative paths begin; sizes: pixels of the stages that take a row's pictures, ascending; default_size:
    of a row that names none, the first of them unless given; roots: where pictures may come from, see `input_roots`;
    any_size: the model makes pictures of any, as the row says. run: "" where maps are not kept; plan: within one a
    picture is read once, and a later one finds what lies there then; nets: names and digests of the control networks;
    depth: the model that draws maps of depth.
    """

    run: str
    plan: str
    base: str
    sizes: tuple[int, ...]
    channels: int
    default_size: int | None = None
    roots: tuple[str, ...] = ANYWHERE
    any_size: bool = False
    nets: tuple[tuple[str, str], ...] = ()
    depth: StoredDepth | None = None

    @classmethod
    def of(cls, model: Model, base: str, roots: tuple[str, ...], nets: tuple[tuple[str, str], ...], *run: str) -> Self:
        """run: its root and its plan, where there is one."""
        first, (root, plan) = model.stages[0], run or ("", "")
        sizes = tuple(stage.size for stage in model.stages if not stage.enlarges_latents)
        any_size = first.step > 0
        return cls(
            root, plan, base, sizes, first.channels, model.default_size, roots, any_size, nets=nets, depth=model.depth
        )

    def wanted(self, row: dict[str, Any]) -> tuple[Size, ...]:
        """The sizes that the stages take a row's pictures in: for `upscale` the smallest, else up to the row's own."""
        largest = row.get("size", self.default_size or self.sizes[0])
        if self.any_size:
            return ((row["width"], row["height"]) if "width" in row else largest,)
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
            state.source, state.inputs, flags = _load(paths, options, state.row)
            state.flag(*flags)
        for place, use in enumerate(state.row.get("control", ())):
            found = _map(use, options, state.row)
            state.inputs[f"{hint_name(place)}/{size_name(found.size)}"] = found.array
            digest = dict(options.nets).get(use["net"], "")
            uri = join(options.base, use["image"])
            state.maps.append(ControlMap(use["net"], digest, found.key, found.digest, uri, found.sha256))
    return state


def look_at(row: dict[str, Any], options: LoadOptions) -> Iterator[str]:
    """What is wrong with a row's pictures, in sentences; those of control networks are read, and no map is drawn."""
    paths = _paths(row)
    pictures: dict[str, Picture] = {}
    uses = {hint_name(place): use["image"] for place, use in enumerate(row.get("control", ()))}
    for name, path in {**paths, **uses}.items():
        try:
            pictures[name] = _picture(name, path, options, row)
        except ValueError as error:
            yield str(error)
    if pictures.keys() >= {"image", "mask"}:
        try:
            _check_shapes(pictures, paths)
            _check_selects(pictures["mask"], paths["mask"], row)
        except ValueError as error:
            yield str(error)


def hint_name(place: int) -> str:
    """What the map of a row's network is called among its inputs. place: in the row's `control`."""
    return f"control {place}"


def _paths(row: dict[str, Any]) -> dict[str, str]:
    """The row's pictures by the part they play."""
    given = [part["image"] for part in row.get("components", ()) if part.get("image")]
    named = {"image": row.get("image"), "mask": row.get("mask"), "given": given[0] if given else None}
    return {name: path for name, path in named.items() if path}


@dataclass(frozen=True, eq=False)
class Picture:
    """An input as the stages take it. shape: (height, width) as it was stored; sizes: uint8 [C, H, W] by size; painted:
    pixels that a mask selects, of those that were stored, and values: what some of them are."""

    sha256: str
    shape: tuple[int, int]
    sizes: dict[Size, np.ndarray]
    painted: int = 0
    values: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.sizes.values())


@dataclass(frozen=True, eq=False)
class Map:
    """A picture as a control network takes it. sha256: of the picture; array: uint8 [3, H, W]; key, digest: where the
    map lies in the run, and its file's SHA-256."""

    sha256: str
    size: Size
    array: np.ndarray
    key: str
    digest: str

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


class PictureCache:
    """The pictures that were used last, up to so many bytes: a sweep asks for one a thousand times. Who asks for
    one that is being loaded waits for that; what cannot be loaded is tried anew by the next who asks."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[Hashable, Future[Any]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
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


def _load(
    paths: dict[str, str], options: LoadOptions, row: dict[str, Any]
) -> tuple[Source, dict[str, np.ndarray], list[str]]:
    """The first picture's source, all pictures at the sizes that are wanted, and flags. ValueError in plain words."""
    pictures = {name: _picture(name, path, options, row) for name, path in paths.items()}
    flags = []
    if "mask" in pictures:
        _check_shapes(pictures, paths)
        flags = _check_selects(pictures["mask"], paths["mask"], row)
    inputs = {
        f"{name}/{size_name(size)}": array
        for name, picture in pictures.items()
        for size, array in picture.sizes.items()
    }
    first = next(iter(paths))
    return Source(join(options.base, paths[first]), pictures[first].sha256), inputs, flags


def _check_shapes(pictures: dict[str, Picture], paths: dict[str, str]) -> None:
    if pictures["mask"].shape != pictures["image"].shape:
        mask, image = ("{1} x {0}".format(*pictures[name].shape) for name in ("mask", "image"))
        raise ValueError(f"the mask {paths['mask']} is {mask}, its image {paths['image']} is {image}; they must match")


def _check_selects(mask: Picture, path: str, row: dict[str, Any]) -> list[str]:
    """Flags for a mask that selects nothing at some stage, or all of the picture at every one; ValueError where the row
    is to fail then."""
    empty = [size for size, array in mask.sizes.items() if not array.any()]
    if empty:
        if row.get("empty_mask", "fail") == "fail":
            raise ValueError(f"the mask {path} selects nothing: {_why_empty(mask, empty[0], row)}")
        return ["mask_empty"]
    if all(array.all() for array in mask.sizes.values()):
        if row.get("full_mask", "flag") == "fail":
            raise ValueError(f"the mask {path} selects the whole picture")
        return ["mask_full"]
    return []


def _why_empty(mask: Picture, size: int, row: dict[str, Any]) -> str:
    if mask.painted:
        height, width = mask.shape
        fit = row.get("fit", "crop")
        kept = "the square in its middle" if fit == "crop" and height != width else "it"
        return f"of its {width} x {height} pixels it has {mask.painted:,}, none of them left of {kept} at {size} pixels"
    found = f"{', '.join(f'{value:g}' for value in mask.values[:VALUES])}{', ...' * (len(mask.values) > VALUES)}"
    if "mask_value" in row:
        wanted = ", ".join(map(str, row["mask_value"]))
        return f"'mask_value' is {wanted}, the mask has {found}"
    if len(mask.values) < 2:
        return "all of it is the same" + (f", {found}" if found else "")
    return f"its values are {found or 'dark colours'}; where these are classes, name some in 'mask_value'"


def _picture(name: str, path: str, options: LoadOptions, row: dict[str, Any]) -> Picture:
    """name: the part it plays; path: as the manifest has it, for people."""
    uri, sizes, fit = join(options.base, path), options.wanted(row), row.get("fit", "crop")
    mode: Mode = "L" if options.channels == 1 else "RGB"
    ids = tuple(row["mask_value"]) if "mask_value" in row else None

    check_place(uri, path, options.roots)  # of each row, before what another row has brought here

    def load() -> Picture:
        with opened_input(uri, path) as data:
            digest = hashlib.sha256(data).hexdigest()
            if name == "mask":
                mask = in_a_decoder(read_mask, data, path, sizes, fit, ids)
                return Picture(digest, mask.shape, _channels_first(mask.arrays), mask.painted, mask.values)
            squares = in_a_decoder(read_squares, data, path, sizes, mode, fit)
            return Picture(digest, squares.shape, _channels_first(squares.arrays))

    return CACHE.get((options.plan, uri, ids if name == "mask" else mode, fit, sizes), load)


def _map(use: dict[str, Any], options: LoadOptions, row: dict[str, Any]) -> Map:
    """What a row's network sees, of the size of the first stage's pictures. ValueError in plain words."""
    path, fit, size = use["image"], row.get("fit", "crop"), options.wanted(row)[0]
    uri = join(options.base, path)
    check_place(uri, path, options.roots)

    def load() -> Map:
        with opened_input(uri, path) as data:
            (array,) = in_a_decoder(read_squares, data, path, [size], "RGB", fit).arrays.values()
            sha256 = hashlib.sha256(data).hexdigest()
        found = drawn(array, use, options.depth)
        kept = keep(open_store(options.run) if options.run else None, found)
        return Map(sha256, size, found.transpose(2, 0, 1), *kept)

    made_by = (use["preprocess"], use.get("low"), use.get("high"), options.depth)
    return CACHE.get((options.run, options.plan, uri, fit, size, *made_by), load)


def _channels_first(arrays: dict[Size, np.ndarray]) -> dict[Size, np.ndarray]:
    return {size: array.transpose(2, 0, 1) for size, array in arrays.items()}
