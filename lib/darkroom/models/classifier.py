"""Classifiers of pictures, the judges of what networks paint: a model directory of config.json and model.safetensors.

config.json    {"name", "kind": "classifier", "network": {"channels", "classes", "layers"}, "image": {"height", "width",
               "channels"}, "classes": [names], "data": {"train", "test": digests}, "recipe", "metrics":
               {"test_accuracy", "test_images"}}

That of MNIST's digits comes with the package, in mnist_classifier/; `darkroom train classifier` trains others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from darkroom.models.errors import ModelError
from darkroom.storage import NotFound, Store, open_store

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EMBEDDED = Path(__file__).parent / "mnist_classifier"
SIDE, DIGITS = 28, 10  # of MNIST's pictures
FEATURES = 128
AT_ONCE, PIXELS_AT_ONCE = 500, 500 * 64 * 64  # pictures, fewer of large ones
_COARSEST = 4  # pixels that are left of the shorter side, about, where the features are taken


class ClassifierNetwork(nn.Module):
    """Pictures float32 [N, C, H, W] in 0..1 -> features [N, D] -> logits [N, classes]; it takes pictures of any size.

    layers: (width, stride) of each convolution, the first 5 x 5, the others 3 x 3; D is the last width.
    """

    def __init__(self, channels: int, classes: int, layers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.channels = channels
        widths = [channels, *(width for width, _ in layers)]
        kernels = [5] + [3] * (len(layers) - 1)
        convolutions = zip(widths, layers, kernels, strict=False)
        self.body = nn.Sequential(
            *(module for before, (width, stride), k in convolutions for module in _layer(before, width, k, stride))
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """The last layer's mean over the picture, [N, D]: a space to measure distances between sets of pictures in."""
        assert images.ndim == 4 and images.shape[1] == self.channels, f"{self.channels} channels: {list(images.shape)}"
        return self.body(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def layers_for(height: int, width: int, channels: int) -> list[list[int]]:
    """The layers for pictures of that shape: halved until about 4 pixels are left; colour wants twice the width.

    28 x 28 grey: [16, 2], [32, 1], [64, 2], [64, 1], [128, 2].
    """
    halvings = max(0, math.ceil(math.log2(min(height, width) / _COARSEST)))
    widths = [16, 32, 64, 64, FEATURES] if channels == 1 else [32, 64, 128, 128, FEATURES]
    first = max(0, halvings - 3)  # large pictures are made smaller before anything else
    strides = [1 + (place // 2 >= 3 - halvings) if place % 2 == 0 else 1 for place in range(5)]
    return [[widths[0], 2]] * first + [[w, s] for w, s in zip(widths, strides, strict=True)]


@dataclass(frozen=True, eq=False)
class Classifier:
    """What can be known of a classifier's model directory; weights are read when they are asked for."""

    store: Store
    config: dict[str, Any]
    kind: ClassVar = "classifier"

    @classmethod
    def open(cls, uri: str) -> Classifier:
        """The classifier in a folder or at an s3:// uri. ModelError where there is none, or a model of another kind."""
        store = open_store(uri)
        try:
            config = json.loads(store.read(CONFIG))
        except NotFound:
            wanted = f"`darkroom train classifier --data DATA --out {uri}` trains one"
            raise ModelError(f"no classifier in {uri}: it has no {CONFIG}; {wanted}") from None
        except ValueError as error:
            raise ModelError(f"{store.uri(CONFIG)} is not JSON: {error}") from None
        kind = config.get("kind") if isinstance(config, dict) else None
        if kind != cls.kind:
            raise ModelError(
                f"{uri} holds a model of kind {kind or 'unknown'}, wanted a classifier; `darkroom train classifier` "
                "trains one"
            )
        missing = {"name", "network", "image", "classes", "metrics"} - config.keys()
        if missing:
            raise ModelError(
                f"{store.uri(CONFIG)} does not describe a classifier: it lacks {', '.join(sorted(missing))}"
            )
        return cls(store, config)

    @property
    def name(self) -> str:
        return self.config["name"]

    @property
    def classes(self) -> list[str]:
        """The classes' names, in the order of the logits."""
        return self.config["classes"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures that it knows."""
        image = self.config["image"]
        return image["height"], image["width"], image["channels"]

    @property
    def test_accuracy(self) -> float:
        """The share of its own data set's test pictures that it gets right."""
        return self.config["metrics"]["test_accuracy"]

    @property
    def least_ink(self) -> int:
        """A picture with fewer pixels of half the ink or more shows no class at all; 0 where there is no such rule."""
        return self.config.get("least_ink", 0)

    @cached_property
    def revision(self) -> str:
        """Digest of everything that has a say in an answer: 16 hex of SHA-256 over network, classes and weights."""
        says = json.dumps([self.config["network"], self.classes], sort_keys=True).encode()
        return hashlib.sha256(says + self._weights).hexdigest()[:16]

    def load(self) -> ClassifierNetwork:
        """The network with its weights, on the host, ready to judge. ModelError for damaged weights."""
        where = self.store.uri(WEIGHTS)
        try:
            network = ClassifierNetwork(**self.config["network"])
            network.load_state_dict(load(self._weights))
        except SafetensorError as error:
            raise ModelError(f"{where} is damaged: {error}") from None
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{where} does not fit the network of its {CONFIG}: {error}") from None
        return network.eval().requires_grad_(False)

    def classify(self, images: Tensor) -> Tensor:
        """Pictures [N, C, H, W], float32 in 0..1 or uint8 -> logits [N, classes]."""
        return in_parts(self._network, images)

    def features(self, images: Tensor) -> Tensor:
        """Pictures [N, C, H, W], float32 in 0..1 or uint8 -> features [N, D]."""
        return in_parts(self._network.features, images)

    @cached_property
    def _network(self) -> ClassifierNetwork:
        return self.load()

    @cached_property
    def _weights(self) -> bytes:
        try:
            return self.store.read(WEIGHTS)
        except NotFound:
            raise ModelError(f"the classifier has no file {self.store.uri(WEIGHTS)}") from None


@cache
def mnist_classifier() -> Classifier:
    """That of MNIST's digits, ink 1 on 0, which comes with the package."""
    return Classifier.open(str(EMBEDDED))


def save_classifier(store: Store, network: ClassifierNetwork, config: Mapping[str, Any]) -> None:
    """Writes the model directory; config.json last, so without it there is no model."""
    store.write(WEIGHTS, save({name: value.cpu().contiguous() for name, value in network.state_dict().items()}))
    store.write(CONFIG, json.dumps(config, indent=1, ensure_ascii=False).encode() + b"\n")


@torch.inference_mode()
def in_parts(ask: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What is answered about many pictures, float32 in 0..1 or uint8 [N, C, H, W], asked about some at a time."""
    most = PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1])
    return torch.cat([ask(to_unit(part)) for part in images.split(max(1, min(AT_ONCE, most)))])


def to_unit(images: Tensor) -> Tensor:
    """uint8 as float32 in 0..1; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _layer(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.GELU()
