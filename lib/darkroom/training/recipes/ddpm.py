"""Denoising diffusion (DDPM, arXiv 2006.11239) on a UNet with attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from darkroom.evaluation.validation import validation_loss
from darkroom.sampling.diffusion import Diffusion
from darkroom.training.objectives import DenoisingDiffusion
from darkroom.training.recipes.network import NetworkRecipe, square_size


@dataclass(frozen=True, kw_only=True)
class MnistDDPM(NetworkRecipe):
    """Class-conditional; schedule: of the noise; drop: how often the class is withheld. linear: from 1e-4 to 0.02."""

    name = "mnist-ddpm"

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    attention: tuple[int, ...] = (7,)
    dropout: float = 0.0
    classes: bool = True
    drop: float = 0.1
    schedule: Literal["linear", "cosine"] = "cosine"
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    num_timesteps: int = 1000
    batch: int = 128
    epochs: int = 20
    learning_rate: float = 5e-4
    average: float = 0.999
    clip: float = 1.0
    show: tuple[int, ...] = (1, 5, 10, 20)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "num_timesteps")
        self._shares("drop")

    def network(self, data: Mapping[str, Any]) -> dict[str, Any]:
        channels, size = square_size(data, self.name)
        return {
            "architecture": "ddpm-unet",
            "channels": channels,
            "size": size,
            "width": self.width,
            "multipliers": list(self.multipliers),
            "blocks": self.blocks,
            "attention": list(self.attention),
            "num_classes": len(data["classes"]) if self.classes else 0,
            "dropout": self.dropout,
        }

    def process(self) -> Diffusion:
        make = {"linear": Diffusion.linear, "cosine": Diffusion.cosine}[self.schedule]
        return make(self.num_timesteps, prediction=self.prediction, clip=1.0)

    def objective(self, network: nn.Module) -> DenoisingDiffusion:
        return DenoisingDiffusion(network, self.process(), self.drop)

    def validation_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return validation_loss(network, self.process(), images, labels)


@dataclass(frozen=True, kw_only=True)
class Cifar10DDPM(MnistDDPM):
    """16.8 M parameters, unconditional, epsilon under the linear schedule."""

    name = "cifar10-ddpm"

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    attention: tuple[int, ...] = (16,)
    classes: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    learning_rate: float = 2e-4
    average: float = 0.9999
