"""When the reverse process stands where: lists of times, and the moves between them. Pure Python.

Discrete diffusion counts timesteps T-1 .. 0 downwards, and ends at `CLEAN`, the picture without noise. Flow matching
goes upwards from 0.0 (noise) to 1.0 (picture). A schedule is a tuple of `Move`; what walks it needs no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from darkroom.sampling.names import unknown

CLEAN = -1
TWO_MOVE_SOLVERS = ("heun", "midpoint")
DEFAULT_STRIDE = 30

Kind = Literal["denoise", "renoise", "heun_predict", "heun_correct", "midpoint_half", "midpoint_full"]


@dataclass(frozen=True)
class Move:
    """One step of a walk: from time `t` to time `t_next`, where the state stands afterwards.

    denoise                       the model is asked at t; one evaluation brings the state to t_next
    renoise                       back up to a noisier time; the model is not asked
    heun_predict, heun_correct    one interval a -> b as two moves, both (a, b): asked at a, then at b
    midpoint_half, midpoint_full  one interval a -> b as (a, middle) and (a, b): asked at a, then in the middle
    """

    t: int | float
    t_next: int | float
    kind: Kind = "denoise"

    @property
    def asks(self) -> bool:
        """Whether this move needs an evaluation of the model."""
        return self.kind != "renoise"

    @property
    def opens_interval(self) -> bool:
        """Whether it is the first or only move of its interval, and not a solver's second."""
        return self.kind not in ("heun_correct", "midpoint_full")

    @property
    def model_time(self) -> int | float:
        """The time to ask the model at, which is where the state stands before this move."""
        if self.kind == "heun_correct":
            return self.t_next
        return _middle(self.t, self.t_next) if self.kind == "midpoint_full" else self.t


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
    below = [each for each in levels if each < level]
    if until is None:
        return [level, *below]
    places = [place for place, each in enumerate(below) if abs(each - until) < 0.05]
    if not places:
        raise ValueError(_never_there(below, level, until))
    return [level, *below[: places[0] + 1]]


def start_index(n: int, strength: float) -> int:
    """Index of the first of n denoising moves for SDEdit's `strength`, as diffusers' `get_timesteps` counts.

    0 gives n, that is no move at all; 1 gives 0, the whole schedule.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie between 0 and 1; got {strength}")
    return n - min(int(n * strength), n)


def moves(times: Sequence[int], start: int = 0) -> tuple[Move, ...]:
    """Denoising moves through descending timesteps and on to CLEAN, beginning at times[start].

    start = len(times) gives no moves. Raises ValueError.
    """
    if any(after >= before or after < 0 for before, after in zip(times, times[1:], strict=False)):
        raise ValueError(f"timesteps must descend and not be negative; got {list(times)}")
    _check_start(start, len(times))
    rest = [*times[start:], CLEAN]
    return tuple(Move(before, after) for before, after in zip(rest, rest[1:], strict=False))


def flow_moves(times: Sequence[float], sampler: str = "euler", start: int = 0) -> tuple[Move, ...]:
    """Moves of an ODE solver through ascending times, beginning at times[start]. Raises ValueError.

    heun and midpoint ask the model twice per interval. Heun's last interval keeps its second evaluation, at t = 1:
    EDM (arXiv 2206.00364, algorithm 1) drops it because its derivative divides by a noise level of zero, a velocity
    does not; dropping it would cost the second order.
    """
    if any(after <= before for before, after in zip(times, times[1:], strict=False)):
        raise ValueError(f"flow times must ascend; got {list(times)}")
    if sampler not in _FLOW_INTERVALS:
        raise unknown("flow sampler", sampler, _FLOW_INTERVALS)
    _check_start(start, len(times) - 1)
    interval = _FLOW_INTERVALS[sampler]
    pairs = zip(times[start:], times[start + 1 :], strict=False)
    return tuple(move for before, after in pairs for move in interval(before, after))


def with_jumps(walk: Sequence[Move], jump: int, times: int) -> tuple[Move, ...]:
    """RePaint's resampling: each stretch of `jump` intervals is walked `times` times.

    From the end of a stretch one renoise move leads back to its beginning: RePaint's `jump` forward steps are
    Gaussian, so they compose into one. As in its `get_schedule_jump` (and algorithm 1, "if u < U and t > 1") stretches
    are counted from the last timestep upwards, and the clean picture is never jumped from: the move to CLEAN is made
    once, and so are the first few moves where `jump` does not divide the rest. times = 1 changes nothing, and a `jump`
    as long as the walk finds no stretch.

    Source: arXiv 2201.09865, algorithm 1 and section 4.2. Raises ValueError.
    """
    if jump < 1 or times < 1:
        raise ValueError(f"jump and times must be at least 1; got jump {jump} and times {times}")
    intervals = _intervals(walk)
    first = (len(intervals) - 1) % jump
    result = [move for interval in intervals[:first] for move in interval]
    for begin in range(first, len(intervals) - 1, jump):
        stretch = [move for interval in intervals[begin : begin + jump] for move in interval]
        back = Move(stretch[-1].t_next, stretch[0].t, "renoise")
        result += stretch + [back, *stretch] * (times - 1)
    return tuple(result + [move for interval in intervals[-1:] for move in interval])


def _never_there(below: Sequence[float], level: float, until: float) -> str:
    where = f"'until' must be a time that the walk down from {level:g} stands at"
    if not below:
        return f"{where}, and it stands at none; was {until:g}"
    near = sorted(sorted(below, key=lambda each: abs(each - until))[:2], reverse=True)
    return f"{where}, the nearest: {' and '.join(f'{each:.5g}' for each in near)}; was {until:g}"


def _named(name: str, num_timesteps: int) -> list[int]:
    if name not in NAMED:
        raise unknown("schedule", name, NAMED)
    if num_timesteps != 1000:
        raise ValueError(f"schedule {name!r} is made for models with 1000 timesteps; this one has {num_timesteps}")
    return list(NAMED[name])


def _check_count(what: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{what} must lie between 1 and the model's {most} timesteps; got {value}")


def _check_start(start: int, count: int) -> None:
    if not 0 <= start <= count:
        raise ValueError(f"start must lie between 0 and {count}, the number of steps in the schedule; got {start}")


def _middle(a: float, b: float) -> float:
    return (a + b) / 2


_FLOW_INTERVALS = {
    "euler": lambda a, b: (Move(a, b),),
    "heun": lambda a, b: (Move(a, b, "heun_predict"), Move(a, b, "heun_correct")),
    "midpoint": lambda a, b: (Move(a, _middle(a, b), "midpoint_half"), Move(a, b, "midpoint_full")),
}


def _intervals(walk: Sequence[Move]) -> list[tuple[Move, ...]]:
    """Moves grouped so that a solver's two halves stay together."""
    groups: list[tuple[Move, ...]] = []
    for move in walk:
        assert move.kind != "renoise", f"jumps are put into a plain walk, once; got {move}"
        if move.opens_interval:
            groups.append((move,))
        else:
            groups[-1] = (*groups[-1], move)
    return groups


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
