"""Stable Diffusion's layout, at toy size, through a real Ray: a mixed manifest, its run audited and resumed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom.batch.generate import Options, run
from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError
from darkroom.report.page import write_report
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from runs import pictures, png, results, write_manifest

TEXT = {"task": "text_to_image", "prompt": "a red one", "steps": 3, "sampler": "ddim"}
GIVEN = {"image": "in/one.png"}
ROWS: list[dict[str, Any]] = [
    {**TEXT, "id": "text"},
    {**TEXT, "id": "negative", "negative_prompt": "a blue two", "guidance": 3, "seed": 4},
    {**TEXT, "id": "skip", "clip_skip": 1},
    {**TEXT, "id": "wide", "width": 64, "height": 32},
    {**TEXT, "id": "edit wide", "task": "image_to_image", **GIVEN, "strength": 0.7, "width": 40, "height": 24},
    {**TEXT, "id": "edit", "task": "image_to_image", **GIVEN, "strength": 0.7},
    {**TEXT, "id": "paint", "task": "inpaint", **GIVEN, "mask": "in/mask.png"},
    {**TEXT, "id": "paint over", "task": "inpaint", **GIVEN, "mask": "in/mask.png", "strength": 0.7},
    {**TEXT, "id": "gone", "task": "image_to_image", "image": "in/none.png", "strength": 0.7},
]


def asked(folder: Path, model: str, rows: list[dict[str, Any]], out: str = "run") -> Options:
    """A job of those rows, beside the picture and the mask that they name."""
    store = open_store(str(folder))
    store.write("in/one.png", png(32))
    store.write("in/mask.png", png(32, mode="L"))
    return Options(
        write_manifest(folder, rows, f"{out}.jsonl"), str(folder / out), model=model, capacity=4, unit_rows=4
    )


def opened(uri: str) -> dict[str, np.ndarray]:
    return {name: pixels(data) for name, data in pictures(uri).items()}


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def check_painted(made: np.ndarray) -> None:
    """Where the mask of `asked` is black, the picture is as it was; elsewhere it is another."""
    original, painted = pixels(png(32)), pixels(png(32, mode="L")) > 0
    assert np.array_equal(made[~painted], original[~painted])
    assert not np.array_equal(made[painted], original[painted])


def test_a_mixed_manifest(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    options = asked(tmp_path, f"{toy_sd}/sd", ROWS)
    outcome = run(options, lambda line: None)
    found, made = results(options.out), opened(options.out)
    assert (outcome.rows, outcome.failed) == (9, 1), [row["error"] for row in found.values()]
    assert "in/none.png" in found["gone"]["error"]
    shapes = {"wide": (32, 64, 3), "edit wide": (24, 40, 3)}
    assert {name: array.shape for name, array in made.items()} == {
        row["id"]: shapes.get(row["id"], (32, 32, 3)) for row in ROWS if row["id"] != "gone"
    }
    assert (found["wide"]["width"], found["wide"]["height"]) == (64, 32)
    assert (found["text"]["evaluations"], found["edit"]["evaluations"]) == (6, 4)
    assert found["skip"]["prompts"] == found["text"]["prompts"] == ["a red one"]
    assert not np.array_equal(made["skip"], made["text"])
    for name in ("paint", "paint over"):
        check_painted(made[name])
    assert "edit wide" in open_store(options.out).read(write_report(options.out).rpartition("run/")[2]).decode()
    (problem,) = audit(options.out).problems
    assert problem.startswith("row gone failed"), "and all else is as it should be"
    rows = [{**row, "image": f"{tmp_path}/{row['image']}"} if "image" in row else row for row in ROWS[:6]]
    for row, image in zip(rows, darkroom.sample(f"{toy_sd}/sd", rows, capacity=4), strict=True):
        assert np.array_equal(np.array(image), made[row["id"]]), "sample and generate make the same bytes"


def test_two_text_encoders(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    rows = [
        {**TEXT, "id": "plain", "size": 16},
        {**TEXT, "id": "no text", "negative_prompt": None, "prompt_2": "a blue two"},
        {**TEXT, "id": "edit", "task": "image_to_image", **GIVEN, "strength": 0.7},
    ]
    options = asked(tmp_path, f"{toy_sd}/sdxl", rows)
    assert run(options, lambda line: None).failed == 0
    found, made = results(options.out), opened(options.out)
    assert [json.loads(found[row["id"]]["parameters"])["negative_prompt"] for row in rows] == ["", None, ""]
    assert json.loads(found["no text"]["parameters"])["prompt_2"] == "a blue two"
    assert audit(options.out).problems == []
    rows[2] = {**rows[2], "image": f"{tmp_path}/in/one.png"}
    for row, image in zip(rows, darkroom.sample(f"{toy_sd}/sdxl", rows, capacity=4), strict=True):
        assert np.array_equal(np.array(image), made[row["id"]])


def test_painting_in_by_a_model_of_nine_channels(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    options = asked(tmp_path, f"{toy_sd}/inpaint", [row for row in ROWS if row["task"] == "inpaint"])
    assert run(options, lambda line: None).failed == 0
    assert {json.loads(row["stages"])[0]["steps"] for row in results(options.out).values()} == {3, 2}
    with pytest.raises(ManifestError, match="'inpaint' paints pictures in, and does so alone"):
        run(asked(tmp_path / "other", f"{toy_sd}/inpaint", ROWS), lambda line: None)


def test_weights_in_fp8_are_on_record_and_resumed(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    model = f"{toy_sd}/sd"
    first = replace(asked(tmp_path, model, ROWS[:2]), dtype="fp8", limit=1)
    assert run(first, lambda line: None).made == 1
    before = results(first.out)["text"]
    outcome = run(replace(first, limit=None), lambda line: None)
    found, made = results(first.out), opened(first.out)
    assert (outcome.made, outcome.failed) == (1, 0) and found["text"] == before
    assert [json.loads(found[name]["stages"])[0]["dtype"] for name in ("text", "negative")] == ["fp8", "fp8"]
    assert json.loads(open_store(first.out).read("run.json"))["options"]["dtype"] == "fp8"
    for row in ROWS[:2]:
        (picture,) = sample(model, row, capacity=4, dtype="fp8")
        assert np.array_equal(np.asarray(picture), made[row["id"]]), "alone in this process, to the byte"
