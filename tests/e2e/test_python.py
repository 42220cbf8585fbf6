"""The jobs from Python, through a real Ray. That `sample` makes in one process what a job makes, to the byte, is said
where such jobs run: test_generate.py, test_deepfloyd.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from runs import pictures, png, python_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with pictures in in/."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.png").write_bytes(png(16))
    (tmp_path / "in/mask.png").write_bytes(png(16, mode="L"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_with_pictures_of_their_own_are_a_run(here: Path, toy_model: str, shared_ray: None) -> None:
    image, mask = Image.open(here / "in/one.png"), np.asarray(Image.open(here / "in/mask.png"))
    rows = [{"id": "paint", "task": "inpaint", "prompt": "a two", "image": image, "mask": mask, "steps": 2}]
    outcome = darkroom.generate(rows, here / "run", model=toy_model, capacity=8)
    assert outcome.made == 1 and darkroom.generate(rows, here / "run", model=toy_model, capacity=8).made == 0
    run = darkroom.open_run(here / "run")
    (picture,) = darkroom.sample(toy_model, rows, capacity=8)
    assert np.array_equal(np.asarray(run.picture("paint")), np.asarray(picture))
    assert Path(run.rows()["source_uri"][0].as_py()).parent == here / "run/inputs"
    with pytest.raises(darkroom.ManifestError, match="row 1: unknown key 'promt'"):
        darkroom.generate({"task": "text_to_image", "promt": "a"}, here / "run", model=toy_model)


@pytest.mark.slow  # the embedded model; what it calls is called above
def test_readmes_run(here: Path, shared_ray: None) -> None:
    names: dict[str, Any] = {}
    blocks = python_of("docs/python.md")
    exec("\n".join(blocks), names)
    assert names["outcome"].counts == {"anagram": {"ok": 4}}
    run = names["run"]
    assert [row_id for row_id, _ in run.pictures()] == [f"seed-{seed}" for seed in range(4)]
    assert run.to_datasets().num_rows == 4
    assert Image.open(io.BytesIO(pictures("runs/anagrams")["seed-1"])).size == (24, 24)
