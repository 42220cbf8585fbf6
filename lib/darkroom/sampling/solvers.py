"""Solvers: the scalars of a reverse step, one line of them per move.

Apart from bounding the estimate and the learned variance, every solver here is linear with scalars that depend on the
move only. They are computed once per row, on the host, in float64; a pass gathers one line per sample, so samples at
different times, with different samplers, take their step in one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from darkroom.sampling.schedules import Move

MIN_VARIANCE = 1e-20  # a variance is looked at through its logarithm


class Column(IntEnum):
    """Columns of a table of coefficients.

    x_next      = STATE x + ANCHOR anchor + PREDICTION prediction + ESTIMATE estimate + std noise
    anchor_next = ANCHOR_STATE x + ANCHOR_ANCHOR anchor + ANCHOR_PREDICTION prediction
    estimate    = bounded(ESTIMATE_STATE x + ESTIMATE_PREDICTION prediction), the model's idea of x0
    std         = NOISE exp(SPREAD variance); a move whose NOISE is 0 draws no noise
    known_next  = SIGNAL_NEXT x0 + NOISE_NEXT noise: a given picture, noised to where the move leads
    """

    SIGNAL_NEXT = 0
    NOISE_NEXT = 1
    STATE = 2
    PREDICTION = 3
    NOISE = 4
    ESTIMATE = 5
    ESTIMATE_STATE = 6
    ESTIMATE_PREDICTION = 7
    SPREAD = 8
    ANCHOR = 9
    ANCHOR_STATE = 10
    ANCHOR_ANCHOR = 11
    ANCHOR_PREDICTION = 12


def table(lines: Sequence[Mapping[Column, float]]) -> Tensor:
    """float32 [len(lines), len(Column)]; a column that a line does not name is 0."""
    values = [[line.get(column, 0.0) for column in Column] for line in lines]
    return torch.tensor(values, dtype=torch.float64).reshape(-1, len(Column)).float()


def per_sample(coefficients: Tensor) -> Tensor:
    """[B, K] -> [K, B, 1, 1, 1]: indexed by a Column, it spreads over x [B, C, H, W]."""
    return coefficients.T[:, :, None, None, None]


def estimate(prediction: str, a: float) -> dict[Column, float]:
    """x0 from the state and what a diffusion model predicts: epsilon, x0 or v. a: alpha_bar of the time asked at."""
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    of_state, of_prediction = {"epsilon": (1 / signal, -noise / signal), "x0": (0.0, 1.0), "v": (signal, -noise)}[
        prediction
    ]
    return {Column.ESTIMATE_STATE: of_state, Column.ESTIMATE_PREDICTION: of_prediction}


def ddpm(a: float, a_next: float, learned_variance: bool) -> dict[Column, float]:
    """DDPM (arXiv 2006.11239), equation 7, where beta is that of the whole interval from t_next to t."""
    assert a < a_next, f"denoise leads to a cleaner time: alpha_bar {a} -> {a_next}"
    alpha = a / a_next
    mean = {
        Column.ESTIMATE: math.sqrt(a_next) * (1 - alpha) / (1 - a),
        Column.STATE: math.sqrt(alpha) * (1 - a_next) / (1 - a),
    }
    return mean if a_next == 1.0 else mean | _ddpm_noise(a, a_next, learned_variance)


def _ddpm_noise(a: float, a_next: float, learned_variance: bool) -> dict[Column, float]:
    """Log variance, arXiv 2102.09672 equation 15: frac log(beta) + (1 - frac) log(beta~), frac = (v + 1) / 2.

    Half of it is the log of the standard deviation, and linear in v: log NOISE + SPREAD v.
    """
    beta = 1 - a / a_next
    posterior = max(beta * (1 - a_next) / (1 - a), MIN_VARIANCE)
    if not learned_variance:
        return {Column.NOISE: math.sqrt(posterior)}
    low, high = math.log(posterior), math.log(beta)
    return {Column.NOISE: math.exp(0.25 * (high + low)), Column.SPREAD: 0.25 * (high - low)}


def ddim(a: float, a_next: float, eta: float) -> dict[Column, float]:
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


def renoise(a: float, a_next: float) -> dict[Column, float]:
    """q(x_t_next | x_t): a diffusion's forward steps, which compose into one."""
    assert a_next < a, f"renoise leads to a noisier time: alpha_bar {a} -> {a_next}"
    return {Column.STATE: math.sqrt(a_next / a), Column.NOISE: math.sqrt(1 - a_next / a)}


def flow_step(move: Move) -> dict[Column, float]:
    """Euler's step, or one of the two moves of Heun's or the midpoint method.

    The anchor carries from the first to the second move of an interval what the second starts from.
    """
    assert move.t < move.t_next, f"a flow runs towards 1: {move}"
    width = move.t_next - move.t
    keep = {Column.ANCHOR_ANCHOR: 1.0}
    return {
        "denoise": {Column.STATE: 1.0, Column.PREDICTION: width} | keep,
        "heun_predict": {
            Column.STATE: 1.0,
            Column.PREDICTION: width,
            Column.ANCHOR_STATE: 1.0,
            Column.ANCHOR_PREDICTION: width / 2,
        },
        "heun_correct": {Column.ANCHOR: 1.0, Column.PREDICTION: width / 2} | keep,
        "midpoint_half": {Column.STATE: 1.0, Column.PREDICTION: width, Column.ANCHOR_STATE: 1.0},
        "midpoint_full": {Column.ANCHOR: 1.0, Column.PREDICTION: width} | keep,
    }[move.kind]


def flow_renoise(t: float, t_next: float) -> dict[Column, float]:
    """Scaled so that the picture's share is t_next, and topped up so that the noise's is 1 - t_next."""
    assert t_next < t, f"renoise leads to an earlier time: {t} -> {t_next}"
    scale = t_next / t
    std = math.sqrt((1 - t_next) ** 2 - (scale * (1 - t)) ** 2)
    return {Column.STATE: scale, Column.NOISE: std, Column.ANCHOR_ANCHOR: 1.0}
