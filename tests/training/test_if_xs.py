from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from darkroom.models.catalog import open_model
from darkroom.models.if_xs import build_tokenizer
from darkroom.storage import open_store
from darkroom.training.data import load_images, sample_uri
from darkroom.training.feeds import Worker
from darkroom.training.if_xs import STAGE1, STAGE2, Phase, StageTraining, _paint, train_cascade
from darkroom.training.painted_digits import vocabulary
from darkroom.training.recipes.if_xs import IfXs

TINY = {field.name: 1 for field in fields(IfXs) if field.name.endswith("_steps")}
RECIPE = replace(IfXs(batch=4, warmup=1, checkpoint_every=1), **TINY | {"stage1_steps": 2, "stage2_steps": 2})
ALONE = Worker(0, 1, torch.device("cpu"))


def train(out: Path, recipe: IfXs = RECIPE, say=lambda line: None) -> None:
    train_cascade(recipe, sample_uri(), open_store(str(out)), ALONE, say)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(out)
    return out


class Interrupted(Exception):
    pass


def weights(out: Path) -> dict[str, bytes]:
    """Every file of the model; checkpoints also hold how long things took."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and "checkpoints" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("stop", [1, 2, 4], ids=["between phases", "in stage I", "in stage II"])
def test_interrupted_and_resumed_equals_unbroken_bit_for_bit(unbroken: Path, tmp_path: Path, stop: int) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, say=say)
    train(tmp_path, say=lines.append)
    assert weights(tmp_path) == weights(unbroken)
    assert len(lines) == 5  # the five steps, each once


def test_a_step_is_the_same_however_many_workers_share_it() -> None:
    """Also which of its times are of the noisiest tenth, one of eight: few workers have eight rows."""
    digits, stage = load_images(sample_uri(), "train"), StageTraining(1, build_tokenizer(vocabulary()), None)

    def inputs(rank: int, count: int) -> tuple[torch.Tensor, ...]:
        return stage.inputs(_paint(digits, Phase("stage1", 2, 1), 16, (0, 1), Worker(rank, count, ALONE.device)))

    shares = [inputs(rank, 8) for rank in range(8)]
    for whole, *parts in zip(inputs(0, 1), *shares, strict=True):
        assert torch.equal(whole, torch.cat(parts))
    assert bool((inputs(0, 1)[1][:2] >= 900).all())


def test_what_training_leaves_is_a_cascade_that_says_what_it_was_made_of(unbroken: Path) -> None:
    files = weights(unbroken)
    assert json.loads(files["stage2/unet/config.json"])["in_channels"] == 6
    assert json.loads(files["stage1/scheduler/scheduler_config.json"])["variance_type"] == "learned_range"
    assert json.loads(files["stage1/scheduler/scheduler_config.json"])["prediction_type"] == "v_prediction"
    cascade = open_model(str(unbroken))
    assert (cascade.name, cascade.sizes, cascade.stages[1].steps) == ("if-xs", (24, 48), STAGE2["steps"])
    assert cascade.stages[0].guidance_interval == tuple(STAGE1["guidance_interval"])
    assert cascade.config["training"]["recipe"]["stage1_steps"] == 2
    assert cascade.config["training"]["data"]["train"] == load_images(sample_uri(), "train").digest


def test_another_seed_gives_other_weights(unbroken: Path, tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, seed=8))
    name = "stage1/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() != (unbroken / name).read_bytes()


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    diverging = replace(RECIPE, stage1_steps=5, learning_rate=1e30)
    with pytest.raises(
        FloatingPointError, match=r"the loss is (nan|inf) at a learning rate of .*; last good checkpoint"
    ):
        train(tmp_path, diverging)
