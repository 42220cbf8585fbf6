"""Rows with control networks and rows without in one run on a small Stable Diffusion model, through a real Ray."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom.batch.generate import Options, dry_run, run
from darkroom.manifest import ManifestError
from darkroom.models.errors import ModelError
from darkroom.report.page import write_report
from darkroom.runs.audit import audit, fix
from darkroom.runs.maintenance import clean
from darkroom.storage import encode_png, open_store
from runs import pictures, results, write_manifest
from toy_control import save_net

TEXT = {"task": "text_to_image", "prompt": "a red one", "steps": 3, "seed": 1}
EDGES = {"net": "canny", "image": "in/square.png", "preprocess": "canny"}
READY = {"net": "ready", "image": "in/square.png"}
ROWS: list[dict[str, Any]] = [
    TEXT | {"id": "plain"},
    TEXT | {"id": "edges", "control": [EDGES]},
    TEXT | {"id": "softer", "control": [EDGES | {"scale": 0.5, "end": 0.7}]},
    TEXT | {"id": "none of it", "control": [EDGES | {"scale": 0}]},
    TEXT | {"id": "both", "control": [EDGES, READY | {"scale": 0.3}], "guess_mode": True},
    TEXT | {"id": "edit", "task": "image_to_image", "image": "in/square.png", "strength": 0.7, "control": [READY]},
    TEXT | {"id": "gone", "control": [EDGES | {"image": "in/none.png"}]},
]


def square() -> np.ndarray:
    """A white square on black, 64 px."""
    levels = np.zeros((64, 64, 3), np.uint8)
    levels[16:48, 16:48] = 255
    return levels


def asked(folder: Path, model: str, rows: list[dict[str, Any]], **more: Any) -> Options:
    open_store(str(folder)).write("in/square.png", encode_png(square()))
    nets = (f"canny={save_net(folder / 'net')}", f"ready={save_net(folder / 'other', seed=1)}")
    options = {"model": model, "capacity": 4, "unit_rows": 4, "control": nets} | more
    return Options(write_manifest(folder, rows), str(folder / "run"), **options)


def test_a_mixed_manifest(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    options, said = asked(tmp_path, f"{toy_sd}/sd", ROWS), list[str]()
    outcome = run(options, said.append)
    found, made, store = results(options.out), pictures(options.out), open_store(options.out)
    assert (outcome.made, outcome.failed) == (6, 1), [row["error"] for row in found.values()]
    assert "there is no file" in found["gone"]["error"] and found["gone"]["error_class"] == "input"
    assert any("the control network 'canny' is" in line for line in said)
    assert made["none of it"] == made["plain"] and len(set(made.values())) == 5
    # What the networks saw.
    (edges,), (ready,) = (json.loads(found[name]["controls"]) for name in ("edges", "edit"))
    assert [one["net"] for one in json.loads(found["both"]["controls"])] == ["canny", "ready"]
    assert found["plain"]["controls"] == "[]"
    for one in (edges, ready):
        assert one["key"] == f"maps/{one['sha256']}.png"
        assert hashlib.sha256(store.read(one["key"])).hexdigest() == one["sha256"]
        assert one["source_sha256"] == hashlib.sha256(encode_png(square())).hexdigest()
    drawn = np.array(Image.open(io.BytesIO(store.read(edges["key"]))))
    assert drawn.shape == (32, 32, 3) and set(np.unique(drawn)) == {0, 255}
    assert drawn[:, :, 0].sum() // 255 in range(50, 80), "the square's four sides, of 16 pixels"
    assert len(list(store.list("maps/"))) == 2, "each once, whatever rows see it"
    assert "seen by canny" in store.read(write_report(options.out).rpartition("run/")[2]).decode()
    record = json.loads(store.read("run.json"))
    assert [net["name"] for net in record["control"]] and {net["digest"] for net in record["control"]} == {
        one["digest"] for one in (edges, ready)
    }
    # The same in this process, where nothing is kept.
    model = darkroom.open_model(options.model, control=dict(net.split("=") for net in options.control))
    rows = [json.loads(json.dumps(row).replace("in/", f"{tmp_path}/in/")) for row in ROWS[:6]]
    for row, image in zip(rows, darkroom.sample(model, rows, capacity=4), strict=True):
        assert np.array_equal(np.array(image), np.array(Image.open(io.BytesIO(made[row["id"]]))))
    (image,) = darkroom.sample(options.model, rows[0], capacity=4)
    assert np.array_equal(np.array(image), np.array(Image.open(io.BytesIO(made["plain"])))), "as without networks"
    # What is lost is made anew, and what was not there before.
    store.delete(edges["key"])
    problems = [problem for problem in audit(options.out).problems if not problem.startswith("row gone failed")]
    assert len(problems) == 4 and all("which a control network saw, is gone" in problem for problem in problems)
    assert "4 rows of" in fix(options.out)
    open_store(str(tmp_path)).write("in/none.png", encode_png(square()))
    again = run(options, said.append)
    assert (again.made, again.failed, audit(options.out).problems) == (5, 0, [])
    assert store.exists(edges["key"]) and "nothing in" in clean(options.out, remove=False)
    assert {name: pictures(options.out)[name] for name in made} == made


def test_what_is_not_there_or_not_of_this_model_is_refused(tmp_path: Path, toy_sd: str) -> None:
    with pytest.raises(ManifestError, match="the control network 'ready' is none that was given: give it with --con"):
        dry_run(asked(tmp_path, f"{toy_sd}/sd", ROWS, control=(f"canny={save_net(tmp_path / 'net')}",)))
    with pytest.raises(ModelError, match="is for another model: its cross_attention_dim is 16, the model's 40"):
        dry_run(asked(tmp_path, f"{toy_sd}/sdxl", ROWS))
    with pytest.raises(ModelError, match="are for Stable Diffusion and SDXL, if-xs works on pixels"):
        dry_run(asked(tmp_path, "if-xs", ROWS))
    with pytest.raises(ValueError, match="--control is 'canny', wanted name=URI"):
        dry_run(asked(tmp_path, f"{toy_sd}/sd", ROWS, control=("canny",)))
    with pytest.raises(ManifestError, match="there is no model of depth: give one with --depth URI"):
        dry_run(asked(tmp_path, f"{toy_sd}/sd", [TEXT | {"control": [READY | {"preprocess": "depth"}]}]))


def test_a_dry_run_says_which_networks_are_loaded_and_counts_them(tmp_path: Path, toy_sd: str) -> None:
    said: list[str] = []
    _, _, needs = dry_run(asked(tmp_path, f"{toy_sd}/sd", ROWS), said.append)
    assert sum("the control network" in line for line in said) == 2
    _, _, without = dry_run(asked(tmp_path, f"{toy_sd}/sd", ROWS[:1], control=()), said.append)
    assert needs != without
