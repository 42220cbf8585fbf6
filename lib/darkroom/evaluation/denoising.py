"""How well a denoiser cleans pictures: what it makes of test pictures under noise of every sigma, in decibels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.evaluation.validation import HELD_OUT, as_tensor, evenly
from darkroom.models.network import Network
from darkroom.sampling import noise
from darkroom.storage import to_uint8
from darkroom.training.data import Images

SIGMAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
COLUMNS, BATCH = 10, 250

Denoise = Callable[[Tensor], Tensor]


def as_function(network: Network, device: torch.device) -> Denoise:
    """Noisy pictures [N, C, S, S] to clean ones, on the host."""
    denoiser = network.load().to(device)

    @torch.inference_mode()
    def denoise(noisy: Tensor) -> Tensor:
        return torch.cat([denoiser(part.to(device)).float().cpu() for part in noisy.split(BATCH)])

    return denoise


def noised(pictures: Tensor, sigma: float) -> Tensor:
    """x + sigma eps; pictures [N, C, S, S] in 0..1. Each picture has its own eps, the same for every sigma."""
    drawn = [noise.normal(number, 0, noise.START, 0, pictures.shape[1:]) for number in range(len(pictures))]
    return pictures + sigma * torch.stack([torch.from_numpy(eps) for eps in drawn])


def psnr(estimate: Tensor, clean: Tensor) -> float:
    """Decibels, -10 log10 of the mean squared error over all pixels of all pictures, for a data range of 1."""
    error = (estimate.double() - clean.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def psnr_table(denoise: Denoise, clean: Tensor) -> list[tuple[float, float, float]]:
    """(sigma, PSNR of the noisy pictures, PSNR of the denoised ones) for each of SIGMAS; nothing is clipped."""
    lines = []
    for sigma in SIGMAS:
        noisy = noised(clean, sigma)
        lines.append((sigma, psnr(noisy, clean), psnr(denoise(noisy), clean)))
    return lines


def decibels(denoise: Denoise, test: Images, seeds: int = 1) -> dict[str, Any]:
    """PSNR by sigma, before and after, and after by seed; null where there is no error at all.

    Noise belongs to a picture's number, so turning the pictures round gives each another: that makes the next seed.
    """
    clean = as_tensor(test.images[evenly(len(test.labels), HELD_OUT)]).float() / 255
    tables = [psnr_table(denoise, clean.roll(seed, 0)) for seed in range(seeds)]
    lines = [
        {
            "sigma": sigma,
            "noisy": _finite(before),
            "denoised": _finite(after),
            "denoised_by_seed": [_finite(table[number][2]) for table in tables],
        }
        for number, (sigma, before, after) in enumerate(tables[0])
    ]
    return {"psnr": lines, "pictures": len(clean)}


def cleaned(denoise: Denoise, test: Images) -> tuple[Tensor, list[int], list[str]]:
    """The first picture of each class, at most ten, noisy and cleaned under every sigma, row by row.

    uint8 [rows x columns, C, S, S], the label of each column, the name of each row.
    """
    labels = np.unique(test.labels)[:COLUMNS]
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in labels]
    clean = as_tensor(test.images[firsts]).float() / 255
    noisy = [noised(clean, sigma) for sigma in SIGMAS]
    rows = torch.cat([pictures for batch in noisy for pictures in (batch, denoise(batch))])
    names = [name for sigma in SIGMAS for name in (f"sigma {sigma:g}", "denoised")]
    return to_uint8(rows * 2 - 1), labels.tolist(), names


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
