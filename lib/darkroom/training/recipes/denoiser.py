"""One-step denoisers: the course UNet learns to clean pictures of one noise level, or (which cannot work, and shows
why) to make them of noise alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.training.objectives import Denoising
from darkroom.training.recipes.network import NetworkRecipe, square_size


@dataclass(frozen=True, kw_only=True)
class Denoiser(NetworkRecipe):
    """x + sigma epsilon -> x, pictures in [0, 1], squared error; noise drawn anew each time."""

    name = "mnist-denoiser"

    hidden: int = 128
    sigma: float = 0.5
    pure_noise: bool = False
    batch: int = 256
    epochs: int = 5
    learning_rate: float = 1e-4
    show: tuple[int, ...] = (1, 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "sigma")

    def network(self, data: Mapping[str, Any]) -> dict[str, Any]:
        channels, size = square_size(data, self.name)
        return {"architecture": "course-unet", "channels": channels, "size": size, "hidden": self.hidden,
                "conditioning": "none", "num_classes": 0}  # fmt: skip

    def process(self) -> None:
        return None

    def objective(self, network: nn.Module) -> Denoising:
        return Denoising(network, self.sigma, self.pure_noise)

    @torch.no_grad()
    def validation_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        x = (images + 1) / 2
        shown = noise if self.pure_noise else x + self.sigma * noise
        made = torch.cat([network(part) for part in shown.split(100)])
        return F.mse_loss(made, x).item()


@dataclass(frozen=True, kw_only=True)
class PureNoiseDenoiser(Denoiser):
    """epsilon -> x: the noise says nothing of the picture, so the best answer is the mean of all pictures."""

    name = "mnist-denoiser-pure-noise"

    pure_noise: bool = True
