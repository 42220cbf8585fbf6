"""Measures a denoiser: what it makes of test pictures under noise of every sigma."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.evaluation.denoising import SIGMAS, Denoise, noised, psnr_table
from darkroom.evaluation.sample_measures import HELD_OUT, as_tensor, evenly
from darkroom.models.network import Network
from darkroom.training.data import Images

COLUMNS, BATCH = 10, 250


def as_function(network: Network, device: torch.device) -> Denoise:
    """Noisy pictures [N, C, S, S] to clean ones, on the host."""
    denoiser = network.load().to(device)

    @torch.inference_mode()
    def denoise(noisy: Tensor) -> Tensor:
        return torch.cat([denoiser(part.to(device)).float().cpu() for part in noisy.split(BATCH)])

    return denoise


def decibels(denoise: Denoise, test: Images) -> dict[str, Any]:
    """PSNR by sigma, before and after; null where there is no error at all."""
    chosen = evenly(len(test.labels), HELD_OUT)
    found = psnr_table(denoise, as_tensor(test.images[chosen]).float() / 255)
    lines = [{"sigma": s, "noisy": _finite(before), "denoised": _finite(after)} for s, before, after in found]
    return {"psnr": lines, "pictures": len(chosen)}


def cleaned(denoise: Denoise, test: Images) -> tuple[Tensor, list[int], list[str]]:
    """The first picture of each class, at most ten, noisy and cleaned under every sigma, row by row.

    uint8 [rows x columns, C, S, S], the label of each column, the name of each row.
    """
    labels = np.unique(test.labels)[:COLUMNS]
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in labels]
    clean = as_tensor(test.images[firsts]).float() / 255
    noisy = [noised(clean, sigma) for sigma in SIGMAS]
    rows = torch.cat([picture for one in noisy for picture in (one, denoise(one))])
    names = [name for sigma in SIGMAS for name in (f"sigma {sigma:g}", "denoised")]
    return (rows.clamp(0, 1) * 255).round().byte(), labels.tolist(), names


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
