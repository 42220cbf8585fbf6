"""A judge of pictures: what class is seen on them, of any ingested data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """Cross-entropy with AdamW on a one-cycle learning rate; each picture is shifted by up to `shift` pixels each way.

    held_out: the share of the training pictures by which the best weights are chosen. The layers follow from the data's
    shape: see `darkroom.models.classifier.layers_for`.
    """

    name = "classifier"

    steps: int = 2000
    batch: int = 128
    learning_rate: float = 4e-3
    shift: int = 2
    label_smoothing: float = 0.05
    held_out: float = 0.1
    seed: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(2, "steps")
        self._at_least(0, "shift")
        self._shares("held_out", "label_smoothing")

    def check(self, data: Mapping[str, Any]) -> None:
        classes, splits = data.get("classes") or [], data["splits"]
        if len(classes) < 2:
            raise ValueError(f"a classifier tells classes apart, wanted 2 or more; {data['name']} has {len(classes)}")
        for split in ("train", "test"):
            if not splits.get(split, {}).get("rows"):
                raise ValueError(
                    f"a classifier wants pictures of the splits train and test; {data['name']} has no {split}"
                )

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.classifier_training import train_classifier
        from darkroom.training.data import load_data_set

        if worker.rank == 0:  # minutes on one processor: nothing to share
            train_classifier(load_data_set(data), store, self, worker, say)
