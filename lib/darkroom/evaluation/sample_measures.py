"""What is measured of a generative network's samples, each measure as the JSON values that evaluation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.evaluation.distances import bootstrap_interval, frechet_of_features, nearest, precision_and_recall
from darkroom.evaluation.validation import validation_loss
from darkroom.models.mnist_classifier import classify, features
from darkroom.models.network import NetworkPredictor
from darkroom.sampling.plans import Stage
from darkroom.training.data import Images

HELD_OUT = 1000  # test pictures, evenly drawn, that a loss is measured on
TIMES = 10
BLANK, NOTHING = 8, -1  # so few pixels of half the ink or more are no digit; the thinnest of MNIST's sample has 22


def recognised(pictures: Tensor) -> Tensor:
    """uint8 [N, 1, 28, 28] -> the digit the classifier sees on each, int64 [N]; NOTHING on a blank one, which it would
    call a one."""
    found = classify(pictures.float() / 255).argmax(dim=1)
    return torch.where((pictures >= 128).sum(dim=(1, 2, 3)) < BLANK, NOTHING, found)


def accuracy(seen: list[Tensor], asked: Tensor, classes: list[str], of_real: float) -> dict[str, Any]:
    """The share seen as the class that was asked for: of all, and of each class over all seeds.

    seen: for each seed int64 [N]; asked: int64 [N]; of_real: the same share of real pictures.
    """
    right = torch.stack([found == asked for found in seen]).double()
    by_class = {name: right[:, asked == label].mean(dim=1) for label, name in enumerate(classes) if label in asked}
    per_class = {name: shares.mean().item() for name, shares in by_class.items()}
    return {
        **measured(right.mean(dim=1).tolist()),
        "per_class": per_class,
        "worst_by_seed": torch.stack([*by_class.values()]).amin(dim=0).tolist(),
        "worst": min(per_class, key=per_class.get),
        "of_test_pictures": of_real,
        "generated": len(asked),
    }


def distances(made: list[Tensor], train: Images, test: Images) -> dict[str, Any]:
    """Frechet distance, precision, recall in the classifier's features; and, as a yardstick, those of as many training
    pictures in place of the generated ones. made: for each seed uint8 [N, 1, 28, 28]."""
    count = min(len(made[0]), len(test.labels), len(train.labels))
    real, found = _features(as_tensor(test.images)), [_features(pictures) for pictures in made]
    some = real[evenly(len(real), count)]
    stand_in = _features(as_tensor(train.images[evenly(len(train.labels), count)]))
    shares = [precision_and_recall(one[:count], some) for one in found]
    yardstick = precision_and_recall(stand_in, some)
    frechet = {
        **measured([frechet_of_features(one, real) for one in found]),
        "generated": len(made[0]),
        "real": len(real),
        "of_training_pictures": frechet_of_features(stand_in, real),
        "training": count,
    }
    both = {
        name: measured([share[place] for share in shares])
        | {"generated": count, "real": count, "of_training_pictures": yardstick[place]}
        for place, name in enumerate(("precision", "recall"))
    }
    return {"frechet_distance": frechet, **both}


def held_out_loss(predictor: NetworkPredictor, stage: Stage, test: Images) -> dict[str, Any]:
    """See `validation_loss`."""
    chosen = evenly(len(test.labels), HELD_OUT)
    images = as_tensor(test.images[chosen]).float() / 127.5 - 1
    loss = validation_loss(predictor.network, stage.process, images, torch.from_numpy(test.labels[chosen]), times=TIMES)
    return {"value": loss, "prediction": stage.process.prediction, "pictures": len(chosen), "times": TIMES}


def nearest_training_picture(made: Tensor, train: Images, test: Images) -> dict[str, Any]:
    """Of as many generated pictures (uint8 [N, C, S, S]) as real ones, because the least of more is less."""
    count, training = min(len(made), len(test.labels)), as_tensor(train.images)
    generated = nearest(made[:count], training)
    real = nearest(as_tensor(test.images[evenly(len(test.labels), count)]), training)
    return {
        "mean": generated.mean,
        "minimum": generated.minimum,
        "of_test_pictures": {"mean": real.mean, "minimum": real.minimum},
        "pictures": count,
        "training": len(training),
    }


def measured(values: Sequence[float]) -> dict[str, Any]:
    """A value for each seed, their mean, and the interval of that."""
    return {"mean": float(np.mean(values)), "interval": list(bootstrap_interval(values)), "by_seed": list(values)}


def evenly(length: int, count: int) -> np.ndarray:
    """At most `count` places, evenly drawn: an ingested folder is in the order of its classes."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int)


def as_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> uint8 [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _features(pictures: Tensor) -> Tensor:
    return features(pictures.float() / 255)
