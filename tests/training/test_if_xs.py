from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from darkroom.training.data import load_images, sample_uri
from darkroom.training.if_xs import Digits, Recipe, train

RECIPE = Recipe(
    stage1_steps=2,
    shape_steps=1,
    words_steps=1,
    roles_steps=1,
    paper_steps=1,
    stage2_steps=2,
    copy_steps=1,
    batch=4,
    warmup=1,
    checkpoint_every=1,
)


@pytest.fixture(scope="module")
def digits() -> Digits:
    sample = load_images(sample_uri(), "train")
    return Digits(np.ascontiguousarray(sample.images[:50, :, :, 0]), sample.labels[:50].astype(np.uint8))


@pytest.fixture(scope="module")
def unbroken(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(digits, out, RECIPE, lambda line: None)
    return out


class Interrupted(Exception):
    pass


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "stop", [2, 3, 4, 7], ids=["in stage I", "between phases", "where the text encoder learns again", "in stage II"]
)
def test_interrupted_and_resumed_equals_unbroken_bit_for_bit(
    digits: Digits, unbroken: Path, tmp_path: Path, stop: int
) -> None:
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == stop:  # the step is done, its checkpoint not yet written
            raise Interrupted

    with pytest.raises(Interrupted):
        train(digits, tmp_path, RECIPE, log)
    train(digits, tmp_path, RECIPE, lines.append)
    assert contents(tmp_path) == contents(unbroken)
    assert len(lines) == 10  # the nine steps, one of them twice


def test_what_training_leaves_is_a_cascade(unbroken: Path) -> None:
    files = contents(unbroken)
    for name in ("stage1/unet", "stage2/unet", "text_encoder"):
        assert any(file.startswith(name) and file.endswith(".safetensors") for file in files), name
    assert json.loads(files["stage2/unet/config.json"])["in_channels"] == 6
    assert json.loads(files["stage1/scheduler/scheduler_config.json"])["variance_type"] == "learned_range"
    assert [json.loads(line)["step"] for line in files["checkpoints/stage2/losses.jsonl"].splitlines()] == [1, 2]


def test_another_seed_gives_other_weights(digits: Digits, unbroken: Path, tmp_path: Path) -> None:
    other = Recipe(**{**RECIPE.__dict__, "seed": 8})
    train(digits, tmp_path, other, lambda line: None)
    name = "stage1/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() != (unbroken / name).read_bytes()


def test_a_loss_that_is_no_number_stops_the_training(digits: Digits, tmp_path: Path) -> None:
    diverging = Recipe(stage1_steps=5, batch=4, warmup=1, learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(
        FloatingPointError, match=r"phase stage1, step \d: the loss is (nan|inf); last good checkpoint in"
    ):
        train(digits, tmp_path, diverging, lambda line: None)
