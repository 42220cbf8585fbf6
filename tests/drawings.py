"""Pictures that are no digits, in the layout of any data set: gratings, a class for each angle."""

from __future__ import annotations

import numpy as np

from darkroom.training.data import write_dataset


def gratings(count: int, classes: int, side: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, S, S, C] and labels: stripes of 6 pixels at the angle of their class, each at its own place, in noise
    and, of colour pictures, in a colour of its own."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % classes
    y, x = np.mgrid[:side, :side]
    angle, phase = labels * np.pi / classes, rng.uniform(0, 2 * np.pi, count)
    across = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    waves = 0.5 + 0.4 * np.sin(2 * np.pi * across / 6 + phase[:, None, None])
    tints = rng.uniform(0.5, 1, (count, 1, 1, channels))
    noisy = waves[..., None] * tints + rng.normal(0, 0.05, (count, side, side, channels))
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8), labels


def write_gratings(uri: str, train: int, test: int, classes: int, side: int, channels: int) -> str:
    """An ingested data set of them, its classes "0", "1", ... as those of IDX files are."""
    about = {"name": "gratings", "source": "a test", "classes": [str(label) for label in range(classes)]}
    shape = classes, side, channels
    write_dataset(uri, {"train": gratings(train, *shape, seed=1), "test": gratings(test, *shape, seed=2)}, about)
    return uri
