"""Where a diffusion's walk stands when it is told a number of steps: spacings, Karras' levels, and the end.

By the rules of diffusers' schedulers, which differ from solver to solver, so that a row here is a row there. They are
found by formula, never looked up by a time, as rounded times repeat.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from darkroom.sampling.levels import CLEAN, Level, Place

SPACINGS = ("leading", "linspace", "trailing")
EULERS = ("euler", "euler_ancestral")
MULTISTEP = ("dpmpp_2m", "dpmpp_2m_sde", "unipc")
KARRAS = (*EULERS, *MULTISTEP)
RHO, MOST_SIGMA = 7.0, 80.0  # EDM, arXiv 2206.00364, equation 5 and table 1


@dataclass(frozen=True)
class GridDefaults:
    """What a model's scheduler file says of the times of a walk; what it does not say is each solver's own.

    spacing: None for `linspace` of the solvers that know Karras' levels, and `leading` of the others
    offset: added to the times of `leading`
    ends_noisy: ddim and pndm end at the first timestep's level, taken for the clean picture; None: pndm alone
    karras: where the solver knows it
    """

    spacing: str | None = None
    offset: int = 0
    ends_noisy: bool | None = None
    karras: bool = False


class Grid(NamedTuple):
    """places: descending, where the model is asked; end: where the last move leads; starts_quiet: the start is the
    noise that the first level has, and not of deviation 1."""

    places: Sequence[Place]
    end: Place
    starts_quiet: bool


def find_grid(
    alphas_cumprod: np.ndarray,
    sampler: str,
    steps: int,
    defaults: GridDefaults,
    spacing: str | None = None,
    karras: bool | None = None,
) -> Grid:
    """The grid of so many steps of a sampler. spacing, karras: None for the model's own.

    Raises ValueError where the model has too few timesteps for it.
    """
    times, spacing = grid_times(sampler, steps, len(alphas_cumprod), spacing, defaults)
    karras = (defaults.karras and sampler in KARRAS) if karras is None else karras
    places: Sequence[Place] = _karras(alphas_cumprod, sampler, times) if karras else times
    return Grid(places, _end(sampler, defaults, times), sampler in EULERS and spacing != "leading")


@functools.lru_cache(maxsize=1024)
def grid_times(
    sampler: str, steps: int, total: int, spacing: str | None, defaults: GridDefaults
) -> tuple[tuple[float, ...], str]:
    """The times of so many steps through `total` timesteps, descending, and the spacing that holds.

    Whole numbers but for Euler's linspace. Multistep solvers have a point more, and drop the last. Raises ValueError.
    """
    spacing = spacing or defaults.spacing or ("linspace" if sampler in KARRAS else "leading")
    more = steps + (sampler in MULTISTEP and spacing != "trailing")
    if not 1 <= steps <= total + steps - more:
        what = "the model's" if more == steps else f"one less than the model's {total}, that is"
        raise ValueError(f"steps must lie between 1 and {what} {total + steps - more} timesteps; got {steps}")
    if spacing == "linspace":
        times = np.linspace(0, total - 1, more) if more > 1 else np.array([total - 1])
        times = (times if sampler in EULERS else times.round())[::-1][:steps]
    elif spacing == "leading":
        times = (np.arange(more) * (total // more))[::-1][:steps] + defaults.offset
    else:
        times = np.arange(total, 0, -total / steps).round()[:steps] - 1
    if times[0] >= total:
        raise ValueError(f"{steps} steps from {defaults.offset} on go beyond the model's {total} timesteps")
    return tuple(int(time) if time == int(time) else float(time) for time in times), spacing


def _karras(alphas_cumprod: np.ndarray, sampler: str, times: Sequence[float]) -> list[Level]:
    """Euler's go from the first to the last of its times, the others from the model's noisiest to its cleanest.

    Their times are found from log sigma, and rounded where the solver tells the model whole ones. Not from more than
    EDM's sigma: the cosine schedule's last has 20,000, and most of a walk would pass where there is no picture yet.
    """
    with np.errstate(divide="ignore"):  # the last may be infinite, and is beyond MOST_SIGMA like others
        sigmas = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    ends = np.interp([times[-1], times[0]], np.arange(len(sigmas)), sigmas) if sampler in EULERS else sigmas[[0, -1]]
    low, high = ends.clip(max=MOST_SIGMA) ** (1 / RHO)
    found = (high + np.linspace(0, 1, len(times)) * (low - high)) ** RHO
    told = np.interp(np.log(found), np.log(sigmas), np.arange(len(sigmas)))
    told = told if sampler in EULERS else told.round()
    return [Level.of_sigma(float(sigma), float(time)) for sigma, time in zip(found, told, strict=True)]


def _end(sampler: str, defaults: GridDefaults, times: Sequence[float]) -> Place:
    """A walk that stands at the first timestep already goes on to the clean picture: else its last step were none."""
    noisy = sampler == "pndm" if defaults.ends_noisy is None else defaults.ends_noisy
    return 0 if noisy and sampler in ("ddim", "pndm") and times[-1] > 0 else CLEAN
