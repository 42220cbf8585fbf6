"""The embedded cascade: DeepFloyd IF's architecture, small, trained on digits painted in colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.recipes.recipe import Recipe, Switch

TIMES = 1000  # of its schedules


@dataclass(frozen=True, kw_only=True)
class IfXs(Recipe):
    """Steps are per phase, in the order they are trained in, rounded up to whole checkpoints.
    noise_levels: the range of the noise put on stage II's low-resolution picture."""

    name = "if-xs"

    words_steps: int = 1000
    stage1_steps: int = 12000
    stage2_steps: int = 4000
    batch: int = 64
    learning_rate: float = 1.5e-3
    warmup: int = 200
    noise_levels: int = 500
    seed: int = 7
    checkpoint_every: int = 100
    bf16: Switch = "off"  # as the shipped weights were trained
    graphs: Switch = "off"  # its batches are painted by the host, which is then what a step waits for

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "words_steps", "stage1_steps", "stage2_steps", "warmup", "noise_levels", "checkpoint_every")
        if self.noise_levels > TIMES:
            raise ValueError(f"noise_levels must be at most {TIMES}, was {self.noise_levels}")

    def check(self, data: Mapping[str, Any]) -> None:
        check_digits(self.name, data)

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.if_xs import train_cascade  # diffusers and transformers: seconds to import

        train_cascade(self, data, store, worker, say)


def check_digits(name: str, data: Mapping[str, Any]) -> None:
    """ValueError for a data set that is not of digits as MNIST's are."""
    image = data["image"]
    if (image["height"], image["width"], image["channels"]) != (28, 28, 1) or len(data["classes"]) > 10:
        raise ValueError(
            f"{name} paints grey 28 x 28 pictures of ten digits; those of {data['name']} are {image['width']} x "
            f"{image['height']} with {image['channels']} channels, in {len(data['classes'])} classes"
        )
