"""SD3's and Flux' layouts, at toy size, through a real Ray: a whole manifest each, its run audited and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darkroom
from darkroom.batch.generate import run
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from e2e.test_stable_diffusion import asked, check_painted, opened
from runs import pictures, results, tree
from toy_mmdit import save_toy_mmdit

TEXT = {"task": "text_to_image", "prompt": "a red one", "steps": 3}
GIVEN = {"image": "in/one.png", "strength": 0.6}
MASKED = {**GIVEN, "task": "inpaint", "mask": "in/mask.png"}
NEGATIVE = {"negative_prompt": "a blue two"}
ROWS: list[dict[str, Any]] = [
    {**TEXT, "id": "text"},
    {**TEXT, "id": "seed", "seed": 4},
    {**TEXT, "id": "guidance", "guidance": 2},
    {**TEXT, "id": "second", "prompt_2": "a green three"},
    {**TEXT, "id": "wide", "width": 48, "height": 32},
    {**TEXT, "id": "heun", "sampler": "heun"},
    {**TEXT, **GIVEN, "id": "edit", "task": "image_to_image"},
    {**TEXT, **MASKED, "id": "paint over"},
    {**TEXT, **MASKED, "id": "paint", "strength": 1},
    {**TEXT, **GIVEN, "id": "gone", "task": "image_to_image", "image": "in/none.png"},
    {**TEXT, **GIVEN, "id": "no picture", "task": "image_to_image", "image": "in/words.png"},
]
FAILED = {"gone": "in/none.png", "no picture": "in/words.png"}
OWN: dict[str, list[dict[str, Any]]] = {
    "sd3": [
        {**TEXT, **NEGATIVE, "id": "negative"},
        {**TEXT, **NEGATIVE, **MASKED, "id": "paint negative"},
        {**TEXT, "id": "unguided", "guidance": 1},
        {**TEXT, "id": "skip", "clip_skip": 1},
    ],
    "flux-dev": [
        {**TEXT, **NEGATIVE, "id": "negative", "true_guidance": 2},
        {**TEXT, **NEGATIVE, **MASKED, "id": "paint negative", "true_guidance": 2},
        {**TEXT, **NEGATIVE, "id": "unheard"},
    ],
}
EVALUATIONS = {  # Heun asks twice a step; an edit makes two of three steps, as the second begins within its strength
    "sd3": {"text": 6, "guidance": 6, "heun": 12, "edit": 4, "negative": 6, "unguided": 3},
    "flux-dev": {"text": 3, "guidance": 3, "heun": 6, "edit": 2, "negative": 6, "unheard": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_a_whole_manifest(tmp_path: Path, shared_ray: None, kind: Any) -> None:
    model = str(save_toy_mmdit(tmp_path / kind, kind))
    rows = [{"size": 32} | row if "width" not in row else row for row in ROWS + OWN[kind]]
    options = asked(tmp_path, model, rows)
    open_store(str(tmp_path)).write("in/words.png", b"no picture")
    said: list[str] = []
    outcome = run(options, said.append)
    found, made = results(options.out), pictures(options.out)
    errors = {name: row["error"] for name, row in found.items() if row["status"] != "ok"}
    assert (outcome.rows, outcome.failed) == (len(rows), len(FAILED)) and errors.keys() == FAILED.keys(), errors
    assert all(reason in errors[name] for name, reason in FAILED.items()), errors
    assert made.keys() == {row["id"] for row in rows} - FAILED.keys()
    arrays = opened(options.out)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: (32, 48 if name == "wide" else 32, 3) for name in made
    }
    assert {name: found[name]["evaluations"] for name in EVALUATIONS[kind]} == EVALUATIONS[kind]
    same = {"unheard": "text"}  # a negative prompt without a true guidance
    assert len(set(made.values())) == len(made) - len(same.keys() & made.keys())
    assert all(made[one] == made[other] for one, other in same.items() if one in made)
    assert any("has no say on" in line for line in said) == (kind == "flux-dev"), said
    assert json.loads(found["second"]["parameters"])["prompt_2"] == "a green three"
    for name in ("paint", "paint over", "paint negative"):
        check_painted(arrays[name])
    problems = audit(options.out).problems
    assert sorted(problem.partition(" failed")[0] for problem in problems) == sorted(f"row {name}" for name in FAILED)

    files = tree(tmp_path / "run" / "images")
    again = run(options, said.append)
    assert (again.made, tree(tmp_path / "run" / "images")) == (0, files)
    assert pictures(options.out) == made

    at_home = [{**row, **{key: f"{tmp_path}/{row[key]}" for key in ("image", "mask") if key in row}} for row in rows]
    for row in (row for row in at_home if row["id"] in made):
        (image,) = darkroom.sample(model, [row], capacity=4)
        assert np.array_equal(np.array(image), arrays[row["id"]]), f"alone, {row['id']} has other bytes"
    single = asked(tmp_path, model, [row for row in rows if row["id"] == "paint negative"], "single")
    assert run(single, said.append).failed == 0
    assert pictures(single.out) == {"paint negative": made["paint negative"]}
    assert audit(single.out).problems == []
