"""The whole job on a network that is asked by label: no text encoder, no embeddings, grey pictures, every task."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.batch.generate import Options, dry_run, run
from darkroom.manifest import ManifestError
from darkroom.models.errors import ModelError
from darkroom.report.page import write_report
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from runs import pictures, png, results, write_manifest
from toys import network_config, save_toy_network

SEVEN = {"task": "text_to_image", "label": 7, "steps": 2}
TURNED = [{"view": "identity", "label": 6}, {"view": "rotate_180", "label": 9}]
BANDS = [{"component": "low_pass", "label": 0}, {"component": "high_pass", "label": 4}]
HELD = [{"component": "low_pass", "image": "in/one.png"}, {"component": "high_pass", "label": 4}]
PAINT = {"task": "inpaint", "label": 0, "image": "in/one.png", "mask": "in/mask.png", "steps": 2}

ROWS: list[dict[str, Any]] = [
    {**SEVEN, "id": "seven"},
    {**SEVEN, "id": "heun", "sampler": "heun", "guidance": 5},
    {"id": "edit", "task": "image_to_image", "label": 3, "image": "in/one.png", "start": 1, "steps": 3},
    {**PAINT, "id": "paint"},
    {"id": "turned", "task": "anagram", "views": TURNED, "steps": 2},
    {"id": "hybrid", "task": "hybrid", "components": BANDS, "steps": 2},
    {"id": "held", "task": "hybrid", "components": HELD, "steps": 2},
    {**PAINT, "id": "missing", "image": "in/none.png"},
]
EVALUATIONS = {"seven": 4, "heun": 8, "edit": 4, "paint": 4, "turned": 8, "hybrid": 6, "held": 4, "missing": 0}


def options(folder: Path, model: str, rows: list[dict[str, Any]] = ROWS) -> Options:
    store = open_store(str(folder))
    store.write("in/one.png", png(40))  # in colour and of another size: the model's pictures are grey, of 28 pixels
    store.write("in/mask.png", png(40, mode="L"))
    return Options(write_manifest(folder, rows), str(folder / "run"), model, capacity=8, unit_rows=4)


def test_every_task_by_label_from_a_network_on_s3(tmp_path: Path, s3_env: str, shared_ray: None) -> None:
    asked = options(tmp_path, save_toy_network(s3_env))
    work, estimated, needs = dry_run(asked)
    assert work.to_make == 8 and estimated.evaluations == {1: 38 + 4}, "that the image is missing shows later"
    assert "stage 1" in needs and "float32" in needs and " MB" in needs
    said: list[str] = []
    outcome = run(asked, said.append)
    found = results(asked.out)
    assert (outcome.rows, outcome.failed) == (8, 1) and found["missing"]["error"].startswith("there is no file")
    assert {name: row["evaluations"] for name, row in found.items()} == EVALUATIONS
    assert (found["seven"]["prompts"], found["turned"]["prompts"]) == (["label 7"], ["label 6", "label 9"])
    assert (found["seven"]["sampler"], found["seven"]["guidance"], found["edit"]["start_timestep"]) == (
        "euler",
        7,
        1 / 3,
    )
    assert not list(open_store(asked.out).list("embeddings/")) and not [line for line in said if "encode" in line]
    assert audit(asked.out).counts == {"failed": 1}
    made = {name: np.array(Image.open(io.BytesIO(data))) for name, data in pictures(asked.out).items()}
    assert {array.shape for array in made.values()} == {(28, 28, 3)}
    assert all((array == array[:, :, :1]).all() and array.std() > 10 for array in made.values())
    assert (made["seven"] != made["heun"]).any()
    write_report(asked.out)
    page = Path(asked.out, "report", "index.html").read_text()
    assert "label 7" in page and "label 6" in page and "label 9" in page


def test_what_such_a_network_is_not_asked(tmp_path: Path, toy_network: str) -> None:
    wrong = [{**SEVEN, "label": 10}, {"task": "text_to_image", "prompt": "a seven"}, {**SEVEN, "sampler": "ddim"}]
    with pytest.raises(ManifestError) as caught:
        dry_run(options(tmp_path, toy_network, wrong))
    assert "'label' must be below 10" in caught.value.problems[0]
    assert any("'prompt' is given, the model 'toy-network' takes a label" in text for text in caught.value.problems)
    assert any("takes euler, heun or midpoint" in text for text in caught.value.problems)


def test_a_denoiser_cannot_generate(tmp_path: Path) -> None:
    config = network_config(conditioning="none", num_classes=0) | {"process": None}
    model = save_toy_network(str(tmp_path / "model"), config)
    with pytest.raises(ModelError, match="is a denoiser"):
        run(options(tmp_path, model, [SEVEN]))
    assert not (tmp_path / "run").exists()
