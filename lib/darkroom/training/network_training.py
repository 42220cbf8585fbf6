"""Trains one network by a recipe, as one of the workers that share it; rank 0 leaves the run and the model directory.

RUN/run.json, lease.json            by the job that starts the workers
RUN/checkpoints/                    see `checkpoints`
RUN/losses.parquet, epochs.csv      the curves, after every epoch
RUN/config.json, model.safetensors  the finished model, config.json last
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from darkroom.evaluation.validation import as_tensor, evenly
from darkroom.models.network import build_network, save_network
from darkroom.sampling.processes import Process
from darkroom.storage import Store
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.data import load_images, read_record
from darkroom.training.epochs import Say
from darkroom.training.feeds import Feed, Resident, Worker, fits, to_network
from darkroom.training.loop import fit
from darkroom.training.objectives import Objective
from darkroom.training.steps import Optimization
from darkroom.training.streams import Streamed


class Settings(Protocol):
    """What is read of the recipe, `darkroom.training.recipes.network`, which imports this module."""

    name: str
    seed: int
    batch: int
    epochs: int
    validation_images: int

    def record(self) -> dict[str, Any]: ...
    def network(self, data: Mapping[str, Any]) -> dict[str, Any]: ...
    def process(self) -> Process | None: ...
    def objective(self, network: nn.Module) -> Objective: ...
    def validation_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> float: ...
    def optimization(self, steps: int, worker: Worker) -> Optimization: ...


def train_network(recipe: Settings, data: str, store: Store, worker: Worker, say: Say) -> None:
    """Trains to the end, from the run's last checkpoint if there is one. Raises ValueError and FloatingPointError."""
    record = read_record(data)
    feed = make_feed(recipe, data, record, worker)
    config = describe(recipe, data, record, feed.steps)
    torch.manual_seed(recipe.seed)  # every worker begins from the same weights
    objective = recipe.objective(build_network(config["network"]))
    last = fit(
        objective,
        feed,
        recipe.optimization(feed.steps, worker),
        worker,
        store,
        config,
        say,
        validate=_Validation(recipe, data, config["network"], worker.device) if worker.rank == 0 else None,
        noted=lambda checkpoint: write_curves(store, checkpoint, recipe.batch),
    )
    if worker.rank == 0:
        training = config["training"] | {"ran": last.config.get("ran", {})}
        save_network(store, last.sampling_weights, config | {"training": training, "metrics": _metrics(last)})


def make_feed(recipe: Settings, data: str, record: Mapping[str, Any], worker: Worker) -> Feed:
    """The whole training split on the device where it fits, else a stream."""
    image, rows = record["image"], record["splits"]["train"]["rows"]
    if fits(rows * image["height"] * image["width"] * image["channels"], worker):
        return Resident(load_images(data, "train"), recipe.batch, recipe.seed, worker)
    return Streamed(data, "train", recipe.batch, recipe.seed, worker)


def describe(recipe: Settings, data: str, record: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The model's config.json, but for its metrics. ValueError where the recipe cannot take the data."""
    process = recipe.process()
    split = record["splits"]["train"]
    return {
        "name": recipe.name,
        "kind": "network",
        "network": recipe.network(record),
        "process": None if process is None else process.to_config(),
        "classes": record["classes"],
        "training": {
            "recipe": recipe.record(),
            "data": {"uri": data, "name": record["name"], "train": split["digest"]},
            "epochs": recipe.epochs,
            "steps": steps * recipe.epochs,
            "images": split["rows"],
        },
    }


def write_curves(store: Store, checkpoint: Checkpoint, batch: int) -> None:
    """losses.parquet, a row a step, and epochs.csv, a row an epoch, so far."""
    curves = {name: tensor.tolist() for name, tensor in checkpoint.curves.items()}
    steps = checkpoint.step // checkpoint.epoch
    table = pa.table(
        {
            "step": range(1, checkpoint.step + 1),
            "epoch": [step // steps + 1 for step in range(checkpoint.step)],
            "learning_rate": curves["rates"],
            "loss": curves["losses"],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.write("losses.parquet", sink.getvalue().to_pybytes())
    store.write("epochs.csv", _epochs_csv(curves, steps, batch).encode())


def _epochs_csv(curves: Mapping[str, list[float]], steps: int, batch: int) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["epoch", "step", "loss", "validation_loss", "seconds", "images_per_second"])
    for epoch, (validation, seconds) in enumerate(zip(curves["validation"], curves["seconds"], strict=True), 1):
        losses = curves["losses"][(epoch - 1) * steps : epoch * steps]
        measured = "" if math.isnan(validation) else f"{validation:.6f}"
        rate = f"{steps * batch / seconds:.1f}"
        rows.writerow([epoch, epoch * steps, f"{sum(losses) / steps:.6f}", measured, f"{seconds:.2f}", rate])
    return text.getvalue()


def _metrics(last: Checkpoint) -> dict[str, float]:
    steps = last.step // last.epoch
    validation = last.curves["validation"][-1].item()
    metrics = {"loss": last.curves["losses"][-steps:].mean().item()}
    return metrics if math.isnan(validation) else metrics | {"validation_loss": validation}


class _Validation:
    """The recipe's validation loss of given weights on pictures drawn evenly from the test split."""

    def __init__(self, recipe: Settings, data: str, network: Mapping[str, Any], device: torch.device) -> None:
        self._recipe = recipe
        images = load_images(data, "test")
        chosen = evenly(len(images.labels), recipe.validation_images)
        self._images = to_network(as_tensor(images.images[chosen])).contiguous().to(device)
        self._labels = torch.from_numpy(images.labels[chosen]).to(device)
        self._network = build_network(network).to(device).eval()

    @torch.no_grad()
    def __call__(self, weights: dict[str, Tensor]) -> float:
        if not len(self._images):
            return math.nan
        self._network.load_state_dict(weights)
        return self._recipe.validation_loss(self._network, self._images, self._labels)
