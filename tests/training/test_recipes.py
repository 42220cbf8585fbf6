from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from darkroom.models.cascade import open_model
from darkroom.training.data import load_images, sample_uri
from darkroom.training.if_xs import Recipe
from darkroom.training.recipes import STAGE2, train, with_settings

ROOT = Path(__file__).parents[2]
TINY = [f"{field.name}=1" for field in fields(Recipe) if field.name.endswith("_steps")] + ["batch=1"]


def test_settings_change_the_fields_they_name() -> None:
    changed = with_settings(Recipe(), ["batch=8", "learning_rate=2e-4"])
    assert changed == Recipe(batch=8, learning_rate=2e-4)
    assert type(changed.batch) is int
    assert with_settings(Recipe(), []) == Recipe()


def test_every_wrong_setting_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="unknown setting 'bacth'; did you mean 'batch'") as caught:
        with_settings(Recipe(), ["bacth=8", "seed=1.5", "learning_rate=fast", "warmup"])
    assert caught.value.args[0].splitlines()[1:] == [
        "--set seed=1.5: seed takes a whole number",
        "--set learning_rate=fast: learning_rate takes a number",
        "--set warmup: warmup takes a whole number",
    ]


def test_a_trained_cascade_opens_as_a_model_that_says_what_it_was_made_of(tmp_path: Path) -> None:
    train("if-xs", sample_uri(), str(tmp_path), TINY, lambda line: None)
    cascade = open_model(str(tmp_path))
    assert (cascade.name, cascade.sizes, cascade.stages[1].steps) == ("if-xs", (24, 48), STAGE2["steps"])
    assert cascade.config["training"]["recipe"]["stage1_steps"] == 1
    assert cascade.config["training"]["data"]["train"] == load_images(sample_uri(), "train").digest


def test_wrong_recipes_and_places_are_sentences() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'if-sx'; did you mean 'if-xs'"):
        train("if-sx", sample_uri(), "out")
    with pytest.raises(ValueError, match="local folder only"):
        train("if-xs", sample_uri(), "s3://bucket/model")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train.py", "if-xs", "--data", sample_uri(), "--out", "model", "--set", "bach=3"], 2, "did you mean 'batch'"),
        (["ingest.py", "idx", "nowhere", "--out", "data"], 2, "nowhere has no train-images-idx3-ubyte"),
    ],
)
def test_the_jobs_say_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    command = [sys.executable, str(ROOT / "jobs" / arguments[0]), *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
