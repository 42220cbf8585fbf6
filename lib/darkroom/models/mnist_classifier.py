"""A small MNIST classifier, the judge of generated digits, which comes with the package.

The folder mnist_classifier/ holds config.json (what it is, recipe, data digest, test accuracy) and model.safetensors;
`darkroom.training.digit_classifier` trained it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

EMBEDDED = Path(__file__).parent / "mnist_classifier"
SIDE, CLASSES, FEATURES = 28, 10, 128


class Classifier(nn.Module):
    """Digits float32 [N, 1, 28, 28], ink 1 on 0 -> features [N, 128] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(1, 16, kernel=5, stride=2),  # 14 x 14
            *_layer(16, 32),
            *_layer(32, 64, stride=2),  # 7 x 7
            *_layer(64, 64),
            *_layer(64, FEATURES, stride=2),  # 4 x 4
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, digits: Tensor) -> Tensor:
        """The last layer's mean over the picture, [N, 128]: a space to measure distances between sets of digits in."""
        assert digits.shape[1:] == (1, SIDE, SIDE), f"wanted [N, 1, 28, 28], got {list(digits.shape)}"
        return self.body(digits).mean(dim=(2, 3))

    def forward(self, digits: Tensor) -> Tensor:
        return self.head(self.features(digits))


def load_classifier(folder: Path = EMBEDDED) -> Classifier:
    """The trained classifier, ready to judge. ValueError if the folder holds none."""
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"no classifier in {folder}: it has no model.safetensors") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    model = Classifier()
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def classify(images: Tensor) -> Tensor:
    """Digits float32 [N, 1, 28, 28], ink 1 on 0 as in MNIST -> logits [N, 10], by the embedded classifier."""
    return in_parts(_embedded(), images)


def features(images: Tensor) -> Tensor:
    """Digits float32 [N, 1, 28, 28] -> features [N, 128] of the embedded classifier."""
    return in_parts(_embedded().features, images)


@torch.inference_mode()
def in_parts(ask: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What is answered about many digits, asked about 500 at a time."""
    return torch.cat([ask(part) for part in images.split(500)])


def _layer(before: int, after: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.GELU()


@cache
def _embedded() -> Classifier:
    return load_classifier()
