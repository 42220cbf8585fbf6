"""Solvers of higher order, which remember what the model said at earlier moves: DPM-Solver++ 2M, UniPC and PLMS.

Each is a function from the legs of a walk since its history began, the present one last, and the number of those that
follow, to the present move's line. m is the model's estimate of x0, bounded as the process bounds it before it is used
and remembered; lambda = log(signal / noise); h is the step in it, infinite where it leads to the clean picture or from
where there is none of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from darkroom.sampling.levels import Level
from darkroom.sampling.solvers import Column, Leg, Line, kept

UNEVEN = 16  # steps of the one before; diffusers' grids have 5 at most
STEEP = 8  # times as much of the picture; Stable Diffusion's ten steps have 2.2 at most
X, M1, M2, M3, M, Z = (
    Column.STATE, Column.MEMORY_1, Column.MEMORY_2, Column.MEMORY_3, Column.ESTIMATE, Column.NOISE,
)  # fmt: skip


def dpmpp_2m(legs: Sequence[Leg], left: int) -> Line:
    """DPM-Solver++(2M) of the midpoint kind (arXiv 2211.01095, algorithm 2): remembers the estimate before.

    Of first order where there is none, and to the clean picture, where no polynomial in lambda reaches.
    """
    at, to, _ = legs[-1]
    gain = -to.signal * math.expm1(-_step(at, to))
    return _two_estimates(legs, to.noise / at.noise, gain)


def dpmpp_2m_sde(legs: Sequence[Leg], left: int) -> Line:
    """The same of the stochastic equation (SDE-DPM-Solver++(2M), arXiv 2211.01095, section 5)."""
    at, to, _ = legs[-1]
    h = _step(at, to)
    line = _two_estimates(legs, to.noise / at.noise * math.exp(-h), -to.signal * math.expm1(-2 * h))
    return line | {Z: to.noise * math.sqrt(-math.expm1(-2 * h))}


def _two_estimates(legs: Sequence[Leg], decay: float, gain: float) -> Line:
    """decay x + gain [m + (m - m1) / 2r], r being the step before as a share of this one."""
    past = _past(legs) if legs[-1].to.noise > 0 else 0.0
    return _line({X: decay, M: gain * (1 + past), M1: -gain * past}, {M: 1.0})


def unipc(legs: Sequence[Leg], left: int) -> Line:
    """UniPC of order 2, B(h) = e^h - 1, on x0 (arXiv 2302.04867, algorithms 1 to 3).

    First the state is corrected by the estimate that was had from it, then the next is foretold from there. Remembers
    the corrected state, the estimate and the one before it.
    """
    at, to, _ = legs[-1]
    corrected = _corrected(legs)
    h = _step(at, to)
    gain = -to.signal * math.expm1(-h)
    past = _past(legs) if left else 0.0
    line = _scaled(corrected, to.noise / at.noise)
    line = _plus(line, {M: gain * (1 + past), M2: -gain * past})
    return _line(line, corrected, {M: 1.0}, {M2: 1.0} if len(legs) > 1 else None)


def _corrected(legs: Sequence[Leg]) -> Line:
    """The state in terms of the one before, of the same order as its prediction was."""
    if len(legs) == 1:
        return {X: 1.0}
    before, at = legs[-2].at, legs[-1].at
    h = _step(before, at)
    gain = -at.signal * math.expm1(-h)
    first = math.expm1(-h) / -h - 1
    if not _past(legs[:-1]):
        last, older = 0.5, 0.0
    else:
        q = -_step(legs[-3].at, before) / h
        b1 = first / math.expm1(-h)
        b2 = 2 * (first / -h - 0.5) / math.expm1(-h)
        # [[1, 1], [q, 1]] (r, last) = (b1, b2)
        r = (b2 - b1) / (q - 1)
        last, older = b1 - r, r / q
    return {
        M1: at.noise / before.noise,
        M2: gain * (1 - older - last),
        M3: gain * older,
        M: gain * last,
    }


def pndm(legs: Sequence[Leg], left: int) -> Line:
    """PLMS (arXiv 2202.09778, equations 9 to 12): an Adams-Bashforth step in the noise that the estimates leave.

    Remembers the last three noises. An interval in two moves is gone through again from where it began, with the mean
    of the noises at its two ends; the second of these is not remembered, and the third place is the first state's.
    Of first order where an interval begins with hardly any picture (the cosine schedule's first timesteps): there a
    difference of two noises becomes a thousand times as much of picture.
    """
    at, to, kind = legs[-1]
    stands = to if kind == "heun_correct" else at
    noise = {X: 1 / stands.noise, M: -stands.signal / stands.noise}
    steep = to.signal > STEEP * at.signal
    if kind == "heun_correct" and steep:
        return _line({X: 1.0}, {M1: 1.0})
    if kind == "heun_correct":
        return _line(_moved({M3: 1.0}, _plus(_scaled(noise, 0.5), {M1: 0.5}), at, to), {M1: 1.0})
    if kind == "heun_predict":
        return _line(_moved({X: 1.0}, noise, at, to), noise, None, {X: 1.0})
    past = (M1, M2, M3)[: sum(leg.kind != "heun_correct" for leg in legs) - 1]
    weights = _ADAMS[0 if steep else len(past)]
    mixed = _scaled(noise, weights[0])
    for memory, weight in zip(past, weights[1:], strict=False):
        mixed = _plus(mixed, {memory: weight})
    return _line(_moved({X: 1.0}, mixed, at, to), noise, *({memory: 1.0} for memory in past[:2]))


_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _moved(state: Line, noise: Line, at: Level, to: Level) -> Line:
    """The state with this noise in it, at another level: DDIM's step."""
    scale = to.signal / at.signal
    return _plus(_scaled(state, scale), _scaled(noise, to.noise - scale * at.noise))


def _past(legs: Sequence[Leg]) -> float:
    """Half the present step by the one before, what the change since then counts; 0 where there is nothing to go by.

    Nor is there where a step is many times the one before, as in the schedules that go down by one timestep and then by
    two hundred: the change over the little step, so many times over, would be mostly its error.
    """
    if len(legs) < 2:
        return 0.0
    ratio = _step(*legs[-1][:2]) / _step(legs[-2].at, legs[-1].at)  # 0 after a step from no picture at all
    return ratio / 2 if ratio < UNEVEN else 0.0


def _step(at: Level, to: Level) -> float:
    """h, from one level to a cleaner one."""
    assert at.noise > to.noise, f"a walk leads to cleaner levels: {at} -> {to}"
    if to.noise == 0 or at.signal == 0:
        return math.inf
    return math.log(to.signal / to.noise) - math.log(at.signal / at.noise)


def _line(state: Line, *memory: Line | None) -> Line:
    return state | {
        kept(number, term): value for number, own in enumerate(memory, 1) for term, value in (own or {}).items()
    }


def _plus(one: Line, other: Line) -> Line:
    return {term: one.get(term, 0.0) + other.get(term, 0.0) for term in {**one, **other}}


def _scaled(line: Line, by: float) -> Line:
    return {term: value * by for term, value in line.items()}
