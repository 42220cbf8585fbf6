"""The rearrangements behind the views: for each, where every pixel of the result comes from.

Each builder returns `order`, int64 [size, size]: result[y, x] = source.flat[order[y, x]]. All are permutations of the
pixels at every size of 4 or more. Where tiles do not divide the size, they fill a square in the middle and the border
that is left, less than one tile in all, stays where it is. Tiles are counted and not measured, so a seed means the
same rearrangement at every stage of a cascade.

Behaviour after Visual Anagrams (arXiv 2311.17919) and its repository dangeng/visual_anagrams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Order = np.ndarray


def grid(size: int) -> Order:
    """The order that changes nothing."""
    return np.arange(size * size, dtype=np.int64).reshape(size, size)


def flip_horizontal(size: int) -> Order:
    return grid(size)[:, ::-1]


def flip_vertical(size: int) -> Order:
    return grid(size)[::-1]


def rotate_90(size: int) -> Order:
    return np.rot90(grid(size), 1)


def rotate_180(size: int) -> Order:
    return np.rot90(grid(size), 2)


def rotate_270(size: int) -> Order:
    return np.rot90(grid(size), 3)


def skew(size: int, factor: float) -> Order:
    """Column x rolls down by trunc(factor * (x - size // 2)) pixels."""
    down = np.trunc(factor * (np.arange(size) - size // 2)).astype(np.int64)
    rows = (np.arange(size)[:, None] - down) % size
    return rows * size + np.arange(size)


def patch_permute(size: int, seed: int, pieces: int) -> Order:
    """pieces x pieces square patches change places, unturned."""
    tile, inside = _tiles(size, pieces)
    order = grid(size)
    patches = order[inside].reshape(pieces, tile, pieces, tile).swapaxes(1, 2).reshape(-1, tile, tile)
    moved = patches[_shuffled(seed, pieces * pieces)].reshape(pieces, pieces, tile, tile)
    order[inside] = moved.swapaxes(1, 2).reshape(pieces * tile, pieces * tile)
    return order


def pixel_permute(size: int, seed: int, pieces: int) -> Order:
    """Every pixel for itself up to `pieces` pixels a side; above, blocks: a pixel of the lower stage moves as one."""
    return patch_permute(size, seed, min(pieces, size))


def inner_circle(size: int, diameter: float, degrees: int) -> Order:
    """The disc of diameter * size pixels in the middle turns counter-clockwise, the rest stays.

    Only quarter turns: any other angle has to interpolate, and so neither keeps noise white nor can be undone.
    """
    doubled = 2 * np.arange(size) - (size - 1)
    disc = doubled[:, None] ** 2 + doubled**2 < (diameter * size) ** 2
    return np.where(disc, np.rot90(grid(size), degrees // 90), grid(size))


def square_hinge(size: int, pieces: int) -> Order:
    """pieces x pieces squares, each a quarter turn, neighbours in opposite directions, the corner one clockwise.

    This is where a sheet of squares hinged at their corners arrives when it has opened and closed again.
    """
    tile, inside = _tiles(size, pieces)
    order = grid(size)
    sheet = order[inside]
    for row, column in np.ndindex(pieces, pieces):
        square = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        sheet[square] = np.rot90(sheet[square], -1 if (row + column) % 2 == 0 else 1)
    return order


class Place(NamedTuple):
    """A place of the 4 x 4 jigsaw: its cell, and how many quarter turns clockwise a piece stands turned there."""

    row: int
    column: int
    turns: int


_KINDS = {
    "corner": ((0, 0), (0,)),
    "left edge": ((0, 1), (0, 1)),
    "right edge": ((0, 2), (0, 1)),
    "inner": ((1, 1), (0,)),
}
"""Of each kind the piece that is not turned: its cell, and the sides with a tab (0 right, 1 below, 2 left, 3 above)."""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def jigsaw(size: int, seed: int) -> Order:
    """A 4 x 4 jigsaw puzzle, put together another way: pieces change places with pieces of their shape, turned to fit.

    The layout is the same after a quarter turn: the tabs of the rim and those of the middle go round clockwise, and the
    rim's others point inwards. A tab is one pixel mask, symmetrical about the middle of its side, that is added to one
    cell and taken from its neighbour. So the four corners are one shape turned, the eight edge pieces another and
    the four inner ones a third, to the pixel, and any of a group may stand in any place of the group.
    """
    cell, inside = _tiles(size, 4)
    owners, draw = _owners(cell), iter(_shuffled_groups(seed))
    source, result = grid(4 * cell), grid(4 * cell)
    for places in _places():
        for place, goal in zip(places, (places[i] for i in next(draw)), strict=True):
            own = np.nonzero(owners == 4 * place.row + place.column)
            result[_moved(own, place, goal, cell)] = source[own]
    order = grid(size)
    order[inside] = order[inside].reshape(-1)[result]
    return order


def _places() -> Iterator[list[Place]]:
    """The places of each shape: four corners, eight edges, four in the middle."""
    for kinds in (("corner",), ("left edge", "right edge"), ("inner",)):
        yield [place for kind in kinds for place in _turned(*_KINDS[kind][0])]


def _turned(row: int, column: int) -> list[Place]:
    places = [Place(row, column, 0)]
    for turns in (1, 2, 3):
        row, column = column, 3 - row
        places.append(Place(row, column, turns))
    return places


def _shuffled_groups(seed: int) -> list[np.ndarray]:
    """Where each corner, edge and inner piece goes; three draws of one stream."""
    ranks = np.random.Philox(key=seed).random_raw(16)
    return [np.argsort(part, kind="stable") for part in np.split(ranks, (4, 12))]


def _owners(cell: int) -> np.ndarray:
    """[4 cell, 4 cell]: which piece each pixel belongs to, pieces numbered by their cells in reading order."""
    owners = np.kron(np.arange(16).reshape(4, 4), np.ones((cell, cell), dtype=np.int64))
    tab = _tab(cell)
    for base, sides in _KINDS.values():
        for row, column, turns in _turned(*base):
            for side in ((side + turns) % 4 for side in sides):
                top, left = (row + _STEPS[side][0]) * cell, (column + _STEPS[side][1]) * cell
                neighbour = owners[top : top + cell, left : left + cell]
                neighbour[np.rot90(tab, -side)] = 4 * row + column
    return owners


def _tab(cell: int) -> np.ndarray:
    """Bool [cell, cell]: what a piece takes of its right neighbour, a neck and a round head on the middle of the side.

    It is so shallow and narrow that the tabs that enter a cell from its sides never meet. In cells of 12 px and more
    the head is wider than the neck; in cells of 1 and 2 px there is no room for a tab.
    """
    along = np.abs(np.arange(cell) - (cell - 1) / 2)[:, None]
    depth = np.arange(cell) + 0.5
    neck = (along < max(0.06 * cell, 0.75)) & (depth < 0.19 * cell)
    head = along**2 + (depth - 0.19 * cell) ** 2 < (0.16 * cell) ** 2
    return neck | head


def _moved(pixels: tuple[np.ndarray, ...], place: Place, goal: Place, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (rows, columns) of the piece at `place` once it lies at `goal`. Doubled, so a cell's centre is whole."""
    y = 2 * (pixels[0] - place.row * cell) - (cell - 1)
    x = 2 * (pixels[1] - place.column * cell) - (cell - 1)
    for _ in range((goal.turns - place.turns) % 4):
        y, x = x, -y
    return (y + cell - 1) // 2 + goal.row * cell, (x + cell - 1) // 2 + goal.column * cell


def _shuffled(seed: int, count: int) -> np.ndarray:
    """A random order of 0 .. count - 1. From the raw words of Philox and a stable sort, because numpy promises these
    to stay what they are, and does not promise it of Generator.permutation."""
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")


def _tiles(size: int, pieces: int) -> tuple[int, tuple[slice, slice]]:
    """Side of a tile, and the square in the middle that pieces x pieces of them fill."""
    tile = size // pieces
    assert tile, f"{pieces} pieces a side of {size} pixels: View.fits refuses them"
    start = (size - pieces * tile) // 2
    middle = slice(start, start + pieces * tile)
    return tile, (middle, middle)


ORDERS: dict[str, Callable[..., Order]] = {
    "flip_horizontal": flip_horizontal,
    "flip_vertical": flip_vertical,
    "rotate_90": rotate_90,
    "rotate_180": rotate_180,
    "rotate_270": rotate_270,
    "skew": skew,
    "patch_permute": patch_permute,
    "pixel_permute": pixel_permute,
    "jigsaw": jigsaw,
    "inner_circle": inner_circle,
    "square_hinge": square_hinge,
}
