"""What a classifier sees on pictures, and whether it knows a data set's pictures well enough to be asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from darkroom.evaluation.distances import measured
from darkroom.evaluation.validation import as_tensor
from darkroom.models.classifier import Classifier
from darkroom.training.data import DataSet, Images

KNOWN = 0.9  # of the share of its own test pictures that it gets right, it must get of this data set's
NOTHING = -1  # seen on a blank picture
HALF = 128  # of the ink


def recognised(classifier: Classifier, pictures: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> the class that the classifier sees on each, int64 [N]; NOTHING on one with less ink than
    any digit has, which it would call a one."""
    found = classifier.classify(pictures).argmax(dim=1)
    if not classifier.least_ink:
        return found
    return torch.where((pictures >= HALF).sum(dim=(1, 2, 3)) < classifier.least_ink, NOTHING, found)


def class_accuracy(seen: Sequence[Tensor], asked: Tensor, classes: Sequence[str], of_real: float) -> dict[str, Any]:
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


def accuracy_on(classifier: Classifier, images: Images) -> float:
    """The share of real pictures that it gets right: the most that generated ones can be expected to reach."""
    found = classifier.classify(as_tensor(images.images)).argmax(dim=1)
    return (found == torch.tensor(images.labels)).double().mean().item()


def misfit(classifier: Classifier, about: dict[str, Any]) -> str:
    """Why it cannot be asked about the pictures of that dataset.json, whatever they show; "" where it can."""
    shape = tuple(about["image"][axis] for axis in ("height", "width", "channels"))
    if shape != classifier.shape:
        known, given = ("{} x {} x {}".format(*sizes) for sizes in (classifier.shape, shape))
        return f"the classifier {classifier.name!r} knows pictures of {known}, those of {about['name']} are {given}"
    known, given = classifier.classes, about["classes"]
    if len(given) > len(known):
        return f"the classifier {classifier.name!r} knows {len(known)} classes, {about['name']} has {len(given)}"
    for place, names in enumerate(zip(known, given, strict=False)):
        if names[0] != names[1]:
            return (
                f"class {place} of the classifier {classifier.name!r} is {names[0]!r}, of {about['name']} {names[1]!r}"
            )
    return ""


def why_not_judged(classifier: Classifier, data: DataSet) -> str:
    """Why there is neither class accuracy nor a distance in its features; "" where there can be.

    Pictures of its shape with as many labels may show something else, as Fashion-MNIST's do: so it is asked about the
    test pictures, and must be nearly as often right as on its own.
    """
    if problem := misfit(classifier, data.about):
        return problem
    share, wanted = accuracy_on(classifier, data.test), KNOWN * classifier.test_accuracy
    by_chance = 2 * math.sqrt(wanted * (1 - wanted) / len(data.test.labels))  # standard errors, of few pictures
    if share < wanted - by_chance:
        return (
            f"the classifier {classifier.name!r} does not know these pictures: it is right about {share:.0%} of the "
            f"test pictures of {data.about['name']}, and about {classifier.test_accuracy:.0%} of its own"
        )
    return ""
