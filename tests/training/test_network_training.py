"""What the training of a network measures of itself, with the network left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from darkroom.storage import open_store
from darkroom.training.data import write_dataset
from darkroom.training.feeds import Worker
from darkroom.training.network_training import train_network
from darkroom.training.recipes.flow import FlowClass


def test_the_loss_on_held_out_pictures_is_of_every_class(tmp_path: Path) -> None:
    """A folder's pictures are stored class by class; the grey of each tells its class."""
    labels = np.repeat(np.arange(3), 40)
    grey = np.broadcast_to(labels[:, None, None, None], (120, 28, 28, 1)).astype(np.uint8)
    about = {"name": "folder", "source": "a test", "classes": ["cat", "dog", "hen"]}
    write_dataset(str(tmp_path / "data"), {"train": (grey, labels), "test": (grey, labels)}, about)
    seen: list[tuple[list[int], list[float]]] = []

    class Watched(FlowClass):
        def validation_loss(self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
            seen.append((labels.tolist(), ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist()))
            return 1.0

    recipe = replace(Watched(), hidden=4, epochs=1, batch=60, bf16="off", validation_images=6)
    worker = Worker(0, 1, torch.device("cpu"))
    train_network(recipe, str(tmp_path / "data"), open_store(str(tmp_path / "run")), worker, lambda line: None)
    assert seen == [([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])]
