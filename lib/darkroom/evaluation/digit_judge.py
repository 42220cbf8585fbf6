"""Whether the frozen digit classifier can judge a data set's pictures: it knows MNIST's digits and nothing else."""

from __future__ import annotations

import torch

from darkroom.models.mnist_classifier import CLASSES, SIDE, classify
from darkroom.training.data import Images
from darkroom.training.digit_classifier import to_digits

KNOWN = 0.9  # of the test labels it must get right; of Fashion-MNIST's, which have the same form, it gets a tenth


def why_not_judged(test: Images) -> str:
    """Why there is neither class accuracy nor a distance in the classifier's features; "" where there can be."""
    height, width, channels = test.images.shape[1:]
    if (height, width, channels) != (SIDE, SIDE, 1):
        kind = "grey" if channels == 1 else "colour"
        return f"the classifier knows grey digits of {SIDE} x {SIDE} pixels, these are {height} x {width} in {kind}"
    if test.labels.max() >= CLASSES:
        return f"the classifier knows {CLASSES} digits, this data set has the label {test.labels.max()}"
    share = classifier_accuracy(test)
    if share < KNOWN:
        return f"the classifier takes {share:.0%} of the test pictures for what their labels say: these are not MNIST's"
    return ""


def classifier_accuracy(test: Images) -> float:
    """The share of real test digits that it gets right: the most that generated ones can be expected to reach."""
    found = classify(to_digits(test.images)).argmax(dim=1)
    return (found == torch.from_numpy(test.labels)).double().mean().item()
