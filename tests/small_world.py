"""A small world to retrain in: slices of digits that arrive one by one, and a pipeline file over them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.schema import Pipeline
from darkroom.storage import open_store
from darkroom.training import job
from darkroom.training.data import load_images, sample_uri
from darkroom.training.feeds import Worker
from darkroom.training.idx import write_idx
from darkroom.training.recipes import find_recipe
from darkroom.training.recipes.recipe import with_settings

ENDED = re.compile(r"epoch \d/2  loss")  # what a training says at an epoch's end; a slow one says steps too
QUICK = {"hidden": 4, "epochs": 2, "batch": 32, "bf16": "off", "validation_images": 8}


@dataclass
class World:
    """uri: where everything lies, a folder or on S3; folder: where the pipeline's file is."""

    uri: str
    folder: Path

    def arrive(self, name: str, first: int, count: int, *, shuffled: bool = False, tests: int = 20) -> None:
        """A slice of MNIST's sample, as four IDX files: training digits first .. first + count - 1."""
        store = open_store(f"{self.uri}/source/{name}")
        for split, prefix, chosen in (("train", "train", slice(first, first + count)), ("test", "t10k", slice(tests))):
            images = load_images(sample_uri(), split)
            order = np.random.default_rng(0).permutation(len(images.labels))[chosen]
            labels = images.labels[order].astype(np.uint8)
            if shuffled and split == "train":
                labels = np.random.default_rng(1).permutation(labels)
            store.write(f"{prefix}-images-idx3-ubyte", write_idx(images.images[order][..., 0]))
            store.write(f"{prefix}-labels-idx1-ubyte", write_idx(labels))

    def pipeline(self, **changes: Any) -> Pipeline:
        """The pipeline file, with changes, as it is read."""
        return read_pipeline(self.file(**changes))

    def file(self, **changes: Any) -> str:
        document: dict[str, Any] = {
            "name": "digits",
            "out": f"{self.uri}/out",
            "registry": f"{self.uri}/registry",
            "data": {"kind": "idx", "source": f"{self.uri}/source"},
            "train": {"recipe": "mnist-flow-class", "settings": dict(QUICK)},
            "evaluate": {"count": 8, "steps": 2},
            "gate": {"validation_loss": {"at_most": 100, "margin": 0.1}, "size": {"at_most": 1_000_000}},
            "lease_seconds": 1.0,
            "keep": 1,
        }
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(document | changes, sort_keys=False))
        return str(path)


def train_here(options: job.TrainOptions, say: Callable[[str], None]) -> None:
    """The recipe's own training as the one worker of this process: what Ray Train's workers run."""
    torch.set_num_threads(1)
    recipe = with_settings(find_recipe(options.recipe)(), options.settings).settled()
    store = open_store(options.out)
    if not store.exists("config.json"):
        recipe.train(options.data, store, Worker(0, 1, torch.device("cpu")), say)
