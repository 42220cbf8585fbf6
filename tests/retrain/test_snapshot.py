from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from darkroom.retrain import snapshot
from darkroom.retrain.schema import Data
from darkroom.retrain.snapshot import Snapshot, take_snapshot
from darkroom.storage import StorageError, encode_png, open_store
from darkroom.training.data import load_images, sample_uri
from darkroom.training.idx import write_idx
from small_world import World


def snap(world: World, **data: object) -> Snapshot:
    return take_snapshot(Data(**{"kind": "idx", "source": f"{world.uri}/source"} | data), f"{world.uri}/out", print)


def test_the_same_files_are_the_same_snapshot_wherever_they_lie(world: World) -> None:
    world.arrive("one", 0, 8, tests=4)
    world.arrive("deeper/two", 8, 8, tests=4)
    first = snap(world)
    images = load_images(first.uri, "train")
    assert len(images.labels) == 16 and images.digest == first.digests["train"] and first.rows["test"] == 8
    again = snap(world)
    assert again.id == first.id and [part.reused for part in again.parts] == [True, True]
    world.arrive("one", 0, 9, tests=4)
    changed = snap(world)
    assert changed.id != first.id and sorted(part.reused for part in changed.parts) == [False, True]


def test_files_that_have_not_changed_are_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.arrive("one", 0, 8, tests=4)
    world.arrive("two", 8, 8, tests=4)
    first, source = snap(world), open_store(f"{world.uri}/source")
    read: list[str] = []
    whole = type(source).read
    monkeypatch.setattr(
        type(source), "read", lambda store, key: (store.root == source.root and read.append(key), whole(store, key))[1]
    )
    assert snap(world).id == first.id and read == []
    labels = source.read("two/train-labels-idx1-ubyte")
    source.write("two/train-labels-idx1-ubyte", labels[:-1] + bytes([(labels[-1] + 1) % 10]))
    read.clear()
    assert snap(world).id != first.id and read == ["two/train-labels-idx1-ubyte"], "of the same size, and another"


@pytest.mark.parametrize("kind", ["idx", "folder"])
def test_what_changes_while_it_is_read_is_not_taken_for_what_was_hashed(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Files are replaced, and one is added, after they were hashed and before they are read."""
    if kind == "idx":
        world.arrive("one", 0, 8, tests=4)
    else:
        pictures(world, 4)
    hashes = snapshot._digests

    def then_the_source_changes(*given: Any) -> dict[str, str]:
        found = hashes(*given)
        world.arrive("one", 20, 8, tests=4) if kind == "idx" else pictures(world, 5)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_digests", then_the_source_changes)
        with pytest.raises(StorageError, match="changed while it was read; run the tick again"):
            snap(world, kind=kind)
    assert not list(open_store(f"{world.uri}/out").list("data/parts/")), "nothing bears the hashes' name"
    again = snap(world, kind=kind)
    assert [part.reused for part in again.parts] == [False] and snap(world, kind=kind).id == again.id
    if kind == "idx":
        named = json.loads(open_store(again.uri).read("part.json"))["files"]["train-images-idx3-ubyte"]
        held = load_images(again.uri, "train").images[..., 0]
        assert hashlib.sha256(write_idx(held)).hexdigest() == named
    else:
        assert again.rows["train"] == 10


def pictures(world: World, count: int) -> None:
    """So many of two classes in both splits, other ones for each `count`."""
    store = open_store(f"{world.uri}/source")
    for number in range(count):
        picture = np.random.default_rng([count, number]).integers(0, 256, (8, 8, 3), np.uint8)
        for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
            store.write(f"{folder}/{number}.png", encode_png(picture))


def test_one_part_is_not_copied(here: World) -> None:
    here.arrive("", 0, 8, tests=4)
    found = snap(here)
    assert found.uri == found.parts[0].uri and not list(open_store(f"{here.uri}/out").list("data/snapshots/"))


def test_blank_pictures_and_unknown_labels_are_left_out(here: World) -> None:
    here.arrive("one", 0, 8, tests=4)
    images = load_images(sample_uri(), "train").images[:8, ..., 0].copy()
    images[2] = 0
    open_store(f"{here.uri}/source/one").write("train-images-idx3-ubyte", write_idx(images))
    open_store(f"{here.uri}/source/one").write("train-labels-idx1-ubyte", write_idx(np.uint8([0, 1, 2, 3, 9, 5, 6, 7])))
    found = snap(here, classes=9, bad_records=0.5)
    assert found.bad >= 2 and found.rows["train"] == 6
    told = json.loads(open_store(found.uri).read("part.json"))["quarantine"]
    assert told[:2] == ["train record 4: the label is 9", "train record 2: nothing is on the picture"]


def test_pictures_that_cannot_be_read_are_left_out(here: World) -> None:
    pictures(here, 12)
    store = open_store(f"{here.uri}/source")
    store.write("train/cat/torn.png", b"not a picture")
    store.write("train/dog/large.png", encode_png(np.zeros((9, 9, 3), np.uint8)))
    found = snap(here, kind="folder", bad_records=0.1)
    assert (found.rows, found.bad) == ({"train": 24, "test": 24}, 2)
    with pytest.raises(ValueError, match="2 of 50 records .* are bad, more than the 1.00%"):
        snap(here, kind="folder")


def test_no_data_and_parts_of_two_forms_are_sentences(here: World) -> None:
    with pytest.raises(ValueError, match="no data under .*source: wanted a folder with train-images-idx3-ubyte"):
        snap(here)
    here.arrive("one", 0, 8, tests=4)
    here.arrive("two", 0, 8, tests=4)
    for name in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (8 if name == "train" else 4, 30, 30), np.uint8)
        open_store(f"{here.uri}/source/two").write(f"{name}-images-idx3-ubyte", write_idx(images))
    with pytest.raises(ValueError, match=r"pictures of different forms: .*one 28 x 28 x 1, .*two 30 x 30 x 1"):
        snap(here)


def test_a_data_set_by_name_is_fetched_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(source: str | None) -> object:
        fetched.append(source)
        splits = {s: load_images(sample_uri(), s) for s in ("train", "test")}
        arrays = {name: (images.images, images.labels) for name, images in splits.items()}
        return arrays, {"name": "mnist", "source": "mirrors", "classes": [str(digit) for digit in range(10)]}

    monkeypatch.setattr("darkroom.retrain.snapshot.INGESTERS", {"mnist": fetch})
    assert [snap(here, kind="mnist", source=None).rows["train"] for _ in range(2)] == [2000, 2000] and fetched == [None]
