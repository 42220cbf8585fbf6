"""The embedded latent model: Stable Diffusion's architecture, small, trained on scenes of painted digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.recipes.if_xs import check_digits
from darkroom.training.recipes.recipe import Recipe, Switch


@dataclass(frozen=True, kw_only=True)
class SdXs(Recipe):
    """Steps are per phase, in the order they are trained in, rounded up to whole checkpoints.
    kl_weight: of the latents' divergence from a normal distribution, per value."""

    name = "sd-xs"

    vae_steps: int = 2000
    vae_batch: int = 16
    vae_learning_rate: float = 2e-3
    words_steps: int = 1000
    draw_steps: int = 15_800
    polish_steps: int = 4000
    control_steps: int = 1500
    kl_weight: float = 1e-4
    batch: int = 32
    learning_rate: float = 1.5e-3
    warmup: int = 100
    seed: int = 7
    checkpoint_every: int = 200
    bf16: Switch = "off"  # as the shipped weights were trained
    graphs: Switch = "off"  # its batches are painted by the host, which is then what a step waits for

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "vae_steps", "vae_batch", "words_steps", "draw_steps", "polish_steps", "control_steps")
        self._at_least(1, "warmup", "checkpoint_every")
        self._at_least(0, "kl_weight")
        self._positive("vae_learning_rate")

    def check(self, data: Mapping[str, Any]) -> None:
        check_digits(self.name, data)

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.sd_xs import train_latent  # diffusers and transformers: seconds to import

        train_latent(self, data, store, worker, say)
