"""Which pictures of a run are there, and what becomes of rows without theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.runs import Ledger, pictures, to_table
from darkroom.runs.pictures import Pictures
from darkroom.storage import Store, image_key, open_store, video_key
from darkroom.storage.hashing import hashed
from runs import commit, result

IDS = ["a", "b", "c", "d"]
KEYS = [f"{number:032x}" for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of four good rows: two with pictures of their own, a duplicate of the first, and one with it inside."""
    store = open_store(str(tmp_path / "run"))
    places = [image_key("a", KEYS[0]), image_key("b", KEYS[1]), image_key("a", KEYS[0]), ""]
    for key in places[:2]:
        store.write(key, b"png")
    commit(store, "u", to_table([_row(*each) for each in zip(IDS, KEYS, places, strict=True)]))
    return store


def _row(row_id: str, key: str, place: str) -> dict[str, Any]:
    line = {"id": row_id, "key": key, "row": {"task": "text_to_image"}}
    return result(line, image={"bytes": None if place else b"png", "path": place or "inside.png"}, image_uri=place)


def gone(store: Store, broken: np.ndarray | None = None, rows: int = 4) -> list[bool]:
    return Pictures(store, rows, broken).gone(Ledger(store).read().index, IDS, KEYS).tolist()


@pytest.mark.parametrize("rows", [4, pictures.MANY], ids=["few", "many"])
def test_only_what_no_picture_is_left_of_is_gone(store: Store, rows: int) -> None:
    assert gone(store, rows=rows) == [False] * 4
    store.delete(image_key("b", KEYS[1]))
    assert gone(store, rows=rows) == [False, True, False, False]
    store.delete(image_key("a", KEYS[0]))
    assert gone(store, rows=rows) == [True, True, True, False], "the duplicate has lost it too"


def test_a_picture_known_to_be_broken_is_gone(store: Store) -> None:
    assert gone(store, np.array([hashed("d")], dtype=np.uint64)) == [False, False, False, True]


def test_rows_of_a_damaged_shard_that_cannot_say_it_are_gone(store: Store) -> None:
    (shard,) = Ledger(store).read().shards
    store.write(f"metadata/{shard}", b"PAR1 no more")
    assert gone(store) == [False, False, True, True], "whose pictures do not lie where they usually would"


def test_a_row_without_its_video_is_gone(store: Store) -> None:
    """Its own or, of a duplicate, the other's; rows with videos are told apart by whoever asks."""
    uris = [image_key("e", KEYS[0]), video_key("e", KEYS[0])]
    for uri in uris:
        store.write(uri, b"file")
    rows = [_row(name, KEYS[0], uris[0]) | {"video_uri": uris[1]} for name in ("e", "f")]
    commit(store, "videos", to_table(rows))

    def found(filmed: bool) -> list[bool]:
        index = Ledger(store).read().index
        return Pictures(store, 6).gone(index, ["e", "f"], [KEYS[0]] * 2, [filmed] * 2).tolist()

    assert found(True) == [False, False]
    store.delete(uris[1])
    assert found(True) == [True, True] and found(False) == [False, True]
