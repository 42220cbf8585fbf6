"""Training of classifiers, of any ingested data set: see `darkroom.models.classifier`."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.models.classifier import ClassifierNetwork, in_parts, layers_for, save_classifier, to_unit
from darkroom.storage import Store
from darkroom.training.data import DataSet
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker

LOOKS = 10  # at the held-out pictures, in a training


class Settings(Protocol):
    """What is read of the recipe, `darkroom.training.recipes.classifier`, which imports this module."""

    steps: int
    batch: int
    learning_rate: float
    shift: int
    label_smoothing: float
    held_out: float
    seed: int

    def record(self) -> dict[str, Any]: ...


def train_classifier(data: DataSet, store: Store, recipe: Settings, worker: Worker, say: Say) -> float:
    """Trains on the training pictures but those held out, by which the best weights are chosen; writes the model
    directory; returns the share of the test pictures that it gets right. FloatingPointError where the loss runs away.
    """
    torch.manual_seed(recipe.seed)
    image, device = data.about["image"], worker.device
    shape = image["height"], image["width"], image["channels"]
    options = {"channels": shape[2], "classes": len(data.classes), "layers": layers_for(*shape)}
    network = ClassifierNetwork(**options).to(device, memory_format=torch.channels_last)
    train, held_out = split(data.train.labels, recipe.held_out, recipe.seed)
    pictures, labels = _tensors(data.train.images, data.train.labels)
    best = _fit(network, (pictures[train], labels[train]), (pictures[held_out], labels[held_out]), recipe, worker, say)
    accuracy = _accuracy(network, *_tensors(data.test.images, data.test.labels))
    say(f"test accuracy {accuracy:.4f}")
    config = {
        "name": f"{data.about['name']}-classifier",
        "kind": "classifier",
        "network": options,
        "image": image,
        "classes": data.classes,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe.record(),
        "data": {"name": data.about["name"], "train": data.train.digest, "test": data.test.digest},
        "metrics": {"test_accuracy": accuracy, "test_images": len(data.test.labels), "held_out_accuracy": best},
    }
    save_classifier(store, network, config)
    return accuracy


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the training and of the held-out pictures, ascending: of each class `share` is held out, rounded, and
    at least one picture is trained on."""
    rng, held_out = np.random.default_rng(seed), []
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        held_out.append(places[: min(round(share * len(places)), len(places) - 1)])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _fit(
    network: ClassifierNetwork,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    recipe: Settings,
    worker: Worker,
    say: Say,
) -> float | None:
    """Leaves in the network the weights that did best on the held-out pictures; their accuracy, None where none are
    held out: then the last weights stay."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    rng, best, weights, losses = np.random.default_rng(recipe.seed), -1.0, {}, []
    network.train()
    for step in range(1, recipe.steps + 1):
        loss = _step(network, *train, recipe, rng, worker.device)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"classifier, step {step}: the loss is {loss.item()}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if worker.note is not None:
            worker.note(recipe.batch, losses[-1])
        if step % max(1, recipe.steps // LOOKS) and step != recipe.steps:
            continue
        found = _accuracy(network, *held_out) if len(held_out[1]) else None
        said = "" if found is None else f"  held-out accuracy {found:.4f}"
        say(f"step {step:,}/{recipe.steps:,}  loss {np.mean(losses):.4f}{said}")
        losses = []
        if found is not None and found >= best:
            best, weights = found, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights or network.state_dict())
    network.eval().requires_grad_(False)
    return best if weights else None


def _step(
    network: ClassifierNetwork,
    pictures: Tensor,
    labels: Tensor,
    recipe: Settings,
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """The loss of a batch drawn at random."""
    chosen = torch.from_numpy(rng.integers(len(labels), size=recipe.batch))
    batch = shifted(to_unit(pictures[chosen]), recipe.shift, rng)
    logits = network(batch.to(device, memory_format=torch.channels_last))
    return F.cross_entropy(logits, labels[chosen].to(device), label_smoothing=recipe.label_smoothing)


def shifted(pictures: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Each moved by its own whole number of pixels, at most so many; at the edges its own border is repeated."""
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (most,) * 4, mode="replicate")
    places = rng.integers(2 * most + 1, size=(len(pictures), 2)).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, places, strict=True)])


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 [N, C, H, W] and int64 [N]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels)


def _accuracy(network: ClassifierNetwork, pictures: Tensor, labels: Tensor) -> float:
    """In eval mode meanwhile, on the device that the network is on."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    found = in_parts(lambda part: network(part.to(device)).cpu(), pictures).argmax(dim=1)
    network.train(was_training)
    return (found == labels).double().mean().item()
