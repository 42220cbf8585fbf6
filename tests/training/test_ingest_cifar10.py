from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from darkroom.storage import StorageError, open_store
from darkroom.training import ingest_cifar10
from darkroom.training.data import load_images
from darkroom.training.downloads import Unreachable
from darkroom.training.ingest import ingest
from darkroom.training.ingest_cifar10 import CLASSES, parse_binary, parse_python

RNG = np.random.default_rng(0)
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PLANES = {name: RNG.integers(256, size=(4, 3072), dtype=np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(10, size=4).tolist() for name in NAMES}


def text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value  # a string of Python 2


def python_version(planes: np.ndarray, labels: list[int]) -> bytes:
    """A batch as the published files have it: a dict that Python 2 pickled under protocol 2."""
    count = b"K" + bytes([len(planes)]) + b"M" + struct.pack("<H", planes.shape[1])
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\0\x85" + text(b"b") + b"\x87R"
    kind = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\0K\1\x87R(K\3"
        + text(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\0tb"
    )
    pixels = b"(K\1" + count + b"\x86" + kind + b"\x89T" + struct.pack("<I", planes.size) + planes.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + text(b"a.png") * len(labels) + b"e"
    items = {b"batch_label": text(b"a batch"), b"labels": numbers, b"data": array + pixels, b"filenames": names}
    return b"\x80\2}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def binary_version(planes: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + pixels.tobytes() for label, pixels in zip(labels, planes, strict=True))


VERSIONS = {
    "python": ("", python_version, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "binary": (".bin", binary_version, "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
}


def files(version: str) -> dict[str, bytes]:
    end, write, _, _ = VERSIONS[version]
    return {name + end: write(PLANES[name], LABELS[name]) for name in NAMES}


def archive(version: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, data in {**files(version), "readme.html": b"hello"}.items():
            member = tarfile.TarInfo(f"{VERSIONS[version][2]}/{name}")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def check(out: str) -> None:
    """Pixel (y, x) of a channel is value 1024 channel + 32 y + x of a picture's bytes."""
    for split, names in (("train", NAMES[:5]), ("test", NAMES[5:])):
        found = load_images(out, split)
        assert found.labels.tolist() == [label for name in names for label in LABELS[name]]
        assert found.images.shape == (4 * len(names), 32, 32, 3)
        for place in ((0, 0, 0), (2, 5, 0), (31, 7, 2)):
            y, x, channel = place
            wanted = np.concatenate([PLANES[name][:, 1024 * channel + 32 * y + x] for name in names])
            np.testing.assert_array_equal(found.images[(slice(None), *place)], wanted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["", "in its folder/"])
def test_unpacked_batches_of_either_version(version: str, place: str, store_uri: str, tmp_path: Path) -> None:
    source = f"{store_uri}/source"
    for name, data in files(version).items():
        open_store(source).write((VERSIONS[version][2] + "/" if place else "") + name, data)
    record = ingest("cifar10", source, str(tmp_path / "out"))
    assert (record["name"], record["classes"]) == ("cifar10", CLASSES)
    check(str(tmp_path / "out"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_archive_of_either_version_in_a_folder_or_by_name(version: str, tmp_path: Path) -> None:
    name = VERSIONS[version][3]
    open_store(str(tmp_path / "source")).write(name, archive(version))
    for source in (tmp_path / "source", tmp_path / "source" / name):
        ingest("cifar10", str(source), str(tmp_path / "out"))
        check(str(tmp_path / "out"))


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_batch_may_name_nothing_but_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1 could not be read: it asks for posix\.mkdir"):
        parse_python(pickle.dumps({"data": Harmful(), "labels": []}, protocol=2), "data_batch_1")
    assert list(tmp_path.iterdir()) == []


GOOD = python_version(PLANES["test_batch"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("parse", "data", "sentence"),
    [
        (parse_python, GOOD[:-9], "it could not be read: "),
        (parse_python, b"", "it could not be read: "),
        (parse_python, b"<html>not found</html>", "it could not be read: "),
        (parse_python, pickle.dumps([1]), "it: not a batch of CIFAR-10"),
        (parse_python, pickle.dumps({"data": b"", "fine_labels": []}), "it: not a batch of CIFAR-10"),
        (parse_python, python_version(PLANES["test_batch"][:, :300], [1] * 4), r"not an array of bytes \[N, 3072\]"),
        (parse_python, python_version(PLANES["test_batch"], [1, 2, 3]), "it: 3 labels for 4 pictures"),
        (parse_python, python_version(PLANES["test_batch"], [1, 2, 10, 4]), "it, record 2: the label is 10, wanted"),
        (parse_binary, binary_version(PLANES["test_batch"], [1, 11, 0, 4]), "it, record 1: the label is 11, wanted 0"),
        (parse_binary, binary_version(PLANES["test_batch"], [1] * 4)[:-1], "12291 bytes are not .*; record 3 is cut"),
        (parse_binary, b"", "0 bytes are not whole records of 3073"),
    ],
)
def test_a_bad_batch_is_named(parse: object, data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(data, "it")


def test_missing_and_cut_files_are_named(tmp_path: Path) -> None:
    store, out = open_store(str(tmp_path / "source")), str(tmp_path / "out")
    with pytest.raises(ValueError, match="source has no CIFAR-10: wanted data_batch_1"):
        ingest("cifar10", store.root, out)
    store.write("cifar-10-python.tar.gz", archive("python")[:-2000])
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is cut short or no archive"):
        ingest("cifar10", store.root, out)
    store.write("data_batch_1.bin", files("binary")["data_batch_1.bin"])
    with pytest.raises(ValueError, match=r"data_batch_2.bin is missing"):
        ingest("cifar10", store.root, out)
    assert not (tmp_path / "out").exists()


def test_with_no_source_it_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arrives(name: str, folder: str) -> None:
        for key, data in files("python").items():
            open_store(folder).write(f"cifar-10-batches-py/{key}", data)

    monkeypatch.setattr(ingest_cifar10, "download", arrives)
    record = ingest("cifar10", None, str(tmp_path))
    assert record["source"] == "torchvision's download, its checksum compared"
    check(str(tmp_path))


def test_no_network_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, folder: str) -> None:
        raise Unreachable("no route to host")

    monkeypatch.setattr(ingest_cifar10, "download", fails)
    with pytest.raises(StorageError, match="could not be downloaded: no route to host.*darkroom ingest cifar10 FOLDER"):
        ingest("cifar10", None, str(tmp_path))
