"""CIFAR-10 from its python or its binary version, unpacked or as the published archive. https://www.cs.toronto.edu/~kriz

The python version's batches are pickles, and are read without running what else a pickle might ask for.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from darkroom.storage import NotFound, StorageError, Store, open_store, read_uri
from darkroom.training.downloads import Unreachable, download
from darkroom.training.pickled_arrays import load_arrays

Splits = dict[str, tuple[np.ndarray, np.ndarray]]
Batch = tuple[np.ndarray, np.ndarray]  # images uint8 [N, 32, 32, 3], labels int64 [N]

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS
PYTHON, BINARY = ("cifar-10-batches-py", "cifar-10-python.tar.gz"), ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")
_ARCHIVE_ENDS = (".tar.gz", ".tgz", ".tar")


def read_cifar10(source: str | None) -> tuple[Splits, dict[str, Any]]:
    """source: a folder or s3:// uri of the batches or of an archive of them, or the archive; None: it is downloaded.

    Raises ValueError, with the file and the record named, for what is missing, cut short or labelled out of range;
    StorageError where nothing could be fetched.
    """
    if source is not None:
        return _read(source), _about(source)
    with tempfile.TemporaryDirectory() as folder:
        try:
            download("CIFAR10", folder)
        except Unreachable as error:
            raise StorageError(
                f"CIFAR-10 could not be downloaded: {error}. With {PYTHON[1]} or {BINARY[1]}, or what is in them, in a "
                "folder, `darkroom ingest cifar10 FOLDER` needs no network."
            ) from None
        return _read(os.path.join(folder, PYTHON[0])), _about("torchvision's download, its checksum compared")


def parse_python(data: bytes, where: str) -> Batch:
    """A batch of the python version: a pickled dict of `data`, uint8 [N, 3072], and `labels`, N of 0..9."""
    batch = load_arrays(data, where)
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise ValueError(f"{where}: not a batch of CIFAR-10, which has data and labels")
    planes, labels = batch["data"], batch["labels"]
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (PIXELS,):
        raise ValueError(f"{where}: its data is not an array of bytes [N, {PIXELS}]")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{where}: its labels are not a list of whole numbers")
    if len(labels) != len(planes):
        raise ValueError(f"{where}: {len(labels)} labels for {len(planes)} pictures")
    return _checked(planes, np.array(labels, np.int64), where)


def parse_binary(data: bytes, where: str) -> Batch:
    """A batch of the binary version: records of a label's byte and 3072 bytes of pixels."""
    records, rest = divmod(len(data), 1 + PIXELS)
    if rest or not records:
        raise ValueError(f"{where}: {len(data)} bytes are not whole records of {1 + PIXELS}; record {records} is cut")
    table = np.frombuffer(data, np.uint8).reshape(records, 1 + PIXELS)
    return _checked(table[:, 1:], table[:, 0].astype(np.int64), where)


def _about(source: str) -> dict[str, Any]:
    return {"name": "cifar10", "source": source, "classes": CLASSES}


def _checked(planes: np.ndarray, labels: np.ndarray, where: str) -> Batch:
    """planes uint8 [N, 3072]: all of a picture's red, then green, then blue."""
    beyond = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(beyond):
        label = labels[beyond[0]]
        raise ValueError(f"{where}, record {beyond[0]}: the label is {label}, wanted 0 to {len(CLASSES) - 1}")
    return planes.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1), labels


def _read(source: str) -> Splits:
    """Whichever version is there; the unpacked batches before an archive."""
    if source.endswith(_ARCHIVE_ENDS):
        return _read_archive(read_uri(source), source)
    store = open_store(source)
    for (folder, _), end, parse in ((PYTHON, "", parse_python), (BINARY, ".bin", parse_binary)):
        for place in ("", f"{folder}/"):
            if store.exists(f"{place}{BATCHES['train'][0]}{end}"):
                return _read_unpacked(store, place, end, parse)
    for _, archive in (PYTHON, BINARY):
        if store.exists(archive):
            return _read_archive(store.read(archive), store.uri(archive))
    raise ValueError(
        f"{source} has no CIFAR-10: wanted data_batch_1 (python version) or data_batch_1.bin (binary version) in it, "
        f"in {PYTHON[0]} or in {BINARY[0]}, or else {PYTHON[1]} or {BINARY[1]}"
    )


def _read_unpacked(store: Store, place: str, end: str, parse: Callable[[bytes, str], Batch]) -> Splits:
    def read(name: str) -> Batch:
        key = f"{place}{name}{end}"
        try:
            return parse(store.read(key), store.uri(key))
        except NotFound:
            raise ValueError(f"{store.uri(key)} is missing; CIFAR-10 has five batches and a test batch") from None

    return _joined(read)


def _read_archive(data: bytes, where: str) -> Splits:
    """Reads the batches out of a tar file; nothing of it is unpacked to disk."""
    wanted = {f"{name}{end}" for names in BATCHES.values() for name in names for end in ("", ".bin")}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.isfile() and posixpath.basename(member.name) in wanted:
                    found[posixpath.basename(member.name)] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is cut short or no archive ({error}); download it again") from None

    def read(name: str) -> Batch:
        for end, parse in (("", parse_python), (".bin", parse_binary)):
            if f"{name}{end}" in found:
                return parse(found[f"{name}{end}"], f"{where}, {name}{end}")
        raise ValueError(f"{where} has no {name} nor {name}.bin; CIFAR-10 has five batches and a test batch")

    return _joined(read)


def _joined(read: Callable[[str], Batch]) -> Splits:
    splits = {}
    for split, names in BATCHES.items():
        images, labels = zip(*map(read, names), strict=True)
        splits[split] = np.concatenate(images), np.concatenate(labels)
    return splits
