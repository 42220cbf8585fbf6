"""Flow matching on the course UNet: the velocity from noise to picture, told the time, or time and class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from darkroom.evaluation.validation import validation_loss
from darkroom.sampling.flow import Flow
from darkroom.training.objectives import FlowMatching
from darkroom.training.recipes.network import NetworkRecipe, square_size


@dataclass(frozen=True, kw_only=True)
class FlowTime(NetworkRecipe):
    """Pictures in [-1, 1]. After each epoch the learning rate falls by decay^(1/epochs), to decay of it in all."""

    name = "mnist-flow-time"
    conditioning = "time"

    hidden: int = 64
    batch: int = 64
    epochs: int = 10
    learning_rate: float = 1e-2
    decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("decay")

    def network(self, data: Mapping[str, Any]) -> dict[str, Any]:
        channels, size = square_size(data, self.name)
        classes = len(data["classes"]) if self.conditioning == "class" else 0
        return {"architecture": "course-unet", "channels": channels, "size": size, "hidden": self.hidden,
                "conditioning": self.conditioning, "num_classes": classes}  # fmt: skip

    def process(self) -> Flow:
        return Flow()

    def objective(self, network: nn.Module) -> FlowMatching:
        return FlowMatching(network, getattr(self, "drop", 0.0))

    def validation_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return validation_loss(network, self.process(), images, labels)

    def rate(self, step: int, steps: int) -> float:
        return self.learning_rate * self.decay ** (step // steps / self.epochs)


@dataclass(frozen=True, kw_only=True)
class FlowClass(FlowTime):
    """The same, told the class too; drop: how often it is withheld, so that one can guide."""

    name = "mnist-flow-class"
    conditioning = "class"

    drop: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._shares("drop")


@dataclass(frozen=True, kw_only=True)
class FlowClassConstantRate(FlowClass):
    """No scheduler. What the falling rate does, averaging out the last steps' jitter, the average of weights does here
    (its horizon of 1/(1 - average) steps is about an epoch); and the rate, as it never falls, starts lower."""

    name = "mnist-flow-class-constant-lr"

    learning_rate: float = 2e-3
    decay: float = 1.0
    average: float = 0.999
