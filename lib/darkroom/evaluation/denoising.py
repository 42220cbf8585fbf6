"""How well a denoiser cleans pictures, in decibels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from darkroom.sampling import noise

SIGMAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)

Denoise = Callable[[Tensor], Tensor]


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
    found = []
    for sigma in SIGMAS:
        noisy = noised(clean, sigma)
        found.append((sigma, psnr(noisy, clean), psnr(denoise(noisy), clean)))
    return found
