"""The judge of generated digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MnistClassifier(Recipe):
    """Cross-entropy with AdamW on a one-cycle learning rate; each digit is shifted by up to `shift` pixels each way."""

    name = "mnist-classifier"

    epochs: int = 4
    batch: int = 128
    learning_rate: float = 4e-3
    shift: int = 2
    label_smoothing: float = 0.05
    seed: int = 11

    def check(self, data: Mapping[str, Any]) -> None:
        image = data["image"]
        if (image["height"], image["width"], image["channels"]) != (28, 28, 1) or len(data["classes"]) > 10:
            raise ValueError(f"the classifier takes grey 28 x 28 pictures of 10 classes; {data['name']} has others")

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.data import load_images
        from darkroom.training.digit_classifier import train_classifier

        if worker.rank == 0:  # a minute or two on one processor: nothing to share
            train_classifier(load_images(data, "train"), load_images(data, "test"), store, self, say)
