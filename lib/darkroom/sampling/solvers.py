"""The scalars of a reverse step, one line per move: what every process agrees on.

Apart from bounding the estimate and the learned variance, every solver here is linear with scalars that depend on the
move only. They are computed once per row, on the host, in float64; a pass gathers one line per sample, so samples at
different times, with different samplers, take their step in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor


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
