"""Views: what the model is shown instead of the picture, and the way back.

A view may be used in sampling only if it leaves white noise white: the model was trained on states with independent
normal noise of one variance, and answers nonsense to any other. A linear map does so exactly if it is orthogonal
(Visual Anagrams, arXiv 2311.17919); views that blend pixels, as a rotation by 45 degrees does, visibly fail.
Every view here is orthogonal, and more: a permutation of pixels, the same for all channels and samples, or a change of
sign. So it is undone to the last bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.sampling.names import nearest
from darkroom.sampling.permutations import ORDERS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMALLEST = 4  # px a side of a picture that has views and components
_CUT = ("patch_permute", "square_hinge")  # pixel_permute never cuts finer than pixels

Params = tuple[tuple[str, Any], ...]
"""(name, value) pairs sorted by name, defaults filled in."""


@dataclass(frozen=True)
class View:
    """A view by its name and parameters; equal ones are one view. Made by `make_view`.

    Tensors are [B, C, S, S] of any C and any dtype with a sign, S one that `fits`. Results are new tensors, except that
    the identity returns what it was given. ValueError if a tensor is not of that shape.
    """

    name: str
    params: Params = ()

    def fits(self, size: int) -> str:
        """Why pictures of `size` px a side cannot be seen in this view, and which can; "" where they can."""
        pieces = dict(self.params)["pieces"] if self.name in _CUT else 0
        if size >= max(pieces, SMALLEST):
            return ""
        cuts = f"cuts {pieces} pieces a side and " if pieces > SMALLEST else ""
        return f"{cuts}takes pictures of {max(pieces, SMALLEST)} px or more"

    def order(self, size: int) -> np.ndarray:
        """int64 [size * size]: by a pixel's flat place in the view, its flat place in the picture."""
        if self.name not in ORDERS:
            return np.arange(size * size)
        return np.ascontiguousarray(ORDERS[self.name](size, **dict(self.params))).reshape(-1)

    def apply(self, x: Tensor) -> Tensor:
        """What is seen in this view."""
        moved = self._rearranged(x, back=False)
        return -moved if self.name == "negate" else moved

    def undo(self, x: Tensor) -> Tensor:
        """The exact inverse: undo(apply(x)) is x, bit for bit."""
        moved = self._rearranged(x, back=True)
        return -moved if self.name == "negate" else moved

    def undo_variance(self, v: Tensor) -> Tensor:
        """The rearrangement undone and never the sign: a learned variance stays positive."""
        return self._rearranged(v, back=True)

    def _rearranged(self, x: Tensor, back: bool) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
            raise ValueError(f"view '{self.name}' takes [B, C, S, S], got {list(x.shape)}")
        if why := self.fits(x.shape[-1]):
            raise ValueError(f"view '{self.name}' {why}, got {list(x.shape)}")
        if self.name not in ORDERS:
            return x
        size = x.shape[-1]
        kept = _orders if size <= 256 else _large_orders
        order = kept(self, size, x.device)[back].expand(x.shape[0], x.shape[1], -1)
        return x.flatten(2).gather(2, order).view(x.shape)  # on CPU a tenth of the time of index_select


def _build(view: View, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat source positions, int64 [size * size], of the view and of its inverse."""
    order = view.order(size)
    import torch  # not at the top, as everywhere that a row's check comes by: it costs two seconds

    return torch.tensor(order, device=device), torch.tensor(np.argsort(order), device=device)


# Seeds make views without number. An entry is 64 KB at 64 px, 1 MB at 256 px and 16 MB at 1024 px.
_orders = lru_cache(maxsize=64)(_build)
_large_orders = lru_cache(maxsize=8)(_build)


def _fixed(name: str) -> Callable[[], View]:
    def make() -> View:
        return View(name)

    return make


def skew(factor: float = 1.5) -> View:
    """Column x of S rolls down by trunc(factor * (x - S // 2)) pixels."""
    return View("skew", (("factor", number("skew", "factor", factor, -1000.0, 1000.0)),))


def patch_permute(seed: int = 0, pieces: int = 8) -> View:
    """pieces x pieces square patches change places."""
    return _shuffle("patch_permute", seed, pieces)


def pixel_permute(seed: int = 0, pieces: int = 64) -> View:
    """The pixels change places; in images of more than `pieces` a side, blocks of pixels, pieces x pieces of them.

    So 64 px and 256 px show the same rearrangement. A cascade that begins smaller names its first size here.
    """
    return _shuffle("pixel_permute", seed, pieces)


def jigsaw(seed: int = 0) -> View:
    """The pieces of a 4 x 4 jigsaw puzzle, tabs and blanks, change places with others of their shape."""
    return View("jigsaw", (("seed", _seed("jigsaw", seed)),))


def inner_circle(diameter: float = 0.75, degrees: int = 180) -> View:
    """The disc in the middle, `diameter` of the side wide, turns counter-clockwise by 90, 180 or 270 degrees."""
    across = number("inner_circle", "diameter", diameter, 0.1, 1.0)
    turn = whole_number("inner_circle", "degrees", degrees, 90, 270)
    if turn % 90:
        raise ValueError(f"'degrees' of inner_circle is {degrees!r}, wanted 90, 180 or 270: others need interpolation")
    return View("inner_circle", (("degrees", turn), ("diameter", across)))


def square_hinge(pieces: int = 3) -> View:
    """pieces x pieces hinged squares, each turned by 90 degrees, neighbours in opposite directions."""
    return View("square_hinge", (("pieces", whole_number("square_hinge", "pieces", pieces, 2, 1024)),))


def _shuffle(name: str, seed: int, pieces: int) -> View:
    return View(name, (("pieces", whole_number(name, "pieces", pieces, 2, 1024)), ("seed", _seed(name, seed))))


def _seed(name: str, seed: int) -> int:
    return whole_number(name, "seed", seed, 0, 2**63 - 1)


_WITHOUT_PARAMETERS = (
    "identity",
    "flip_horizontal",
    "flip_vertical",
    "rotate_90",
    "rotate_180",
    "rotate_270",
    "negate",
)

VIEWS: dict[str, Callable[..., View]] = {name: _fixed(name) for name in _WITHOUT_PARAMETERS} | {
    "skew": skew,
    "patch_permute": patch_permute,
    "pixel_permute": pixel_permute,
    "jigsaw": jigsaw,
    "inner_circle": inner_circle,
    "square_hinge": square_hinge,
}
"""Makers of views by name. rotate_90 turns counter-clockwise like torch.rot90, flip_vertical swaps top and bottom."""


def make_view(name: str, /, **params: Any) -> View:
    """The view of that name. ValueError, with the nearest name, for an unknown view or parameter, or a bad value."""
    return make("view", VIEWS, name, params)


def make(kind: str, makers: dict[str, Callable[..., Any]], name: str, params: dict[str, Any]) -> Any:
    """makers[name](**params), where what is unknown is a ValueError that names what is near."""
    if name not in makers:
        raise ValueError(f"unknown {kind} '{name}'{_hint(name, makers)}")
    known = parameters(makers[name])
    for key in params:
        if key not in known:
            raise ValueError(f"{kind} '{name}' has no parameter '{key}'{_hint(key, known)}")
    return makers[name](**params)


@lru_cache(maxsize=128)
def parameters(maker: Callable[..., Any]) -> tuple[str, ...]:
    """Names of what it takes. Kept: to look is half of what parsing a row of views costs."""
    return tuple(inspect.signature(maker).parameters)


def _hint(given: str, names: Any) -> str:
    return nearest(given, names) or (f"; there are {', '.join(names)}" if names else "; it takes none")


def whole_number(owner: str, name: str, value: Any, least: int, most: int) -> int:
    """The value as int; ValueError unless it is a whole number within least .. most. 3.0 counts, True does not."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= value <= most:
        raise ValueError(f"'{name}' of {owner} is {value!r}, wanted a whole number from {least} to {most}")
    return int(value)


def number(owner: str, name: str, value: Any, least: float, most: float) -> float:
    """The value as float; ValueError unless it is a number within least .. most. True does not count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"'{name}' of {owner} is {value!r}, wanted a number from {least:g} to {most:g}")
    return float(value)


IDENTITY = make_view("identity")
_BESIDE = {"view", "component", "prompt", "label", "image"}  # keys of a part that are no parameter of its view


def view_of(part: Mapping[str, Any]) -> View:
    """The view of an anagram's view, whose parameters stand beside it, or of a component: a name or a mapping."""
    given = part.get("view")
    if given is None:
        return IDENTITY
    if isinstance(given, Mapping):
        return make_view(given["view"], **own_parameters(given))
    return make_view(given, **({} if part.get("component") else own_parameters(part)))


def own_parameters(part: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a view or component itself, which stand beside its name."""
    return {key: value for key, value in part.items() if key not in _BESIDE}
