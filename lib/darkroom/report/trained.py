"""A training run as its report reads it: what was asked, how the loss went, and the networks that were kept."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from darkroom.models.network import Network, build_network
from darkroom.runs.reading import read_run_record
from darkroom.storage import NotFound, StorageError, Store, open_store
from darkroom.training.checkpoints import epochs_kept, load_checkpoint
from darkroom.training.data import Images, load_images, read_record


@dataclass(frozen=True)
class Epoch:
    """A line of epochs.csv; validation_loss is None where nothing was held out."""

    epoch: int
    step: int
    loss: float
    validation_loss: float | None
    seconds: float
    images_per_second: float


class TrainingRun:
    """Reads from the run's folder or prefix alone, and from the data set that it names. NoRun if there is none."""

    def __init__(self, uri: str) -> None:
        self.store: Store = open_store(uri)
        self.record: dict[str, Any] = read_run_record(self.store)
        self.finished = self.store.exists("config.json")
        self._read: dict[str, Images] = {}

    @cached_property
    def kept(self) -> list[int]:
        """The epochs whose checkpoints are kept, ascending."""
        return sorted(epochs_kept(self.store))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json; of a run under way that of its newest checkpoint. ValueError if it has none yet."""
        if self.finished:
            return json.loads(self.store.read("config.json"))
        if not self.kept:
            raise ValueError("the run has written no checkpoint yet, so there is no network to show")
        return load_checkpoint(self.store, self.kept[-1]).config

    @property
    def drawable(self) -> bool:
        """Is there a network to show: one of our own, and at least an epoch old?"""
        return bool(self.finished or self.kept) and self.config.get("kind") == "network"

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's fields, its name among them."""
        recipe = self.record.get("recipe")
        return recipe if isinstance(recipe, dict) else self.config["training"]["recipe"]

    @property
    def name(self) -> str:
        return self.recipe["name"]

    @cached_property
    def losses(self) -> dict[str, np.ndarray]:
        """The columns of losses.parquet; {} before the first epoch's end."""
        try:
            table = pq.read_table(pa.BufferReader(self.store.read("losses.parquet")))
        except NotFound:
            return {}
        return {name: table[name].to_numpy() for name in table.column_names}

    @cached_property
    def epochs(self) -> list[Epoch]:
        """The lines of epochs.csv; none before the first epoch's end."""
        try:
            text = self.store.read("epochs.csv").decode()
        except NotFound:
            return []
        return [_epoch(line) for line in csv.DictReader(io.StringIO(text))]

    @property
    def shown(self) -> list[int | None]:
        """The epochs to draw: those the recipe wants shown, as far as kept, and the last; [None], the finished model,
        where no checkpoint is left."""
        wanted = {int(epoch) for epoch in self.recipe.get("show") or ()}
        return sorted(wanted.intersection(self.kept) | set(self.kept[-1:])) or [None]

    def network(self, epoch: int | None = None) -> nn.Module:
        """The network as sampled after that epoch (averaged weights where there are any), or the finished one; on the
        host, in eval mode. ValueError if it is damaged."""
        if epoch is None:
            return Network.from_config(self.store, self.config).load()
        network = build_network(self.config["network"])
        try:
            network.load_state_dict(load_checkpoint(self.store, epoch).sampling_weights)
        except RuntimeError as error:
            raise ValueError(f"the weights of epoch {epoch} do not fit the run's network: {error}") from None
        return network.eval().requires_grad_(False)

    def images(self, split: str) -> Images:
        """A split of the data it was trained on. ValueError or StorageError, in a sentence, if that is gone."""
        if split not in self._read:
            self._read[split] = load_images(self._data["uri"], split)
        return self._read[split]

    @property
    def data_uri(self) -> str:
        """Where the data lay that it was trained on."""
        return self._data["uri"]

    @cached_property
    def parameters(self) -> int:
        """How many numbers are learned."""
        with torch.device("meta"):
            return sum(p.numel() for p in build_network(self.config["network"]).parameters())

    @property
    def data_problem(self) -> str:
        """Why the data it was trained on cannot be shown; "" if it can."""
        try:
            record = read_record(self._data["uri"])
        except (ValueError, StorageError) as error:
            return f"The data set is gone: {error}"
        digest = record["splits"].get("train", {}).get("digest", "")
        if digest == self._data["train"]:
            return ""
        return f"The data in {self._data['uri']} is not what this was trained on, its digest is {digest[:16]}."

    @property
    def _data(self) -> dict[str, Any]:
        return self.config["training"]["data"]


def named(epoch: int | None) -> str:
    """What a label says of a network of `shown`."""
    return "finished" if epoch is None else f"epoch {epoch}"


def after(epoch: int | None) -> str:
    """The same within a sentence."""
    return "when finished" if epoch is None else f"after {named(epoch)}"


def device() -> torch.device:
    """A GPU makes a thousand steps bearable; the report asks for nothing else of it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def one_of_each(labels: np.ndarray, each: int) -> np.ndarray:
    """Indices of the first `each` pictures of every class: all classes' first, then all classes' second, and so on."""
    places = [np.flatnonzero(labels == label)[:each] for label in np.unique(labels)]
    return np.array([place[turn] for turn in range(each) for place in places if turn < len(place)])


def _epoch(line: dict[str, str]) -> Epoch:
    validation = line["validation_loss"]
    return Epoch(
        epoch=int(line["epoch"]),
        step=int(line["step"]),
        loss=float(line["loss"]),
        validation_loss=float(validation) if validation else None,
        seconds=float(line["seconds"]),
        images_per_second=float(line["images_per_second"]),
    )
