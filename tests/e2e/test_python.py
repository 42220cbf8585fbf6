"""The jobs from Python, through a real Ray; and what `sample` makes in one process is what a job makes, to the byte."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom.storage import encode_png
from e2e.test_deepfloyd import ROWS as FLOYD
from e2e.test_generate import GOOD
from runs import pictures, png, python_of, results, write_manifest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with pictures in in/."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.png").write_bytes(png(16))
    (tmp_path / "in/mask.png").write_bytes(png(16, mode="L"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sampled(model: str, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """PNGs by id, as a job writes them."""
    made = darkroom.sample(model, rows, capacity=8)
    return {row["id"]: encode_png(np.asarray(picture)) for row, picture in zip(rows, made, strict=True)}


def test_one_process_makes_the_bytes_of_a_job(here: Path, toy_model: str, shared_ray: None) -> None:
    """Every task, both stages, views, components, masks."""
    manifest = write_manifest(here, GOOD)
    outcome = darkroom.generate(manifest, here / "run", model=toy_model, capacity=8, unit_rows=4)
    assert outcome.counts["anagram"] == {"ok": 1}
    assert sampled(toy_model, GOOD) == pictures(str(here / "run"))


def test_so_it_does_of_deepfloyd_in_latents_and_with_its_mark(here: Path, toy_deepfloyd: str, shared_ray: None) -> None:
    manifest = write_manifest(here, FLOYD)
    darkroom.generate(manifest, here / "run", model=toy_deepfloyd, capacity=8, unit_rows=8)
    found = results(str(here / "run"))
    assert "watermarked" in found["large"]["flags"]
    assert sampled(toy_deepfloyd, FLOYD) == pictures(str(here / "run"))


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


def test_readmes_run(here: Path, shared_ray: None) -> None:
    names: dict[str, Any] = {}
    blocks = python_of("docs/python.md")
    exec("\n".join(blocks), names)
    assert names["outcome"].counts == {"anagram": {"ok": 4}}
    run = names["run"]
    assert [row_id for row_id, _ in run.pictures()] == [f"seed-{seed}" for seed in range(4)]
    assert run.to_datasets().num_rows == 4
    assert Image.open(io.BytesIO(pictures("runs/anagrams")["seed-1"])).size == (24, 24)
