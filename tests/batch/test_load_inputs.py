from __future__ import annotations

import hashlib
import io
import json
import os
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from darkroom.batch.input_files import LARGEST_BYTES, SMALL_BYTES, input_roots
from darkroom.batch.load_inputs import LoadOptions, Picture, PictureCache, load_row, load_unit
from darkroom.batch.row_state import SCHEMA, RowState, Unit, to_block
from darkroom.storage import NotFound, StorageError, encode_png, open_store, read_uri
from darkroom.storage.squares import fitted
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


def test_control_networks_see_what_is_drawn_of_a_picture_at_the_first_stages_size(tmp_path: Path) -> None:
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 24:40] = 255, 0, 0
    put(str(tmp_path), square=encode_png(square), wide=encode_png(square[16:48]))
    use = {"net": "canny", "image": "in/square.png", "preprocess": "canny", "low": 100, "high": 200}
    ready = {"net": "b", "image": "in/wide.png", "preprocess": "none"}
    rows = [TEXT | {"control": [use]}, TEXT | {"control": [use, ready], "fit": "pad"}]
    one, two = loaded(str(tmp_path), *rows, sizes=(32, 64))
    assert one.failure is None and one.source is None, one.failure
    assert {name: array.shape for name, array in one.inputs.items()} == {"control 0/32": (3, 32, 32)}
    drawn = one.inputs["control 0/32"]
    assert np.array_equal(drawn[0], cv2.Canny(np.array(fitted(Image.fromarray(square), 32, "crop")), 100, 200))
    down, across = np.nonzero(drawn[0])
    assert down.min() in (7, 8) and across.min() in (11, 12), "where the square begins"
    padded = two.inputs["control 1/32"]
    assert (padded[:, :8] == 255).all() and (padded[:, 24:] == 255).all() and padded[0, 16, 16] == 255
    assert padded[1, 16, 16] == 0, "red"
    (seen,), (again, other) = one.maps, two.maps
    assert (seen.net, again, other.net) == ("canny", seen, "b")
    assert sorted(open_store(str(tmp_path)).list("maps/")) == sorted({seen.key, other.key})
    lines = [TEXT | {"control": [use | change]} for change in ({"image": "in/none.png"}, {"image": "/etc/passwd"})]
    gone, outside = (
        load_row(RowState("", "x", "0", row), LoadOptions("", "", str(tmp_path), (32,), 3, roots=(str(tmp_path),)))
        for row in lines
    )
    assert "there is no file" in gone.failure.text and "--inputs-root" in outside.failure.text
    assert load_row(RowState(0, "x", "0", rows[0]), LoadOptions("", "", str(tmp_path), (32,), 3)).maps[0].key == ""


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


def test_a_picture_whose_accents_are_spelt_otherwise_is_told(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFD", "NFC")]
    put(str(tmp_path), **{names[0]: png(16)})
    failure = alone({**EDIT, "image": f"in/{names[1]}.png"}, base=str(tmp_path)).failure
    assert failure.text.endswith("has its accents spelt otherwise (Unicode NFC and NFD): rename it")


def test_a_picture_that_was_missing_is_looked_for_anew(tmp_path: Path) -> None:
    assert loaded(str(tmp_path), EDIT)[0].failure.text.startswith("there is no file")
    put(str(tmp_path), one=png(16))
    assert loaded(str(tmp_path), EDIT)[0].failure is None


def test_an_outage_is_nobodys_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    with pytest.raises(StorageError, match="the endpoint cannot be reached") as caught:
        loaded(str(tmp_path), {**EDIT, "image": "s3://bucket/one.png"}, TEXT)
    assert not isinstance(caught.value, NotFound)


def test_a_unit_that_is_gone_is_an_outage_too(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"work/plan/000000\.jsonl"):
        load_unit(Unit(0, 0, 0, 1), LoadOptions(str(tmp_path), "plan", str(tmp_path), (8,), 3))


# ---- where pictures may come from, and what is none


@contextmanager
def without_permission(path: Path) -> Iterator[None]:
    """Root may read everything, and nobody not even look into the folder that pytest made for root."""
    is_root = os.geteuid() == 0
    path.chmod(0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def alone(row: dict[str, Any], **options: Any) -> RowState:
    """A row whose pictures are read without those of a unit. roots: as options have them."""
    line = {"id": "0", "key": "0" * 32, "row": row}
    return load_row(RowState.of_line(0, line), LoadOptions("", "", sizes=(8,), channels=3, **options))


def test_a_file_that_may_not_be_read_is_its_rows_failure(tmp_path: Path) -> None:
    put(str(tmp_path), one=png(16))
    with without_permission(tmp_path / "in/one.png"):
        failure = alone(EDIT, base=str(tmp_path)).failure
    assert failure.kind == "input" and "permission was denied" in failure.text


def test_a_missing_bucket_is_its_rows_failure(tmp_path: Path, s3_env: str) -> None:
    put(str(tmp_path), one=png(16))
    rows = [{**EDIT, "image": "s3://no-such-bucket/one.png"}, {**EDIT, "image": f"{s3_env}/none.png"}, EDIT]
    made = loaded(str(tmp_path), *rows)
    assert "the bucket does not exist" in made[0].failure.text
    assert made[1].failure.text == f"there is no file {s3_env}/none.png"
    assert [state.failure and state.failure.kind for state in made] == ["input", "input", None]


def test_an_input_that_wants_keys_that_nobody_gave_is_its_rows_failure(
    tmp_path: Path, s3_env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    put(str(tmp_path), one=png(16))
    made = loaded(str(tmp_path), {**EDIT, "image": f"{s3_env}/one.png"}, EDIT)
    assert "no keys were found" in made[0].failure.text and made[1].failure is None


def test_wrong_keys_are_nobodys_row(tmp_path: Path, s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match="check AWS_ACCESS_KEY_ID"):
        loaded(str(tmp_path), {**EDIT, "image": f"{s3_env}/one.png"})


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "link to a device", "folder", "loop"])
def test_what_is_no_file_is_its_rows_failure_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    target = tmp_path / "target" if "link" in kind else path
    if "pipe" in kind:
        os.mkfifo(target)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    if "device" in kind:
        target = Path("/dev/zero")
    if "link" in kind:
        path.symlink_to(target)
    image = "/dev/zero" if kind == "device" else "x.png"
    failure = alone({**EDIT, "image": image}, base=str(tmp_path)).failure
    assert failure.kind == "input" and ("no file" in failure.text or "cannot" in failure.text), failure.text


def test_pictures_come_from_the_manifests_folder_alone_unless_it_is_said(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "jobs", tmp_path / "pictures"
    put(str(base), one=png(16))
    put(str(elsewhere), one=png(16))
    (base / "link").symlink_to(elsewhere)
    (base / "near").symlink_to(base / "in")
    rows = [f"{elsewhere}/in/one.png", "../pictures/in/one.png", "link/in/one.png", f"file://{elsewhere}/in/one.png"]
    roots = input_roots((), str(base), str(tmp_path / "run"))
    for image in rows:
        text = alone({**EDIT, "image": image}, base=str(base), roots=roots).failure.text
        assert text.startswith(f"{image} lies outside of the manifest's folder") and "say --inputs-root " in text
        more = input_roots((str(elsewhere),), str(base), str(tmp_path / "run"))
        assert alone({**EDIT, "image": image}, base=str(base), roots=more).failure is None
    for image in ("in/one.png", "near/one.png", f"{base}/in/../in/one.png"):
        assert alone({**EDIT, "image": image}, base=str(base), roots=roots).failure is None
    assert alone({**EDIT, "image": rows[0]}, base=str(base), roots=("/", "s3://")).failure is None


def test_a_folder_whose_name_begins_alike_is_another(tmp_path: Path) -> None:
    put(str(tmp_path / "jobs-secret"), one=png(16))
    roots = input_roots((), str(tmp_path / "jobs"), str(tmp_path / "run"))
    row = {**EDIT, "image": f"{tmp_path}/jobs-secret/in/one.png"}
    assert "lies outside" in alone(row, base=str(tmp_path / "jobs"), roots=roots).failure.text


def test_the_bucket_of_a_manifest_is_its_own() -> None:
    roots = input_roots((), "s3://bucket/jobs/today", "s3://other/run")
    assert roots == ("s3://bucket", "s3://other/run/inputs")
    row = {**EDIT, "image": "s3://bucket-2/one.png"}
    assert alone(row, base="s3://bucket/jobs/today", roots=roots).failure.text == (
        "s3://bucket-2/one.png lies outside of the manifest's folder and bucket; to take pictures from there too, say "
        "--inputs-root s3://bucket-2"
    )


def test_a_key_does_not_climb() -> None:
    row = {**EDIT, "image": "s3://bucket/../other/one.png"}
    assert "names no object" in alone(row, base="/jobs", roots=("s3://bucket",)).failure.text


def test_a_root_is_a_place() -> None:
    with pytest.raises(ValueError, match="gs://bucket"):
        input_roots(("gs://bucket",), "/jobs", "/run")


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    text = alone({**EDIT, "image": "large.png"}, base=str(tmp_path)).failure.text
    assert text == "large.png: the file has 268,435,457 bytes, more than 268,435,456"


def test_a_file_that_is_not_small_is_read_too(store_uri: str) -> None:
    put(store_uri, one=png(16) + bytes(SMALL_BYTES))
    (made,) = loaded(store_uri, EDIT)
    assert made.failure is None and made.source.sha256 == hashlib.sha256(png(16) + bytes(SMALL_BYTES)).hexdigest()


# ---- masks


CASES = Path(__file__).parents[1] / "cases"


def of_case(name: str, **words: Any) -> list[RowState]:
    """The case's rows, at 24 and 48 pixels."""
    rows = [json.loads(line) for line in (CASES / name / "row.jsonl").read_text().splitlines()]
    options = LoadOptions("", "", str(CASES / name), (24, 48), 3)
    return [
        load_row(RowState.of_line(0, {"id": "0", "key": "0" * 32, "row": {"size": 48} | row | words}), options)
        for row in rows
    ]


@pytest.mark.parametrize("name", ["mask-0-1", "mask-16-bit", "mask-transparent"])
def test_a_mask_of_any_make_selects_some_of_the_picture(name: str) -> None:
    (state,) = of_case(name)
    assert state.failure is None and state.flags == []
    for size in (24, 48):
        assert 0 < np.count_nonzero(state.inputs[f"mask/{size}"]) < size * size


def test_a_mask_that_selects_nothing_fails_its_row_unless_a_flag_will_do() -> None:
    (state,) = of_case("mask-all-black")
    assert state.failure.kind == "input"
    assert state.failure.text == "the mask m_black.png selects nothing: all of it is the same, 0"
    (state,) = of_case("mask-all-black", empty_mask="flag")
    assert state.failure is None and state.flags == ["mask_empty"] and not state.inputs["mask/48"].any()


def test_a_mask_beside_the_square_that_is_kept_selects_nothing() -> None:
    (state,) = of_case("mask-outside-crop")
    assert state.failure.text.startswith("the mask m_wide_edge.png selects nothing: of its 144 x 48 pixels it has ")
    assert state.failure.text.endswith("none of them left of the square in its middle at 24 pixels")
    for fit in ("pad", "stretch"):
        (state,) = of_case("mask-outside-crop", fit=fit)
        assert state.failure is None and state.inputs["mask/24"].any()
    (padded,) = of_case("mask-outside-crop", fit="pad")
    assert (padded.inputs["image/48"][:, :16] == 255).all() and not padded.inputs["mask/48"][:, :16].any()


def test_a_mask_that_selects_all_is_flagged_or_fails(tmp_path: Path) -> None:
    white = io.BytesIO()
    Image.new("L", (16, 16), 255).save(white, "PNG")
    put(str(tmp_path), one=png(16), mask=white.getvalue())
    flagged, failed = loaded(str(tmp_path), PAINT, {**PAINT, "full_mask": "fail"})
    assert flagged.flags == ["mask_full"] and flagged.failure is None
    assert failed.failure.text == "the mask in/mask.png selects the whole picture"


def test_class_ids_by_mask_value(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(np.array([[3, 7]], np.uint8), 16, axis=0).repeat(8, axis=1)).save(buffer, "PNG")
    put(str(tmp_path), one=png(16), mask=buffer.getvalue())
    three, seven, none = loaded(str(tmp_path), *({**PAINT, "mask_value": [value]} for value in (3, 7, 4)))
    assert three.inputs["mask/8"][0, 0].tolist() == [255] * 4 + [0] * 4
    assert (three.inputs["mask/8"] ^ seven.inputs["mask/8"] == 255).all()
    assert none.failure.text == "the mask in/mask.png selects nothing: 'mask_value' is 4, the mask has 3, 7"


def test_how_a_picture_becomes_square(tmp_path: Path) -> None:
    """Three times as wide as high: red, green and blue."""
    wide = np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 8, axis=0).repeat(8, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    put(str(tmp_path), one=buffer.getvalue())
    rows = [EDIT, *({**EDIT, "fit": fit} for fit in ("crop", "pad", "stretch"))]
    usual, crop, pad, stretch = (state.inputs["image/8"] for state in loaded(str(tmp_path), *rows, sizes=(8,)))
    assert np.array_equal(usual, crop) and (crop == np.array([0, 255, 0])[:, None, None]).all()
    assert (pad[:, [0, 1, -1]] == 255).all() and pad[:, 3, 1].tolist() == [255, 0, 0], "white above and below"
    assert (stretch[0, :, 0] > 250).all() and (stretch[2, :, -1] > 250).all(), "red to the left, blue to the right"
