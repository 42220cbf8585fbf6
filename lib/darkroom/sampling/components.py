"""Components: the linear parts that a picture is a sum of, each of which may follow a prompt of its own.

Factorized Diffusion (arXiv 2404.11615): the predictions of several prompts are put together, of each its component.
That is a prediction again only if the components sum to the identity: FAMILIES says which do, `check_sum` asks it of a
row. Filters, their defaults and how they grow with the image follow the authors' code, dangeng/visual_anagrams.

Every component gives a sample the same bits in every batch: blurs are products with one fixed matrix, a sample at a
time, because a library may choose another algorithm for another number of planes; all else is + - * /, which IEEE
rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from darkroom.sampling.views import SMALLEST, Params, make, number, whole_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KERNEL, BAND_KERNEL = 33, 25
"""Taps of the Gaussian kernels at 64 px, of two parts and of three; at sigma 2 those that 33 leaves out weigh less than
float32 can tell."""
EDGES = {"zeros": "constant", "reflect": "reflect"}
"""What motion takes to lie beyond the borders, as torch's padding calls it."""


@dataclass(frozen=True)
class Component:
    """A component by its name and parameters; equal ones are one component. Made by `make_component`.

    A linear map of float tensors [B, C, S, S], any C, S one that `fits`, to the same shape and dtype; float16 and
    bfloat16 are computed in float32. `whole` returns what it was given, all others a new tensor. Sizes are in pixels at
    64 px and grow with the image. ValueError if a tensor is not of that shape.
    """

    name: str
    params: Params = ()

    def fits(self, size: int) -> str:
        """Why pictures of `size` px a side have no such component, and which have; "" where they have.

        No kernel is too large: kernels shrink with the picture, to no more than can be reflected at its borders.
        """
        return "" if size >= SMALLEST else f"takes pictures of {SMALLEST} px or more"

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
            raise ValueError(f"component '{self.name}' takes [B, C, S, S], got {list(x.shape)}")
        if why := self.fits(x.shape[-1]):
            raise ValueError(f"component '{self.name}' {why}, got {list(x.shape)}")
        wide = x if x.is_floating_point() and x.element_size() >= 4 else x.float()
        return _MAPS[self.name](wide, **dict(self.params)).to(x.dtype)

    def __str__(self) -> str:
        shown = [f"{name} {_shown(value)}" for name, value in self.params if not is_usual(self.name, name, value)]
        return f"{self.name} ({', '.join(shown)})" if shown else self.name


def _low_pass(x: Tensor, sigma: float, kernel: int) -> Tensor:
    return _blurred(x, (sigma,), kernel)


def _high_pass(x: Tensor, sigma: float, kernel: int) -> Tensor:
    return x - _blurred(x, (sigma,), kernel)


def _low_band(x: Tensor, fine: float, coarse: float, nested: bool, kernel: int) -> Tensor:
    return _blurred(x, (fine, coarse) if nested else (coarse,), kernel)


def _middle_band(x: Tensor, fine: float, coarse: float, nested: bool, kernel: int) -> Tensor:
    return _blurred(x, (fine,), kernel) - _low_band(x, fine, coarse, nested, kernel)


def _high_band(x: Tensor, fine: float, coarse: float, nested: bool, kernel: int) -> Tensor:
    return x - _blurred(x, (fine,), kernel)


def _grayscale(x: Tensor) -> Tensor:
    total = x[:, :1]
    for channel in range(1, x.shape[1]):  # in this order always; mean() may choose one
        total = total + x[:, channel : channel + 1]
    return (total / x.shape[1]).repeat(1, x.shape[1], 1, 1)


def _color(x: Tensor) -> Tensor:
    return x - _grayscale(x)


def _motion(x: Tensor, angle: float, edges: str, length: int) -> Tensor:
    import torch
    from torch.nn import functional as F

    size, taps = x.shape[-1], _scaled_odd(length, x.shape[-1])
    reach = taps // 2
    padded = F.pad(x, (reach, reach, reach, reach), mode=EDGES[edges])
    total = torch.zeros_like(x)
    for down, right, weight in _line(angle, taps):
        top, left = reach + down, reach + right
        total = total + padded[:, :, top : top + size, left : left + size] * weight
    return total


def _motion_residual(x: Tensor, angle: float, edges: str, length: int) -> Tensor:
    return x - _motion(x, angle, edges, length)


_MAPS: dict[str, Callable[..., Tensor]] = {
    "whole": lambda x: x,
    "scale": lambda x, weight: x * weight,
    "low_pass": _low_pass,
    "high_pass": _high_pass,
    "low_band": _low_band,
    "middle_band": _middle_band,
    "high_band": _high_band,
    "grayscale": _grayscale,
    "color": _color,
    "motion": _motion,
    "motion_residual": _motion_residual,
}


def _scaled_odd(taps: int, size: int) -> int:
    """33 taps at 64 px are 133 at 256 px; at least 3."""
    return max(taps * size // 64 | 1, 3)


def _blurred(x: Tensor, sigmas: tuple[float, ...], kernel: int) -> Tensor:
    """Gaussian blurs of the planes one after another, M x M^T; as torchvision's gaussian_blur, borders reflected."""
    import torch

    matrix = _blur_matrix(sigmas, kernel, x.shape[-1], x.device, x.dtype)
    matrix = matrix.expand(x.shape[1], -1, -1)
    # Cloned, so that a sample's place in the batch does not decide how its memory is aligned.
    return torch.stack([matrix.bmm(sample.clone()).bmm(matrix.mT) for sample in x]) if len(x) else x.clone()


@lru_cache(maxsize=32)
def _blur_matrix(sigmas: tuple[float, ...], kernel: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[size, size]: row y holds the weights of all pixels in pixel y of a blurred column. Computed in float64."""
    import torch

    taps = _scaled_odd(kernel, size)
    offsets = torch.arange(-(taps // 2), taps // 2 + 1)
    reflected = (torch.arange(size)[:, None] + offsets).abs()
    reflected = (size - 1) - ((size - 1) - reflected).abs()
    matrix = torch.eye(size, dtype=torch.float64)
    for sigma in sigmas:
        weights = torch.exp(-0.5 * (offsets.double() / (sigma * size / 64)) ** 2)
        weights = (weights / weights.sum()).expand(size, -1)
        matrix = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, reflected, weights) @ matrix
    return matrix.to(device, dtype)


@lru_cache(maxsize=64)
def _line(angle: float, taps: int) -> tuple[tuple[int, int, float], ...]:
    """(down, right, weight) of a straight line of so many taps: one each step along the axis it is nearer to, and
    across it shared by the two nearest pixels, so that 0, 45 and 90 degrees are exact. Weights sum to 1."""
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    steep = abs(down) > abs(right)
    slope = round(right / down if steep else down / right, 12)
    weights: dict[tuple[int, int], float] = {}
    for step in range(-(taps // 2), taps // 2 + 1):
        across = math.floor(step * slope)
        for place, share in ((across, 1 - (step * slope - across)), (across + 1, step * slope - across)):
            if share:
                weights[(step, place) if steep else (place, step)] = share / taps
    return tuple((y, x, weight) for (y, x), weight in weights.items())


def _gaussian(name: str) -> Callable[..., Component]:
    def make_gaussian(sigma: float = 2.0, kernel: int = KERNEL) -> Component:
        return Component(name, (("kernel", _taps(name, "kernel", kernel)), ("sigma", _sigma(name, "sigma", sigma))))

    return make_gaussian


def _band(name: str) -> Callable[..., Component]:
    def make_band(fine: float = 1.0, coarse: float = 2.0, nested: bool = True, kernel: int = BAND_KERNEL) -> Component:
        if not isinstance(nested, bool):
            raise ValueError(f"'nested' of {name} is {nested!r}, wanted true or false")
        if not _sigma(name, "fine", fine) < _sigma(name, "coarse", coarse):
            raise ValueError(f"'fine' of {name} is {fine!r}, wanted less than 'coarse', which is {coarse!r}")
        taps = _taps(name, "kernel", kernel)
        return Component(name, (("coarse", float(coarse)), ("fine", float(fine)), ("kernel", taps), ("nested", nested)))

    return make_band


def _streak(name: str) -> Callable[..., Component]:
    def make_streak(angle: float = 45.0, length: int = 7, edges: str = "zeros") -> Component:
        degrees = number(name, "angle", angle, -360.0, 360.0)
        if edges not in list(EDGES):  # not the mapping: a list that a row gives has no hash
            raise ValueError(f"'edges' of {name} is {edges!r}, wanted {' or '.join(map(repr, EDGES))}")
        return Component(name, (("angle", degrees), ("edges", edges), ("length", _taps(name, "length", length))))

    return make_streak


def _fixed(name: str) -> Callable[[], Component]:
    def make_fixed() -> Component:
        return Component(name)

    return make_fixed


def scale(weight: float = 0.5) -> Component:
    """weight * x; the weights of a row sum to 1. Composition of prompts, and classifier-free guidance by hand."""
    return Component("scale", (("weight", number("scale", "weight", weight, -1e4, 1e4)),))


def _sigma(owner: str, name: str, value: float) -> float:
    return number(owner, name, value, 0.1, 64.0)


def _taps(owner: str, name: str, value: int) -> int:
    """Odd, and so few that half of them are less than the image at every size: more cannot be reflected."""
    taps = whole_number(owner, name, value, 3, 127)
    if taps % 2 == 0:
        raise ValueError(f"'{name}' of {owner} is {value!r}, wanted an odd number, so that it has a middle")
    return taps


COMPONENTS: dict[str, Callable[..., Component]] = {
    "whole": _fixed("whole"),
    "scale": scale,
    "low_pass": _gaussian("low_pass"),
    "high_pass": _gaussian("high_pass"),
    "low_band": _band("low_band"),
    "middle_band": _band("middle_band"),
    "high_band": _band("high_band"),
    "grayscale": _fixed("grayscale"),
    "color": _fixed("color"),
    "motion": _streak("motion"),
    "motion_residual": _streak("motion_residual"),
}
"""Makers of components by name. Lengths are pixels at 64 px.

low_pass G(x), high_pass x - G(x): Gaussian of `sigma`, `kernel` taps wide.
low_band C(x), middle_band G_fine(x) - C(x), high_band x - G_fine(x). The coarse blur C is of what the fine one left,
G_coarse(G_fine(x)): sigma 1, then 2 is one blur of sigma 2.24. Without `nested` it is of x itself, G_coarse(x).
grayscale is the mean of the channels in each of them, color the rest; of one channel color is zero.
motion is the mean along a line of `length` taps, motion_residual the rest; `angle` in degrees clockwise from the right,
45 runs from the top left to the bottom right as the authors' kernel does. Beyond the borders are zeros, so that two
corners fade; with `edges` "reflect" the picture is mirrored there, and a plain surface stays what it is.
"""

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("whole",),
    ("low_pass", "high_pass"),
    ("low_band", "middle_band", "high_band"),
    ("grayscale", "color"),
    ("motion", "motion_residual"),
)
"""Names that sum to the identity if their parameters are the same. Any number of `scale` do if the weights sum to 1."""


def make_component(name: str, /, **params: Any) -> Component:
    """The component of that name. ValueError, with the nearest name, for an unknown one or parameter or a bad value."""
    return make("component", COMPONENTS, name, params)


def is_usual(component: str, parameter: str, value: Any) -> bool:
    """Whether a parameter that few rows give has the value it has where it is not given, and so need not be said."""
    return parameter in _SELDOM and (parameter, value) in COMPONENTS[component]().params


_SELDOM = ("kernel", "nested", "edges")


def check_sum(components: list[Component]) -> None:
    """ValueError, saying what is missing or too much, unless the components of a row sum to the identity."""
    if not components:
        raise ValueError("a hybrid needs components, none are given")
    if all(component.name == "scale" for component in components):
        return _check_weights(components)
    first = next(component for component in components if component.name != "scale")
    family = [Component(name, first.params) for name in next(names for names in FAMILIES if first.name in names)]
    missing = [member for member in family if member not in components]
    extra = list(components)
    for member in family:
        if member in extra:
            extra.remove(member)
    if missing:
        rest = f"; what is given beside it is {_listed(extra)}" if extra else ""
        half = "its other half" if len(family) == 2 else "the rest of its family"
        raise ValueError(f"{first} needs {half}, {_listed(missing)}{rest}")
    if extra:
        whole = f"{_listed(family)} {'is' if len(family) == 1 else 'are'} the whole picture already"
        raise ValueError(f"{whole}, {_listed(extra)} is too much")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def _check_weights(components: list[Component]) -> None:
    total = sum(dict(component.params)["weight"] for component in components)
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"the weights of scale sum to {total:g}, wanted 1")


def _listed(components: list[Component]) -> str:
    return " and ".join(str(component) for component in components)
