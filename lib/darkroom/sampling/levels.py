"""Where a reverse process stands: levels, and lists of times from noise to picture. No tensors.

Discrete diffusion counts timesteps T-1 .. 0 downwards, and ends at `CLEAN`, the picture without noise. Flow matching
goes upwards from 0.0 (noise) to 1.0 (picture). Rows of a manifest name a level of either by a number that descends: a
timestep, or thousandths of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from darkroom.sampling.names import unknown

CLEAN = -1
DEFAULT_STRIDE = 30


class Level(NamedTuple):
    """x = signal x0 + noise eps. time: what the model is told there, which a grid may have rounded.

    alpha_bar: signal squared where the two are variance-preserving, as the model has it: squaring the root again would
    give another number.
    """

    signal: float
    noise: float
    time: float
    alpha_bar: float

    @classmethod
    def preserving(cls, alpha_bar: float, time: float) -> Level:
        """signal^2 + noise^2 = 1."""
        return cls(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar), time, alpha_bar)

    @classmethod
    def of_share(cls, noise: float) -> Level:
        """Of a flow that is told thousandths of noise: noise times itself, and the rest of the picture. As float32 has
        these, so that what a model is told fits where the state stands."""
        share = float(np.float32(noise))
        return cls(1 - share, share, float(np.float32(share) * np.float32(1000)), (1 - share) ** 2)

    @classmethod
    def of_sigma(cls, sigma: float, time: float) -> Level:
        """sigma: noise / signal."""
        return cls.preserving(1 / (1 + sigma * sigma), time)


Place = float | Level
"""Where a state stands: at a time of the process's own clock, or off it."""


def timesteps(
    num_timesteps: int, *, steps: int | None = None, stride: int | None = None, name: str | None = None
) -> list[int]:
    """Timesteps for a model with `num_timesteps` noise levels, descending, ending at 0.

    At most one of the three may be given; none means stride 30.
    stride: every multiple below num_timesteps: 990, 960, ..., 0 for 1000 and 30.
    steps:  that many, evenly spaced as diffusers' "leading" spacing: (N-1)r, ..., r, 0 with r = num_timesteps // N.
    name:   one of `NAMED`, for models with 1000 timesteps.
    Raises ValueError.
    """
    given = {"steps": steps, "stride": stride, "name": name}
    given = {key: value for key, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"a schedule is given by one of steps, stride or name; got {' and '.join(sorted(given))}")
    if name is not None:
        return _named(name, num_timesteps)
    if steps is not None:
        _check_count("steps", steps, num_timesteps)
        ratio = num_timesteps // steps
        return [index * ratio for index in reversed(range(steps))]
    stride = DEFAULT_STRIDE if stride is None else stride
    _check_count("stride", stride, num_timesteps)
    return list(reversed(range(0, num_timesteps, stride)))


def flow_times(steps: int) -> list[float]:
    """steps + 1 evenly spaced times from 0.0 (noise) to 1.0 (picture)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    return [index / steps for index in range(steps + 1)]


def descent(levels: Sequence[float], level: float, until: float | None = None) -> list[float]:
    """`level`, then those of the descending `levels` below it, down to `until` or to the last.

    Levels count thousandths of noise, for diffusion timesteps. ValueError where `until` is not among those below, to
    half a tenth: a flow of 34 steps stands at 735.29...
    """
    below = [other for other in levels if other < level]
    if until is None:
        return [level, *below]
    places = [place for place, other in enumerate(below) if abs(other - until) < 0.05]
    if not places:
        raise ValueError(_not_a_level(below, level, until))
    return [level, *below[: places[0] + 1]]


def start_index(n: int, strength: float, begun: bool = False) -> int:
    """Index of the first of n denoising moves for SDEdit's `strength`, as diffusers' `get_timesteps` counts.

    0 gives n, that is no move at all; 1 gives 0, the whole schedule. begun: a move of which a part lies within the
    strength is made, as the pipelines of SD3 and Flux have it; the others leave it out.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie between 0 and 1; got {strength}")
    return int(max(n - n * strength, 0)) if begun else n - min(int(n * strength), n)


def _not_a_level(below: Sequence[float], level: float, until: float) -> str:
    wanted = f"'until' must be a time of the schedule below {level:g}"
    if not below:
        return f"{wanted}, which has none; was {until:g}"
    near = sorted(sorted(below, key=lambda other: abs(other - until))[:2], reverse=True)
    return f"{wanted}, the nearest: {' and '.join(f'{other:.5g}' for other in near)}; was {until:g}"


def _named(name: str, num_timesteps: int) -> list[int]:
    if name not in NAMED:
        raise unknown("schedule", name, NAMED)
    if num_timesteps != 1000:
        raise ValueError(f"schedule {name!r} is made for models with 1000 timesteps; this one has {num_timesteps}")
    return list(NAMED[name])


def _check_count(what: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{what} must lie between 1 and the model's {most} timesteps; got {value}")


# DeepFloyd IF's hand-made schedules. Source: diffusers, pipelines/deepfloyd_if/timesteps.py (Apache-2.0).
# fmt: off
NAMED: dict[str, tuple[int, ...]] = {
    "fast27": (
        999, 800, 799, 600, 599, 500, 400, 399, 377, 355, 333, 311, 288, 266, 244, 222, 200, 199, 177, 155,
        133, 111, 88, 66, 44, 22, 0,
    ),
    "smart27": (
        999, 976, 952, 928, 905, 882, 858, 857, 810, 762, 715, 714, 572, 429, 428, 286, 285, 238, 190, 143,
        142, 118, 95, 71, 47, 24, 0,
    ),
    "smart50": (
        999, 988, 977, 966, 955, 944, 933, 922, 911, 900, 899, 879, 859, 840, 820, 800, 799, 766, 733, 700,
        699, 650, 600, 599, 500, 499, 400, 399, 350, 300, 299, 266, 233, 200, 199, 179, 159, 140, 120, 100,
        99, 88, 77, 66, 55, 44, 33, 22, 11, 0,
    ),
    "smart100": (
        999, 995, 992, 989, 985, 981, 978, 975, 971, 967, 964, 961, 957, 956, 951, 947, 942, 937, 933, 928,
        923, 919, 914, 913, 908, 903, 897, 892, 887, 881, 876, 871, 870, 864, 858, 852, 846, 840, 834, 828,
        827, 820, 813, 806, 799, 792, 785, 784, 777, 770, 763, 756, 749, 742, 741, 733, 724, 716, 707, 699,
        698, 688, 677, 666, 656, 655, 645, 634, 623, 613, 612, 598, 584, 570, 569, 555, 541, 527, 526, 505,
        484, 483, 462, 440, 439, 396, 395, 352, 351, 308, 307, 264, 263, 220, 219, 176, 132, 88, 44, 0,
    ),
    "smart185": (
        999, 997, 995, 992, 990, 988, 986, 984, 981, 979, 977, 975, 972, 970, 968, 966, 964, 961, 959, 957,
        956, 954, 951, 949, 946, 944, 941, 939, 936, 934, 931, 929, 926, 924, 921, 919, 916, 914, 913, 910,
        907, 905, 902, 899, 896, 893, 891, 888, 885, 882, 879, 877, 874, 871, 870, 867, 864, 861, 858, 855,
        852, 849, 846, 843, 840, 837, 834, 831, 828, 827, 824, 821, 817, 814, 811, 808, 804, 801, 798, 795,
        791, 788, 785, 784, 780, 777, 774, 770, 766, 763, 760, 756, 752, 749, 746, 742, 741, 737, 733, 730,
        726, 722, 718, 714, 710, 707, 703, 699, 698, 694, 690, 685, 681, 677, 673, 669, 664, 660, 656, 655,
        650, 646, 641, 636, 632, 627, 622, 618, 613, 612, 607, 602, 596, 591, 586, 580, 575, 570, 569, 563,
        557, 551, 545, 539, 533, 527, 526, 519, 512, 505, 498, 491, 484, 483, 474, 466, 457, 449, 440, 439,
        428, 418, 407, 396, 395, 381, 366, 352, 351, 330, 308, 307, 286, 264, 263, 242, 220, 219, 176, 175,
        132, 131, 88, 44, 0,
    ),
    "super27": (
        999, 991, 982, 974, 966, 958, 950, 941, 933, 925, 916, 908, 900, 899, 874, 850, 825, 800, 799, 700,
        600, 500, 400, 300, 200, 100, 0,
    ),
    "super40": (
        999, 992, 985, 978, 971, 964, 957, 949, 942, 935, 928, 921, 914, 907, 900, 899, 879, 859, 840, 820,
        800, 799, 766, 733, 700, 699, 650, 600, 599, 500, 499, 400, 399, 300, 299, 200, 199, 100, 99, 0,
    ),
    "super100": (
        999, 996, 992, 989, 985, 982, 979, 975, 972, 968, 965, 961, 958, 955, 951, 948, 944, 941, 938, 934,
        931, 927, 924, 920, 917, 914, 910, 907, 903, 900, 899, 891, 884, 876, 869, 861, 853, 846, 838, 830,
        823, 815, 808, 800, 799, 788, 777, 766, 755, 744, 733, 722, 711, 700, 699, 688, 677, 666, 655, 644,
        633, 622, 611, 600, 599, 585, 571, 557, 542, 528, 514, 500, 499, 485, 471, 457, 442, 428, 414, 400,
        399, 379, 359, 340, 320, 300, 299, 279, 259, 240, 220, 200, 199, 166, 133, 100, 99, 66, 33, 0,
    ),
}
# fmt: on
