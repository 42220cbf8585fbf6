from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from darkroom.storage import LocalStore, Store, open_store
from darkroom.training import data
from darkroom.training.data import SCHEMA, digest_of, load_images, read_record, sample_uri, write_dataset
from darkroom.training.streams import whole_groups

PICTURES = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
LABELS = np.array([1, 0, 1])


@pytest.fixture
def data_set(tmp_path: Path) -> str:
    """Three colour pictures of two classes, 4 x 5."""
    about = {"name": "tiny", "source": "a test", "classes": ["cat", "dog"]}
    write_dataset(str(tmp_path), {"train": (PICTURES, LABELS)}, about)
    return str(tmp_path)


def train_file(uri: str) -> Path:
    (name,) = read_record(uri)["splits"]["train"]["files"]
    return Path(uri, name)


def replace_records(uri: str, records: list[tuple[bytes, int]]) -> None:
    rows = [{"image": {"bytes": data, "path": "x.png"}, "label": label} for data, label in records]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), train_file(uri))


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_written_is_read(data_set: str) -> None:
    found = load_images(data_set, "train")
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.images, PICTURES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.digest == digest_of(PICTURES, LABELS)


def test_the_digest_sees_pixels_labels_and_shape() -> None:
    other_pixels, other_labels = PICTURES.copy(), LABELS.copy()
    other_pixels[2, 3, 4, 2] += 1
    other_labels[2] = 0
    digests = [
        digest_of(PICTURES, LABELS),
        digest_of(other_pixels, LABELS),
        digest_of(PICTURES, other_labels),
        digest_of(PICTURES.reshape(3, 5, 4, 3), LABELS),
    ]
    assert len(set(digests)) == 4
    assert digest_of(PICTURES, LABELS.astype(np.uint8)) == digests[0]


def test_the_sample_is_mnist_in_equal_parts() -> None:
    train, test = load_images(sample_uri(), "train"), load_images(sample_uri(), "test")
    assert np.bincount(train.labels).tolist() == [200] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert test.images.shape == (1000, 28, 28, 1)
    assert train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]  # MNIST begins so
    assert test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert test.digest == "5d88b6ff11378941aa712b1e5701e22980010b1d4cb3f2d5baa12ea2bffd2815"


def test_other_programs_open_it_as_pictures(data_set: str, tmp_path: Path) -> None:
    found = datasets.load_dataset(
        "parquet", data_files=f"{data_set}/train-*.parquet", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(found["train"].features["image"], datasets.Image)
    np.testing.assert_array_equal(np.asarray(found["train"][1]["image"]), PICTURES[1])
    assert found["train"]["label"][:] == [1, 0, 1]


def test_no_data_set_and_no_such_split(data_set: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set in .*elsewhere: it has no dataset.json"):
        load_images(str(tmp_path / "elsewhere"), "train")
    with pytest.raises(ValueError, match="has no split 'validation'; it has train"):
        load_images(data_set, "validation")


def test_a_file_cut_short_is_named(data_set: str) -> None:
    path = train_file(data_set)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-00000-.*.parquet is cut short or damaged"):
        load_images(data_set, "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"train-00000-.*.parquet is missing"):
        load_images(data_set, "train")


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([(png(4, 5), 0), (png(5, 5), 0), (png(4, 5), 0)], "record 1: the picture is 5 x 5 pixels.* are 4 x 5"),
        ([(png(4, 5), 0), (png(4, 5), 0), (png(4, 5), 2)], "record 2: the label is 2, wanted 0 to 1"),
        ([(png(4, 5), -1)], "record 0: the label is -1"),
        ([(png(4, 5), 0), (png(4, 5)[:44], 0)], "record 1: the image is cut short or damaged"),
        ([(b"", 0)], "record 0: the file is empty"),
        ([(png(4, 5), 0)] * 4, "record 3: dataset.json promises 3 records of 'train', here is one more"),
        ([(png(4, 5), 0)] * 2, "promises 3 records of 'train', the files hold 2"),
        ([(png(4, 5), 0)] * 3, "are not those that were ingested"),
    ],
)
def test_a_bad_record_is_named(data_set: str, records: list[tuple[bytes, int]], sentence: str) -> None:
    replace_records(data_set, records)
    with pytest.raises(ValueError, match=sentence):
        load_images(data_set, "train")


def test_other_columns_are_refused(data_set: str) -> None:
    pq.write_table(pa.table({"pixels": [1]}), train_file(data_set))
    with pytest.raises(ValueError, match=r"its columns are \['pixels'\], wanted image"):
        load_images(data_set, "train")


ABOUT = {"name": "tiny", "source": "a test", "classes": ["cat", "dog"]}


def splits(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`count` training pictures, all of the value `count`, and one for tests."""
    grey = np.full((count, 2, 2, 1), count, np.uint8)
    return {"train": (grey, np.arange(count) % 2), "test": (grey[:1], np.zeros(1, np.int64))}


def parquet_files(store: Store) -> set[str]:
    return {key for key in store.list() if key.endswith(".parquet")}


def test_a_smaller_data_set_leaves_no_file_of_a_larger_one(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FILE_ROWS", 2)
    store = open_store(store_uri)
    store.write("train-00000-of-00001.parquet", b"somebody else's")
    store.write("train-00007.parquet", b"of an ingest before names had digests")
    write_dataset(store_uri, splits(5), ABOUT)
    assert len(parquet_files(store)) == 3 + 1 + 1
    record = write_dataset(store_uri, splits(3), ABOUT)
    named = {name for split in record["splits"].values() for name in split["files"]}
    assert len(named) == 2 + 1 and parquet_files(store) == named | {"train-00000-of-00001.parquet"}
    assert load_images(store_uri, "train").images[:, 0, 0, 0].tolist() == [3, 3, 3]


def test_files_of_large_pictures_have_fewer_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is made in memory: whole groups of 100 rows, within so many bytes of pixels."""
    monkeypatch.setattr(data, "FILE_BYTES", 4 * 250)
    record = write_dataset(str(tmp_path), splits(250), ABOUT)["splits"]["train"]
    assert (record["file_rows"], len(record["files"])) == (200, 2)
    counts = [pq.ParquetFile(tmp_path / name).metadata for name in record["files"]]
    assert [(one.num_rows, one.num_row_groups) for one in counts] == [(200, 2), (50, 1)]
    assert len(whole_groups(record)) == 2
    assert load_images(str(tmp_path), "train").digest == record["digest"]


class Died(BaseException):
    """A process that is killed: nothing catches it."""


def test_killed_at_any_write_the_old_data_or_the_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FILE_ROWS", 2)
    uri, verbs = str(tmp_path), {name: getattr(LocalStore, name) for name in ("write", "delete")}
    left, found = 0, []

    def dying(verb: str) -> Any:
        def act(store: LocalStore, *given: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Died
            verbs[verb](store, *given)

        return act

    for deaths in range(1, 100):
        write_dataset(uri, splits(5), ABOUT)
        with monkeypatch.context() as patch:
            for verb in verbs:
                patch.setattr(LocalStore, verb, dying(verb))
            left = deaths
            try:
                write_dataset(uri, splits(3), ABOUT)
            except Died:
                found.append(len(load_images(uri, "train").labels))
                assert load_images(uri, "test").images.max() == found[-1], "of the same set"
                continue
        break
    assert found == [5] * 4 + [3] * 2, "three files and dataset.json, then what is stale of both splits"
    assert len(parquet_files(open_store(uri))) == 3
