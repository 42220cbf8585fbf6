"""Solvers: a reverse step as one small matrix, a line of numbers per move.

Apart from bounding the estimate and the learned variance, every solver here is linear in the state, what it remembers,
what the model says and the noise, with numbers that depend on the walk only. They are found once per row, on the host,
in float64; a pass gathers one line per sample, so samples at different times, with different solvers, take their step
in one call.

States are variance-preserving throughout, x = signal x0 + noise eps, so that views, masks and re-noising mean the same
with every solver: Euler is DDIM with eta 0 there, and Euler ancestral DDIM with eta 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.sampling import bitwise
from darkroom.sampling.levels import Level
from darkroom.sampling.schedules import Kind, Move, picture_share
from darkroom.sampling.shifts import Shift

MIN_VARIANCE = 1e-20  # a variance is looked at through its logarithm
REMEMBERED = 3  # tensors that a row carries from one move to the next, at most


class Column(IntEnum):
    """Columns of a table of coefficients; `kept` are those of what is remembered.

    estimate    = bounded(ESTIMATE_STATE x + ESTIMATE_PREDICTION prediction), the model's idea of x0
    x_next      = STATE x + MEMORY_1 m1 + .. + PREDICTION prediction + ESTIMATE estimate + std noise
    std         = NOISE exp(SPREAD variance); a move whose NOISE is 0 draws no noise
    known_next  = SIGNAL_NEXT x0 + NOISE_NEXT noise: a given picture, noised to where the move leads
    """

    SIGNAL_NEXT = 0
    NOISE_NEXT = 1
    ESTIMATE_STATE = 2
    ESTIMATE_PREDICTION = 3
    SPREAD = 4
    STATE = 5
    MEMORY_1 = 6
    MEMORY_2 = 7
    MEMORY_3 = 8
    PREDICTION = 9
    ESTIMATE = 10
    NOISE = 11


TERMS = tuple(range(Column.STATE, Column.NOISE + 1))  # what a sum is made of, in the order in which it is added up
WIDTH = len(Column) + REMEMBERED * len(TERMS)
Line = dict[int, float]


def kept(number: int, term: int) -> int:
    """The column of a term (STATE .. NOISE) in the sum that becomes the remembered tensor `number`, 1 .. REMEMBERED."""
    return term + number * len(TERMS)


def _columns(number: int) -> tuple[int, ...]:
    """Those of the sum that becomes the remembered tensor, or for 0 the state."""
    return tuple(kept(number, term) for term in TERMS)


_SUMS = tuple(_columns(number) for number in range(REMEMBERED + 1))
_WRITES = tuple(frozenset(columns) for columns in _SUMS[1:])
_READS = tuple(
    frozenset(kept(into, Column.STATE + number) for into in range(REMEMBERED + 1))
    for number in range(1, REMEMBERED + 1)
)
_ESTIMATES = frozenset(kept(into, Column.ESTIMATE) for into in range(REMEMBERED + 1))


def table(lines: Sequence[Mapping[int, float]]) -> Tensor:
    """float32 [len(lines), WIDTH]; a column that a line does not name is 0."""
    values = torch.zeros(len(lines), WIDTH, dtype=torch.float64)
    for row, line in zip(values.numpy(), lines, strict=True):
        row[list(line)] = list(line.values())
    return values.float()


def used_columns(coefficients: Tensor) -> frozenset[int]:
    """Columns that are not 0 on every line of a table on the host."""
    return frozenset(coefficients.any(0).nonzero().flatten().tolist())


def reads(used: frozenset[int], number: int) -> bool:
    """Whether lines with these columns look at the remembered tensor `number`, 1 .. REMEMBERED."""
    return not used.isdisjoint(_READS[number - 1])


def writes(used: frozenset[int], number: int) -> bool:
    """Whether lines with these columns set the remembered tensor `number`."""
    return not used.isdisjoint(_WRITES[number - 1])


Memory = Sequence[Tensor | None]


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """values [..., B], spread over the samples of x [B, C, H, W] or, of videos, [B, C, F, H, W]: [..., B, 1, 1, 1]."""
    return values.reshape(*values.shape, *[1] * (x.ndim - 1))


def step(
    x: Tensor,
    memory: Memory,
    prediction: Tensor,
    variance: Tensor | None,
    coefficients: Tensor,
    noise: Tensor | None,
    bounded: Callable[[Tensor], Tensor],
    used: frozenset[int],
) -> tuple[Tensor, list[Tensor | None]]:
    """One move per sample -> (x_next, memory_next), what is not set being None.

    x, memory, prediction, variance, noise: float32 [B, C, (F,) H, W], all finite, also where a sample's line ignores
    them; variance is None unless it is learned, noise where nobody draws any, a memory where nobody looks at it.
    coefficients: [B, WIDTH], each sample's line of the table; used: columns that are not 0 for some sample.

    A sample's result has the same bits in every batch on one device: see `bitwise` for what that leaves out. Columns
    that are 0 for all are left out, which a sum that begins with 0 does not show: what is added for a neighbour's sake
    is 0 times something, and 0 + -0 is 0.
    """
    numbers = per_sample(coefficients.T, x)
    factors = {column: numbers[column] for column in used}
    if Column.SPREAD in used:
        assert variance is not None, "this process learns its variance, and got none"
        factors[Column.NOISE] = factors[Column.NOISE] * bitwise.exp(factors[Column.SPREAD] * variance)

    def mixed(columns: Sequence[int], terms: Sequence[Tensor | None]) -> Tensor:
        parts = [factors[column] * term for column, term in zip(columns, terms, strict=True) if column in used]
        return sum(parts[1:], parts[0] + 0.0) if parts else torch.zeros_like(x)

    estimate = None
    if not used.isdisjoint(_ESTIMATES):
        estimate = bounded(mixed((Column.ESTIMATE_STATE, Column.ESTIMATE_PREDICTION), (x, prediction)))
    terms = (x, *memory, prediction, estimate, noise)
    sets = {0, *(number for number in range(1, REMEMBERED + 1) if writes(used, number))}
    x_next, *remembered = (mixed(columns, terms) if number in sets else None for number, columns in enumerate(_SUMS))
    return x_next, remembered


class Steps(ABC):
    """A process that makes its steps by a table. shift: of the flows that are walked by one."""

    shift: Shift | None = None

    @abstractmethod
    def bounded(self, x0: Tensor) -> Tensor:
        """x0 [B, C, H, W], kept within what a picture may hold."""

    def step(
        self,
        x: Tensor,
        memory: Memory,
        prediction: Tensor,
        variance: Tensor | None,
        coefficients: Tensor,
        noise: Tensor | None,
        used: frozenset[int] | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """One move per sample -> (x_next, memory_next): see `solvers.step`. used: None to find it out, on the host."""
        used = used_columns(coefficients) if used is None else used
        return step(x, memory, prediction, variance, coefficients, noise, self.bounded, used)


class Leg(NamedTuple):
    """A move of a walk as a solver sees it: where the model is asked and the state stands, and where it leads."""

    at: Level
    to: Level
    kind: Kind = "denoise"


def diffusion_lines(
    moves: Sequence[Move], level: Callable[..., Level], prediction: str, solver: Callable[[list[Leg], int], Line]
) -> list[Line]:
    """The lines of a diffusion's moves.

    solver: from the legs so far and the number of those that follow to the present move's line. Its history begins
    anew where a picture was noised: at the start, and after a renoise.
    """
    lines: list[Line] = []
    legs: list[Leg] = []
    for place, move in enumerate(moves):
        leg = Leg(level(move.t), level(move.t_next), move.kind)
        line: Line = {Column.SIGNAL_NEXT: leg.to.signal, Column.NOISE_NEXT: leg.to.noise}
        if move.kind == "renoise":
            legs = []
            lines.append(line | renoise(leg.at.alpha_bar, leg.to.alpha_bar))
            continue
        legs.append(leg)
        asked = leg.to if move.kind == "heun_correct" else leg.at
        lines.append(line | estimate(prediction, asked.alpha_bar) | solver(legs, len(moves) - place - 1))
    return lines


def estimate(prediction: str, a: float) -> Line:
    """x0 from the state and what a diffusion model predicts: epsilon, x0 or v. a: alpha_bar of the time asked at."""
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    if prediction == "x0":
        of_state, of_prediction = 0.0, 1.0
    elif prediction == "v":
        of_state, of_prediction = signal, -noise
    else:
        of_state, of_prediction = 1 / signal, -noise / signal
    return {Column.ESTIMATE_STATE: of_state, Column.ESTIMATE_PREDICTION: of_prediction}


def ddpm(a: float, a_next: float, learned_variance: bool) -> Line:
    """DDPM (arXiv 2006.11239), equation 7, where beta is that of the whole interval from t_next to t."""
    assert a < a_next, f"denoise leads to a cleaner time: alpha_bar {a} -> {a_next}"
    alpha = a / a_next
    mean: Line = {
        Column.ESTIMATE: math.sqrt(a_next) * (1 - alpha) / (1 - a),
        Column.STATE: math.sqrt(alpha) * (1 - a_next) / (1 - a),
    }
    return mean if a_next == 1.0 else mean | _ddpm_noise(a, a_next, learned_variance)


def _ddpm_noise(a: float, a_next: float, learned_variance: bool) -> Line:
    """Log variance, arXiv 2102.09672 equation 15: frac log(beta) + (1 - frac) log(beta~), frac = (v + 1) / 2.

    Half of it is the log of the standard deviation, and linear in v: log NOISE + SPREAD v.
    """
    beta = 1 - a / a_next
    posterior = max(beta * (1 - a_next) / (1 - a), MIN_VARIANCE)
    if not learned_variance:
        return {Column.NOISE: math.sqrt(posterior)}
    low, high = math.log(posterior), math.log(beta)
    return {Column.NOISE: math.exp(0.25 * (high + low)), Column.SPREAD: 0.25 * (high - low)}


def ddim(a: float, a_next: float, eta: float) -> Line:
    """DDIM (arXiv 2010.02502), equations 12 and 16, with the noise that the bounded estimate leaves
    (use_clipped_model_output).

    The model's own noise, diffusers' default, contradicts an estimate that was bounded: at guidance 7 the two drift
    apart from step to step and the picture ends as noise.
    """
    assert a < a_next, f"denoise leads to a cleaner time: alpha_bar {a} -> {a_next}"
    sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
    direction = math.sqrt(max(1 - a_next - sigma**2, 0.0))
    per_noise = direction / math.sqrt(1 - a)
    return {
        Column.ESTIMATE: math.sqrt(a_next) - per_noise * math.sqrt(a),
        Column.STATE: per_noise,
        Column.NOISE: sigma,
    }


def renoise(a: float, a_next: float) -> Line:
    """q(x_t_next | x_t): a diffusion's forward steps, which compose into one."""
    assert a_next < a, f"renoise leads to a noisier time: alpha_bar {a} -> {a_next}"
    return {Column.STATE: math.sqrt(a_next / a), Column.NOISE: math.sqrt(1 - a_next / a)}


def flow_step(move: Move) -> Line:
    """Euler's step, or one of the two moves of Heun's or the midpoint method.

    What is remembered carries from the first to the second move of an interval what the second starts from.
    """
    width = picture_share(move.t_next) - picture_share(move.t)
    assert width > 0, f"a flow runs towards 1: {move}"
    return {
        "denoise": {Column.STATE: 1.0, Column.PREDICTION: width},
        "heun_predict": {Column.STATE: 1.0, Column.PREDICTION: width}
        | _remember({1: {Column.STATE: 1.0, Column.PREDICTION: width / 2}}),
        "heun_correct": {Column.MEMORY_1: 1.0, Column.PREDICTION: width / 2},
        "midpoint_half": {Column.STATE: 1.0, Column.PREDICTION: width} | _remember({1: {Column.STATE: 1.0}}),
        "midpoint_full": {Column.MEMORY_1: 1.0, Column.PREDICTION: width},
    }[move.kind]


def flow_renoise(t: float, t_next: float) -> Line:
    """Scaled so that the picture's share is t_next, and topped up so that the noise's is 1 - t_next."""
    assert t_next < t, f"renoise leads to an earlier time: {t} -> {t_next}"
    scale = t_next / t
    std = math.sqrt((1 - t_next) ** 2 - (scale * (1 - t)) ** 2)
    return {Column.STATE: scale, Column.NOISE: std}


def _remember(sums: Mapping[int, Mapping[int, float]]) -> Line:
    return {kept(number, term): value for number, own in sums.items() for term, value in own.items()}
