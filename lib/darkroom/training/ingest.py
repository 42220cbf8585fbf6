"""Brings data sets into darkroom's form (see `data`). Each kind has a module `ingest_KIND` of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from darkroom.sampling.names import unknown
from darkroom.training.data import write_dataset
from darkroom.training.ingest_captions import ingest_captions
from darkroom.training.ingest_cifar10 import read_cifar10
from darkroom.training.ingest_folder import read_folder
from darkroom.training.ingest_mnist import read_idx, read_mnist

Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # images uint8 [N, H, W, C], labels [N]

# source, a folder or s3:// uri or None -> the splits, and name, source and classes for dataset.json
INGESTERS: dict[str, Callable[[str | None], tuple[Splits, dict[str, Any]]]] = {
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "idx": read_idx,
    "folder": read_folder,
}
CAPTIONS = "captions"


def ingest(
    kind: str, source: str | None, out: str, per_class: int | None = None, prompt: str | None = None
) -> dict[str, Any]:
    """Writes the data set under `out`, a folder or s3:// uri; returns what its dataset.json holds.

    kind: a name of `INGESTERS`, or captions. per_class: only the first so many of each class (of the test split half as
    many); prompt: of captions, of every picture. Raises ValueError for bad data or an option that the kind has no use
    for, StorageError where nothing could be fetched.
    """
    if kind not in (*INGESTERS, CAPTIONS):
        raise unknown("kind of data set", kind, [*INGESTERS, CAPTIONS])
    if prompt is not None and kind != CAPTIONS:
        raise ValueError(f"--prompt is the caption of every picture of `ingest captions`; {kind} has classes")
    if kind == CAPTIONS:
        if per_class is not None:
            raise ValueError("--per-class chooses of classes, and pictures with captions have none")
        return ingest_captions(source, out, prompt)
    splits, about = INGESTERS[kind](source)
    if per_class is not None:
        counts = {"train": per_class, "test": max(1, per_class // 2)}
        splits = {name: first_of_each(*arrays, counts[name]) for name, arrays in splits.items()}
        about["source"] += f"; the first of each class: {counts['train']} for training, {counts['test']} for tests"
    return write_dataset(out, splits, about)


def first_of_each(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` records of every label, in their old order."""
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
    return images[chosen], labels[chosen]
