from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.manifest import parse_task, row_key
from darkroom.report.captions import details, noised_labels
from darkroom.report.figures import Panel, panels
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Shown, select
from darkroom.runs import Ledger, Writer, to_table
from darkroom.storage import encode_png, open_store
from runs import commit

RANDOM = np.random.default_rng(7)
PICTURE = RANDOM.integers(0, 256, (48, 48, 3), np.uint8)


def drawn(folder: Path, *rows: dict[str, Any], picture: np.ndarray = PICTURE, inline: bool = False) -> list[Panel]:
    """The panels of a run's one group of rows, which all have the same picture."""
    store = open_store(str(folder / "run"))
    results = [_result(folder, row, picture, inline) for row in rows]
    if not inline:
        for result in results:
            store.write(result["image"]["path"].split("/run/")[1], encode_png(picture))
    commit(store, "u-1", to_table(results))
    (part,) = select(Ledger(store)).tasks.values()
    (group,) = part.groups
    return panels(rows[0]["task"], group, Pictures(store))


def _result(folder: Path, row: dict[str, Any], picture: np.ndarray, inline: bool) -> dict[str, Any]:
    task = parse_task(row)
    key = row_key(task, "r", "1")
    path = f"{folder}/run/images/aa/{key}.png"
    source = folder / (task.sources() or ["none"])[0]
    digest = hashlib.sha256(source.read_bytes()).hexdigest() if source.exists() else ""
    height, width = picture.shape[:2]
    return {
        "id": key, "key": key, "task": task.task, "status": "ok", "error": "", "sha256": "",
        "image": {"bytes": encode_png(picture) if inline else None, "path": path},
        "image_uri": "" if inline else path, "width": width, "height": height, "prompts": task.prompts(),
        "negative_prompt": "", "seed": task.seed, "steps": 34, "guidance": 7.0, "sampler": "ddpm",
        "start_timestep": None, "parameters": json.dumps(task.canonical()), "source_uri": str(source) if digest else "",
        "source_sha256": digest, "model": "m", "model_revision": "r", "evaluations": 68, "seconds": 0.5, "worker": "w",
        "stages": "[]", "controls": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None,
        "video_uri": "", "video_sha256": "", "video_bytes": None, "frames": None, "fps": None,
        "error_class": "", "attempts": 1, "created_at": datetime.now(UTC),
    }  # fmt: skip


def check(found: list[Panel], *wanted: tuple[str, str, np.ndarray]) -> None:
    assert [(panel.label, panel.text) for panel in found] == [(label, text) for label, text, _ in wanted]
    for panel, (label, _, picture) in zip(found, wanted, strict=True):
        assert panel.picture.dtype == np.uint8
        assert np.array_equal(panel.picture, picture), label


def text_row() -> dict[str, Any]:
    return {"task": "text_to_image", "prompt": "a red seven"}


@pytest.mark.parametrize("inline", [False, True])
def test_text_to_image_is_the_picture(tmp_path, inline: bool) -> None:
    check(drawn(tmp_path, text_row(), inline=inline), ("", "", PICTURE))


def test_what_control_networks_saw_stands_beside_the_picture(tmp_path) -> None:
    store, seen, gone = open_store(str(tmp_path / "run")), 255 - PICTURE, "maps/gone.png"
    store.write("maps/ab.png", encode_png(seen))
    maps = [{"net": net, "digest": "0" * 64, "key": key} for net, key in (("canny", "maps/ab.png"), ("depth", gone))]
    result = _result(tmp_path, text_row(), PICTURE, inline=True) | {"controls": json.dumps(maps)}
    commit(store, "u-1", to_table([result]))
    ((group,),) = (part.groups for part in select(Ledger(store)).tasks.values())
    check(panels("text_to_image", group, Pictures(store)), ("", "", PICTURE), ("seen by canny", "", seen))
    assert details(group[0]) == ["canny (000000000000) saw maps/ab.png", f"depth (000000000000) saw {gone}"]


def test_an_anagram_is_seen_through_each_view(tmp_path) -> None:
    views = ["identity", "flip_vertical", "rotate_90", "negate"]
    row = {"task": "anagram", "views": [{"view": view, "prompt": f"prompt of {view}"} for view in views]}
    check(
        drawn(tmp_path, row),
        ("identity", "prompt of identity", PICTURE),
        ("flip vertical", "prompt of flip_vertical", PICTURE[::-1]),
        ("rotate 90", "prompt of rotate_90", np.rot90(PICTURE)),
        ("negate", "prompt of negate", 255 - PICTURE),
    )


@pytest.mark.parametrize("view", ["jigsaw", "pixel_permute", "patch_permute"])
def test_a_view_with_parameters_says_which(tmp_path, view: str) -> None:
    views = [{"view": view, "prompt": "a one", "seed": 4}, {"view": "identity", "prompt": "a two"}]
    first, second = drawn(tmp_path, {"task": "anagram", "views": views})
    assert "seed 4" in first.detail and not second.detail
    assert not np.array_equal(first.picture, PICTURE)
    assert sorted(first.picture.reshape(-1, 3).tolist()) == sorted(PICTURE.reshape(-1, 3).tolist()), "a rearrangement"


def test_a_hybrid_is_shown_near_far_and_in_parts(tmp_path) -> None:
    components = [{"component": "low_pass", "prompt": "a two"}, {"component": "high_pass", "prompt": "a six"}]
    near, far, detail = drawn(tmp_path, {"task": "hybrid", "components": components})
    assert [panel.label for panel in (near, far, detail)] == ["near", "from far", "detail alone"]
    assert [panel.text for panel in (near, far, detail)] == ["", "a two", "a six"]
    assert np.array_equal(near.picture, PICTURE)
    assert far.picture.std() < PICTURE.std() / 2, "blurred"
    # The parts sum to the picture, about the grey of 127.5 that a part without white of its own lies on.
    summed = far.picture.astype(float) + detail.picture - 127.5
    inside = (detail.picture > 0) & (detail.picture < 255)
    assert np.abs(summed - PICTURE)[inside].max() <= 1.0


def test_a_colour_hybrid_is_shown_in_colour_and_in_grey(tmp_path) -> None:
    picture = np.full((48, 48, 3), (30, 60, 210), np.uint8)
    components = [{"component": "grayscale", "prompt": "a two"}, {"component": "color", "prompt": "a six"}]
    *whole, colour = drawn(tmp_path, {"task": "hybrid", "components": components}, picture=picture)
    check(whole, ("in colour", "", picture), ("without colour", "a two", np.full_like(picture, 100)))
    assert (colour.label, colour.text) == ("colour alone", "a six")
    assert np.abs(colour.picture - (picture - 100.0 + 127.5)).max() <= 0.5


@pytest.mark.parametrize(
    ("family", "labels"),
    [
        (["low_band", "middle_band", "high_band"], ["near", "from far", "middle band", "detail alone"]),
        (["motion", "motion_residual"], ["at rest", "in motion", "the rest alone"]),
    ],
)
def test_other_families(tmp_path, family: list[str], labels: list[str]) -> None:
    components = [{"component": name, "prompt": name} for name in family]
    found = drawn(tmp_path, {"task": "hybrid", "components": components})
    assert [panel.label for panel in found] == labels
    assert [panel.text for panel in found] == ["", *family]
    assert not any(np.array_equal(panel.picture, PICTURE) for panel in found[1:])


def test_a_component_with_a_view_is_seen_through_it(tmp_path) -> None:
    components = [
        {"component": "grayscale", "prompt": "a two", "view": "flip_vertical"},
        {"component": "color", "prompt": "a six"},
    ]
    grey = PICTURE.astype(float).mean(axis=2, keepdims=True)
    _, first, _ = drawn(tmp_path, {"task": "hybrid", "components": components})
    assert first.label == "without colour, flip vertical"
    assert np.abs(first.picture.astype(float) - grey[::-1]).max() <= 0.51


def test_an_inverse_hybrid_says_what_it_is_held_to(tmp_path) -> None:
    components = [{"component": "low_pass", "image": "face.png"}, {"component": "high_pass", "prompt": "a six"}]
    assert drawn(tmp_path, {"task": "hybrid", "components": components})[1].text == "held to face.png"


def test_scaled_prompts_have_one_picture(tmp_path) -> None:
    components = [{"component": "scale", "weight": w, "prompt": p} for w, p in ((0.25, "a two"), (0.75, "a six"))]
    row = {"task": "hybrid", "components": components}
    check(drawn(tmp_path, row), ("the picture", "0.25 x a two + 0.75 x a six", PICTURE))


def source(folder: Path, name: str, picture: np.ndarray) -> np.ndarray:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))
    return picture


def test_a_sweep_is_a_strip_that_ends_with_its_source(tmp_path) -> None:
    image = source(tmp_path, "x.png", RANDOM.integers(0, 256, (48, 48, 3), np.uint8))
    row = {"task": "image_to_image", "prompt": "a seven", "image": "x.png"}
    found = drawn(tmp_path, *({**row, "start": start} for start in (10, 1, 20, 3)))
    swept = [(f"start {start}", "", PICTURE) for start in (1, 3, 10, 20)]
    check(found, *swept, ("source", "", image))


def test_a_sweep_of_strength_begins_with_the_most_noise(tmp_path) -> None:
    row = {"task": "image_to_image", "prompt": "a seven", "image": "gone.png"}
    found = drawn(tmp_path, *({**row, "strength": strength} for strength in (0.25, 1.0, 0.5)))
    assert [panel.label for panel in found] == ["strength 1", "strength 0.5", "strength 0.25"]


@pytest.mark.parametrize("harm", ["delete", "change", "break"])
def test_a_source_that_is_not_what_it_was_is_left_out(tmp_path, monkeypatch, harm: str) -> None:
    source(tmp_path, "x.png", PICTURE)
    row = {"task": "upscale", "prompt": "a seven", "image": "x.png"}

    def commit_and_harm(writer: Writer, shards: Any, real: Any = Writer.commit) -> None:
        path = tmp_path / "x.png"
        changes = {"delete": path.unlink, "change": lambda: source(tmp_path, "x.png", 255 - PICTURE)}
        changes.get(harm, lambda: path.write_bytes(b""))()
        real(writer, shards)

    monkeypatch.setattr(Writer, "commit", commit_and_harm)
    check(drawn(tmp_path, row), ("result", "", PICTURE))


@pytest.mark.parametrize(
    ("image", "mask"), [("in/x.png", "masks/m.png"), ("x.png", "m.png"), ("a/b/../x.png", "./m/m.png")]
)
def test_inpainting_shows_source_mask_and_result(tmp_path, image: str, mask: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = source(tmp_path, image, np.full((48, 48, 3), 90, np.uint8))
    white = np.zeros((48, 48, 3), np.uint8)
    white[10:20, 30:] = 255
    source(tmp_path, mask, white)
    row = {"task": "inpaint", "prompt": "a seven", "image": image, "mask": mask}
    check(drawn(tmp_path, row), ("source", "", before), ("mask", "", white), ("result", "", PICTURE))


def test_source_and_mask_of_a_wide_picture_are_as_wide(tmp_path) -> None:
    wide = RANDOM.integers(0, 256, (32, 48, 3), np.uint8)
    before, white = source(tmp_path, "x.png", 255 - wide), np.zeros((32, 48, 3), np.uint8)
    white[:, :6] = 255
    source(tmp_path, "m.png", white)
    row = {"task": "inpaint", "prompt": "a seven", "image": "x.png", "mask": "m.png"}
    wanted = ("source", "", before), ("mask", "", white), ("result", "", wide)
    check(drawn(tmp_path, row, picture=wide), *wanted)
    (tmp_path / "run").rename(tmp_path / "earlier")
    large = wide.repeat(2, 0).repeat(2, 1)
    check(drawn(tmp_path, row, picture=large)[:1], ("source", "", before))


def test_upscaling_shows_the_source_in_its_own_pixels(tmp_path) -> None:
    small = source(tmp_path, "x.png", RANDOM.integers(0, 256, (24, 24, 3), np.uint8))
    row = {"task": "upscale", "prompt": "a seven", "image": "x.png"}
    check(drawn(tmp_path, row), ("source", "", small), ("result", "", PICTURE))


def test_a_picture_that_is_gone_is_named(tmp_path) -> None:
    drawn(tmp_path, text_row())
    store = open_store(str(tmp_path / "run"))
    (part,) = select(Ledger(store)).tasks.values()
    (group,) = part.groups
    (key,) = store.list("images/")
    store.write(key, b"not a picture")
    with pytest.raises(ValueError, match=f"the picture of row {group[0].row['id']}: not an image"):
        panels("text_to_image", group, Pictures(store))
    store.delete(key)
    with pytest.raises(ValueError, match=f"the picture of row {group[0].row['id']} is gone: images/aa/"):
        panels("text_to_image", group, Pictures(store))


def noised(timestep: int, method: str = "", **more: Any) -> dict[str, Any]:
    own = {"task": "denoise", "method": method} if method else {"task": "forward"}
    return {**own, "image": "x.png", "timestep": timestep, **more}


def test_a_noised_picture_and_what_came_of_it(tmp_path) -> None:
    image = source(tmp_path, "x.png", RANDOM.integers(0, 256, (48, 48, 3), np.uint8))
    rows = [noised(500), noised(500, "blur"), noised(500, "one_step", prompt="a"), noised(500, "iterative", prompt="a")]
    names = ["noised to 500", "blurred", "one step", "iterative"]
    store = open_store(str(tmp_path / "run"))
    results = [{**_result(tmp_path, row, PICTURE, True), "id": f"f/{index}"} for index, row in enumerate(rows)]
    commit(store, "u-1", to_table(results))
    (part,) = select(Ledger(store)).figures.values()
    (group,) = part.groups
    check(panels("forward", group, Pictures(store)), *((name, "", PICTURE) for name in names), ("source", "", image))


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([noised(500, "iterative", until=until) for until in (480, 30)] + [noised(500, "iterative")],
         ["down to 480", "down to 30", "to the end"]),
        ([noised(t, "one_step") for t in (250, 500)], ["one step from 250", "one step from 500"]),
        ([noised(t) for t in (250, 500)], ["noised to 250", "noised to 500"]),
    ],
)  # fmt: skip
def test_noised_pictures_say_what_they_differ_in(rows: list[dict[str, Any]], labels: list[str]) -> None:
    group = [Shown({}, parse_task(row).canonical(), None, index) for index, row in enumerate(rows)]
    assert noised_labels(group) == labels


def test_a_component_seen_through_a_view_with_parameters(tmp_path) -> None:
    view = {"view": "patch_permute", "pieces": 2, "seed": 1}
    components = [
        {"component": "grayscale", "prompt": "a two", "view": view},
        {"component": "color", "prompt": "a six"},
    ]
    grey = PICTURE.astype(float).mean(axis=2)
    _, first, _ = drawn(tmp_path, {"task": "hybrid", "components": components})
    assert first.label == "without colour, patch permute"
    assert sorted(first.picture[..., 0].reshape(-1).tolist()) == sorted(np.round(grey).reshape(-1).tolist())
    assert not np.allclose(first.picture[..., 0], grey, atol=1)
