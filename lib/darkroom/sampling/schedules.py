"""Schedules: the moves from level to level that bring noise to a picture. Pure Python.

A schedule is a tuple of `Move`; whoever follows it needs no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from darkroom.sampling.levels import CLEAN, Level, Place
from darkroom.sampling.names import unknown

SAMPLERS = {
    "diffusion": ("ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm"),
    "flow": ("euler", "heun", "midpoint"),
    "multistep flow": ("unipc", "euler", "heun", "midpoint"),
}
TWO_MOVE_SOLVERS = ("heun", "midpoint")

Kind = Literal["denoise", "renoise", "heun_predict", "heun_correct", "midpoint_half", "midpoint_full"]


@dataclass(frozen=True)
class Move:
    """One step of a schedule: from place `t` to place `t_next`, where the state stands afterwards.

    denoise                       the model is asked at t; one evaluation brings the state to t_next
    renoise                       back up to a noisier time; the model is not asked
    heun_predict, heun_correct    one interval a -> b as two moves, both (a, b): asked at a, then at b
    midpoint_half, midpoint_full  one interval a -> b as (a, middle) and (a, b): asked at a, then in the middle
    """

    t: Place
    t_next: Place
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
    def model_time(self) -> float:
        """The time to ask the model at, which is where the state stands before this move."""
        if self.kind == "heun_correct":
            return time_of(self.t_next)
        return time_of(_middle(self.t, self.t_next) if self.kind == "midpoint_full" else self.t)


def time_of(place: Place) -> float:
    """What the model is told there."""
    return place.time if isinstance(place, Level) else place


def picture_share(place: Place) -> float:
    """How much of the picture is in the state of a flow there."""
    return place.signal if isinstance(place, Level) else place


def diffusion_moves(
    places: Sequence[Place], start: int = 0, *, end: Place = CLEAN, twice: bool = False
) -> tuple[Move, ...]:
    """Denoising moves through descending places and on to `end`, beginning at places[start].

    start = len(places) gives no moves. twice: the first interval is gone through again, asked at its end, unless that
    is `end`, where no model is asked. Raises ValueError.
    """
    times = [place for place in places if not isinstance(place, Level)]
    if any(after >= before or after < 0 for before, after in zip(times, times[1:], strict=False)):
        raise ValueError(f"timesteps must descend and not be negative; got {times}")
    _check_start(start, len(places))
    rest = [*places[start:], end]
    moves = tuple(Move(before, after) for before, after in zip(rest, rest[1:], strict=False))
    if not twice or len(moves) < 2:
        return moves
    first = moves[0]
    return (replace(first, kind="heun_predict"), replace(first, kind="heun_correct"), *moves[1:])


def flow_moves(times: Sequence[Place], sampler: str = "euler", start: int = 0) -> tuple[Move, ...]:
    """Moves of an ODE solver through ascending times, beginning at times[start]. Raises ValueError.

    heun and midpoint ask the model twice per interval. Heun's last interval keeps its second evaluation, at t = 1:
    EDM (arXiv 2206.00364, algorithm 1) drops it because its derivative divides by a noise level of zero, a velocity
    does not; dropping it would cost the second order.
    """
    shares = [picture_share(place) for place in times]
    if any(after <= before for before, after in zip(shares, shares[1:], strict=False)):
        raise ValueError(f"flow times must ascend; got {list(times)}")
    if sampler not in _FLOW_INTERVALS:
        raise unknown("flow sampler", sampler, _FLOW_INTERVALS)
    _check_start(start, len(times) - 1)
    interval = _FLOW_INTERVALS[sampler]
    pairs = zip(times[start:], times[start + 1 :], strict=False)
    return tuple(move for before, after in pairs for move in interval(before, after))


def with_jumps(moves: Sequence[Move], jump: int, times: int) -> tuple[Move, ...]:
    """RePaint's resampling: each stretch of `jump` intervals is gone through `times` times.

    From the end of a stretch one renoise move leads back to its start: RePaint's `jump` forward steps are
    Gaussian, so they compose into one. As in its `get_schedule_jump` (and algorithm 1, "if u < U and t > 1") stretches
    are counted from the last timestep upwards, and the clean picture is never jumped from: the move to CLEAN is made
    once, and so are the first few moves where `jump` does not divide the rest. times = 1 changes nothing, and a `jump`
    as long as the schedule finds no stretch.

    Source: arXiv 2201.09865, algorithm 1 and section 4.2. Raises ValueError.
    """
    if jump < 1 or times < 1:
        raise ValueError(f"jump and times must be at least 1; got jump {jump} and times {times}")
    intervals = intervals_of(moves)
    first = (len(intervals) - 1) % jump
    result = joined(intervals[:first])
    for start in range(first, len(intervals) - 1, jump):
        stretch = joined(intervals[start : start + jump])
        back = Move(stretch[-1].t_next, stretch[0].t, "renoise")
        result += stretch + (back, *stretch) * (times - 1)
    return result + joined(intervals[-1:])


def outside(moves: Sequence[Move], begin: float, end: float) -> frozenset[int]:
    """Indices of the moves outside the shares `begin` .. `end` of the schedule, 0 its noisy and 1 its clean end.

    Counted in intervals as diffusers' guiders count steps, from int(begin n) to before int(end n); one that is gone
    through again, or in two moves, has one place.
    """
    if (begin, end) == (0.0, 1.0):
        return frozenset()
    places: dict[Place, int] = {}
    at: list[int] = []
    for move in moves:
        if move.kind == "renoise" or not move.opens_interval:
            at.append(at[-1])
        else:
            at.append(places.setdefault(move.t, len(places)))
    first, last = int(begin * len(places)), int(end * len(places))
    return frozenset(index for index, place in enumerate(at) if not first <= place < last)


def intervals_of(moves: Sequence[Move]) -> list[tuple[Move, ...]]:
    """Moves grouped so that a solver's two halves stay together."""
    intervals: list[tuple[Move, ...]] = []
    for move in moves:
        assert move.kind != "renoise", f"jumps are put into a plain schedule, once; got {move}"
        if move.opens_interval:
            intervals.append((move,))
        else:
            intervals[-1] = (*intervals[-1], move)
    return intervals


def joined(intervals: Iterable[tuple[Move, ...]]) -> tuple[Move, ...]:
    """The moves of intervals, in order."""
    return tuple(move for interval in intervals for move in interval)


def _check_start(start: int, count: int) -> None:
    if not 0 <= start <= count:
        raise ValueError(f"start must lie between 0 and {count}, the number of steps in the schedule; got {start}")


def _middle(a: Place, b: Place) -> Place:
    if isinstance(a, Level) and isinstance(b, Level):
        return Level(*((one + other) / 2 for one, other in zip(a, b, strict=True)))
    return (a + b) / 2


_FLOW_INTERVALS = {
    "euler": lambda a, b: (Move(a, b),),
    "unipc": lambda a, b: (Move(a, b),),
    "heun": lambda a, b: (Move(a, b, "heun_predict"), Move(a, b, "heun_correct")),
    "midpoint": lambda a, b: (Move(a, _middle(a, b), "midpoint_half"), Move(a, b, "midpoint_full")),
}
