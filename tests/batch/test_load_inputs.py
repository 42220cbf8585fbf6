from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.batch.load_inputs import LoadOptions, Picture, PictureCache, load_unit
from darkroom.batch.row_state import SCHEMA, RowState, Unit, to_block
from darkroom.storage import NotFound, StorageError, open_store, read_uri
from runs import png

TEXT = {"task": "text_to_image", "prompt": "a one"}
EDIT = {"task": "image_to_image", "prompt": "a one", "image": "in/one.png"}
PAINT = {"task": "inpaint", "prompt": "a one", "image": "in/one.png", "mask": "in/mask.png"}


def loaded(base: str, *rows: dict[str, Any], sizes: tuple[int, ...] = (8, 16)) -> list[RowState]:
    """The rows of one unit with these rows; the run lies in the same place as the pictures."""
    lines = [{"id": str(n), "key": f"{n:032x}", "row": row} for n, row in enumerate(rows)]
    open_store(base).write("work/plan/000003.jsonl", "\n".join(map(json.dumps, lines)).encode())
    return load_unit(Unit(3, 3, 0, len(rows)), LoadOptions(base, "plan", base, sizes, 3))


def put(base: str, **files: bytes) -> None:
    for name, data in files.items():
        open_store(base).write(f"in/{name}.png", data)


def test_a_row_without_pictures_has_no_inputs(tmp_path: Path) -> None:
    (made,) = loaded(str(tmp_path), TEXT)
    assert (made.row, made.unit, made.failure, made.inputs, made.source) == (TEXT, 3, None, {}, None)
    assert to_block([made]).schema == SCHEMA


def test_pictures_are_fetched_at_every_size(store_uri: str) -> None:
    put(store_uri, one=png(16), mask=png(16, mode="L"))
    (made,) = loaded(store_uri, {**PAINT, "size": 16})
    shapes = {"image/8": (3, 8, 8), "image/16": (3, 16, 16), "mask/8": (1, 8, 8), "mask/16": (1, 16, 16)}
    assert {name: array.shape for name, array in made.inputs.items()} == shapes
    assert all(array.dtype == np.uint8 for array in made.inputs.values())
    assert made.inputs["mask/8"][0, 0].tolist() == [255] * 4 + [0] * 4, "a mask is never blurred"
    assert made.source.sha256 == hashlib.sha256(png(16)).hexdigest()
    assert made.source.uri == open_store(store_uri).uri("in/one.png")


def test_only_the_sizes_are_made_that_a_stage_takes(tmp_path: Path) -> None:
    put(str(tmp_path), one=png(16))
    rows = [EDIT, {**EDIT, "size": 64}, {**EDIT, "task": "upscale", "size": 64}, {**EDIT, "task": "forward"}]
    made = loaded(str(tmp_path), *rows)
    assert [sorted(one.inputs) for one in made] == [
        ["image/8"],
        ["image/16", "image/8"],
        ["image/8"],
        ["image/8"],
    ]


def test_a_component_held_to_a_picture_brings_it(tmp_path: Path) -> None:
    put(str(tmp_path), low=png(16))
    parts = [{"component": "low_pass", "image": "in/low.png"}, {"component": "high_pass", "prompt": "a one"}]
    (made,) = loaded(str(tmp_path), {"task": "hybrid", "components": parts, "size": 16})
    assert sorted(made.inputs) == ["given/16", "given/8"]


def test_a_broken_picture_costs_its_own_row_only(tmp_path: Path) -> None:
    put(str(tmp_path), one=png(16), mask=png(12, mode="L"), torn=png(16)[:60], text=b"not an image")
    rows = [{**EDIT, "image": f"in/{name}.png"} for name in ("none", "torn", "text", "one")]
    made = loaded(str(tmp_path), *rows, PAINT, TEXT)
    assert [bool(state.failure) for state in made] == [True, True, True, False, True, False]
    assert made[0].failure.text == f"there is no file {tmp_path}/in/none.png"
    assert made[1].failure.text.startswith("in/torn.png: the image is cut short or damaged")
    assert made[2].failure.text.startswith("in/text.png: not an image of a known format")
    assert made[4].failure.text == "the mask in/mask.png is 12 x 12, its image in/one.png is 16 x 16; they must match"


@pytest.mark.parametrize("path", ["in", "in/", "ftp://host/one.png", "x" * 5000, "file://elsewhere/one.png"])
def test_a_path_that_names_no_picture_is_the_rows_error(tmp_path: Path, path: str) -> None:
    put(str(tmp_path), one=png(8))
    made = loaded(str(tmp_path), {**EDIT, "image": path}, EDIT)
    assert made[0].failure and not made[1].failure


def test_a_picture_that_many_rows_share_is_fetched_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(str(tmp_path), one=png(16), mask=png(16, mode="L"))
    read: list[str] = []

    def read_slowly(uri: str, limit: int) -> bytes:
        read.append(uri.rpartition("/")[2])
        time.sleep(0.05)  # long enough for all rows to ask for it meanwhile
        return read_uri(uri, limit)

    monkeypatch.setattr("darkroom.batch.input_files.read_uri", read_slowly)
    made = loaded(str(tmp_path), *[{**EDIT, "seed": seed} for seed in range(100)], PAINT, {**EDIT, "size": 16})
    assert [state.failure for state in made] == [None] * 102
    assert sorted(read) == ["mask.png", "one.png", "one.png"], "once for each set of sizes"
    assert {state.source.sha256 for state in made} == {hashlib.sha256(png(16)).hexdigest()}
    assert all(state.inputs["image/8"] is made[0].inputs["image/8"] for state in made[:101])


def test_what_is_kept_of_pictures_is_bounded_and_what_is_used_stays() -> None:
    picture = Picture("0", (4, 4), {4: np.zeros((3, 4, 4), np.uint8)})
    cache, made = PictureCache(3 * picture.nbytes), list[str]()

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or picture)

    for key in ("a", "b", "c", "a", "d", "a", "b"):  # b is what was used least lately when d comes
        get(key)
    assert made == ["a", "b", "c", "d", "b"] and cache.nbytes == 3 * picture.nbytes


def test_a_picture_that_was_missing_is_looked_for_anew(tmp_path: Path) -> None:
    assert loaded(str(tmp_path), EDIT)[0].failure.text.startswith("there is no file")
    put(str(tmp_path), one=png(16))
    assert loaded(str(tmp_path), EDIT)[0].failure is None


def test_an_outage_is_nobodys_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DARKROOM_S3_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="the endpoint cannot be reached") as caught:
        loaded(str(tmp_path), {**EDIT, "image": "s3://bucket/one.png"}, TEXT)
    assert not isinstance(caught.value, NotFound)


def test_a_unit_that_is_gone_is_an_outage_too(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"work/plan/000000\.jsonl"):
        load_unit(Unit(0, 0, 0, 1), LoadOptions(str(tmp_path), "plan", str(tmp_path), (8,), 3))
