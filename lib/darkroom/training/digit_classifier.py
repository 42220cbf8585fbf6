"""Training of the MNIST classifier that comes with the package: see `darkroom.models.mnist_classifier`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from darkroom.models.mnist_classifier import CLASSES, SIDE, Classifier, in_parts
from darkroom.storage import Store
from darkroom.training.data import Images
from darkroom.training.recipes.classifier import MnistClassifier


def train_classifier(
    train: Images, test: Images, store: Store, recipe: MnistClassifier, log: Callable[[str], None] = print
) -> float:
    """Trains on digits in MNIST's form ([N, 28, 28, 1]), writes the model directory; returns its accuracy."""
    torch.manual_seed(recipe.seed)
    model = Classifier().to(memory_format=torch.channels_last)
    _fit(model, train, recipe, log)
    accuracy = _accuracy(model, test)
    log(f"test accuracy {accuracy:.4f}")
    config = {
        "name": "mnist-classifier",
        "kind": "classifier",
        "input": "float32 [N, 1, 28, 28], ink 1 on 0",
        "classes": CLASSES,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe.record(),
        "data": {"train": train.digest, "test": test.digest},
        "metrics": {"test_accuracy": accuracy, "test_images": len(test.labels)},
    }
    store.write("model.safetensors", save({name: p.contiguous() for name, p in model.state_dict().items()}))
    store.write("config.json", json.dumps(config, indent=1).encode() + b"\n")
    return accuracy


def _fit(model: Classifier, train: Images, recipe: MnistClassifier, log: Callable[[str], None]) -> None:
    rng = np.random.default_rng(recipe.seed)
    digits, labels = to_digits(train.images), torch.from_numpy(train.labels)
    per_epoch = len(digits) // recipe.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.epochs * per_epoch)
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for chosen in rng.permutation(len(digits))[: per_epoch * recipe.batch].reshape(per_epoch, recipe.batch):
            shifted = _shifted(digits[chosen], recipe.shift, rng).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(shifted), labels[chosen], label_smoothing=recipe.label_smoothing)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"classifier, epoch {epoch}: the loss is {loss.item()}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        log(f"epoch {epoch}/{recipe.epochs}  loss {np.mean(losses):.4f}")
    model.eval().requires_grad_(False)


def to_digits(images: np.ndarray) -> Tensor:
    """uint8 [N, 28, 28, 1] -> float32 [N, 1, 28, 28] in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _shifted(digits: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Each moved by its own whole number of pixels, paper coming in at the edges."""
    padded = F.pad(digits, (most,) * 4)
    places = rng.integers(2 * most + 1, size=(len(digits), 2))
    return torch.stack([p[:, y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(padded, places.tolist(), strict=True)])


def _accuracy(model: Classifier, images: Images) -> float:
    found = in_parts(model, to_digits(images.images)).argmax(dim=1)
    return (found == torch.from_numpy(images.labels)).float().mean().item()
