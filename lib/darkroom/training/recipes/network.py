"""Recipes of one network that is trained on pictures as they are; `darkroom.training.network_training` follows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.models.network import build_network
from darkroom.sampling.processes import Process
from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.objectives import Objective
from darkroom.training.recipes.recipe import Recipe
from darkroom.training.steps import Optimization


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe(Recipe):
    """average: decay of the running average of weights, 0 for none; clip: bound on the gradient's norm, 0 for none.
    show: epochs whose checkpoints are kept for the report. validation_images: of the test split, for the loss after
    each epoch."""

    epochs: int
    average: float = 0.0
    clip: float = 0.0
    show: tuple[int, ...] = (1, 5, 10)
    validation_images: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "epochs")
        self._at_least(0, "clip", "validation_images")
        self._shares("average")

    def network(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What `build_network` makes the network from, for a data set with this dataset.json. Raises ValueError."""
        raise NotImplementedError

    def process(self) -> Process | None:
        """How the network generates; None if it does not."""
        raise NotImplementedError

    def objective(self, network: nn.Module) -> Objective:
        """The network and what it is trained to minimise."""
        raise NotImplementedError

    def validation_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """The loss on fixed noise and times. images: float32 [N, C, S, S] in [-1, 1]; labels: int64 [N]."""
        raise NotImplementedError

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step (from 0) of a training of so many steps an epoch. Constant, unless overridden."""
        return self.learning_rate

    def optimization(self, steps: int, worker: Worker) -> Optimization:
        """How the loop is to move the weights, as one of those workers."""
        return Optimization(
            epochs=self.epochs,
            rate=lambda step: self.rate(step, steps),
            average=self.average or None,
            clip=self.clip or None,
            keep_last=self.keep_last,
            keep=self.show,
            **self.speed(worker),
        )

    def check(self, data: Mapping[str, Any]) -> None:
        self.process()
        with torch.device("meta"):  # on no device: nothing is computed or kept
            build_network(self.network(data))

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.network_training import train_network

        train_network(self, data, store, worker, say)


def square_size(data: Mapping[str, Any], recipe: str) -> tuple[int, int]:
    """(channels, size) of a data set's pictures. ValueError if they are not square."""
    image = data["image"]
    if image["height"] != image["width"]:
        raise ValueError(
            f"{recipe} takes square pictures; those of {data['name']} are {image['width']} x {image['height']}"
        )
    return image["channels"], image["height"]
