from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darkroom.models.network import build_network
from darkroom.training.data import read_record, sample_uri
from darkroom.training.feeds import Worker
from darkroom.training.recipes import RECIPES, find_recipe
from darkroom.training.recipes.flow import FlowClass, FlowTime
from darkroom.training.recipes.if_xs import IfXs
from darkroom.training.recipes.lora import Lora
from darkroom.training.recipes.network import NetworkRecipe
from darkroom.training.recipes.recipe import with_settings

ROOT = Path(__file__).parents[2]


def test_settings_change_the_fields_they_name() -> None:
    changed = with_settings(FlowClass(), ["batch=8", "learning_rate=2e-4", "show=1,3", "bf16=off"])
    assert changed == FlowClass(batch=8, learning_rate=2e-4, show=(1, 3), bf16="off")
    assert type(changed.batch) is int
    assert with_settings(FlowClass(), []) == FlowClass()


def test_every_wrong_setting_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="unknown setting 'bacth', did you mean 'batch'") as caught:
        with_settings(IfXs(), ["bacth=8", "seed=1.5", "learning_rate=nan", "warmup", "compile=yes"])
    assert caught.value.args[0].splitlines()[1:] == [
        "--set seed=1.5: seed should be a valid integer",
        "--set learning_rate=nan: learning_rate should be a finite number",
        "--set warmup: warmup should be a valid integer",
        "--set compile=yes: compile should be 'auto', 'on' or 'off'",
    ]


def test_speed_is_on_where_a_worker_gains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)  # there is no GPU here
    processor, gpu = (Worker(0, 1, torch.device(kind)) for kind in ("cpu", "cuda"))
    shared = Worker(0, 2, torch.device("cuda"))
    assert all(FlowClass().speed(gpu).values())
    assert [name for name, on in FlowClass().speed(shared).items() if not on] == ["graphs"]
    assert [name for name, on in FlowClass(bf16="off").speed(processor).items() if on] == ["channels_last", "fused"]
    forced = FlowClass(compile="on", graphs="on", fused="off").speed(processor)
    assert forced["compile"] and forced["graphs"] and not forced["fused"]


@pytest.mark.parametrize("recipe", [FlowClass, Lora])
def test_a_gpu_that_only_emulates_bfloat16_does_without(recipe: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Ampere: an adapter's training was refused for a dtype that nobody had asked for, others crept."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation)
    gpu = Worker(0, 1, torch.device("cuda"))
    assert not recipe().speed(gpu)["bf16"] and recipe(bf16="on").speed(gpu)["bf16"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, was 0"):
        with_settings(FlowClass(), ["epochs=0"])
    with pytest.raises(ValueError, match="unknown recipe 'if-sx', did you mean 'if-xs'"):
        find_recipe("if-sx")


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("mnist-flow-class", "seed=-1", "seed must be at least 0, was -1"),
        ("mnist-flow-class", "decay=-1", "decay must be more than 0, was -1.0"),
        ("mnist-flow-class", "average=1.5", "average must be at least 0 and below 1, was 1.5"),
        ("mnist-flow-class", "drop=2", "drop must be at least 0 and below 1, was 2.0"),
        ("mnist-ddpm", "drop=-1", "drop must be at least 0 and below 1, was -1.0"),
        ("mnist-ddpm", "num_timesteps=0", "num_timesteps must be at least 1, was 0"),
        ("mnist-denoiser", "sigma=-1", "sigma must be at least 0, was -1.0"),
        ("if-xs", "warmup=0", "warmup must be at least 1, was 0"),
        ("if-xs", "words_steps=0", "words_steps must be at least 1, was 0"),
        ("if-xs", "noise_levels=1001", "noise_levels must be at most 1000, was 1001"),
        ("sd-xs", "checkpoint_every=0", "checkpoint_every must be at least 1, was 0"),
        ("sd-xs", "vae_batch=0", "vae_batch must be at least 1, was 0"),
    ],
)
def test_numbers_that_no_worker_could_train_by_are_refused(name: str, setting: str, said: str) -> None:
    """Before any worker is asked for: there they would be a division by zero, and tried four times."""
    with pytest.raises(ValueError, match=f"^{said}$"):
        with_settings(find_recipe(name)(), [setting])


def test_a_schedule_of_noise_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="alphas_cumprod must fall"):
        with_settings(find_recipe("mnist-ddpm")(), ["schedule=linear", "num_timesteps=100000"]).check(
            read_record(sample_uri())
        )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_digits_and_says_all_it_is(name: str) -> None:
    recipe = find_recipe(name)()
    record = read_record(sample_uri())
    if name == "cifar10-ddpm":  # halves its pictures three times
        record = {**record, "image": {"height": 32, "width": 32, "channels": 3}}
    recipe.check(record)
    assert recipe.record()["name"] == name and recipe.record()["batch"] == recipe.batch


@pytest.mark.parametrize("name", [name for name in RECIPES if issubclass(RECIPES[name], NetworkRecipe)])
def test_a_recipe_takes_colour_pictures_of_another_size_too(name: str) -> None:
    recipe = find_recipe(name)()
    data = {"name": "clothes", "image": {"height": 32, "width": 32, "channels": 3}, "classes": list("abcdefg")}
    made = recipe.network(data)
    assert (made["channels"], made["size"]) == (3, 32) and made["num_classes"] in (0, 7)
    with pytest.raises(ValueError, match="square"):
        recipe.check({**data, "image": {"height": 32, "width": 28, "channels": 3}})


def test_parameters_of_the_cifar_network() -> None:
    recipe = find_recipe("cifar10-ddpm")()
    data = {"name": "cifar10", "image": {"height": 32, "width": 32, "channels": 3}, "classes": list("0123456789")}
    with torch.device("meta"):
        network = build_network(recipe.network(data))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(16.8e6, rel=0.01)


def test_the_rate_falls_after_each_epoch_to_a_tenth_in_all() -> None:
    recipe = FlowTime(epochs=10)
    assert [recipe.rate(step, 100) for step in (0, 99)] == [1e-2, 1e-2]
    assert recipe.rate(100, 100) == pytest.approx(1e-2 * 0.1**0.1)
    assert recipe.rate(10 * 100, 100) == pytest.approx(1e-3)
    assert find_recipe("mnist-flow-class-constant-lr")().rate(0, 100) == find_recipe(
        "mnist-flow-class-constant-lr"
    )().rate(5000, 100)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train.py", "if-xs", "--data", sample_uri(), "--out", "model", "--set", "bach=3"], 2, "did you mean 'batch'"),
        (["train.py", "mnist-ddpm", "--data", "nowhere", "--out", "model"], 2, "no data set in"),
        (["ingest.py", "idx", "nowhere", "--out", "data"], 2, "nowhere has no train-images-idx3-ubyte"),
    ],
)
def test_the_jobs_say_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    command = [sys.executable, str(ROOT / "jobs" / arguments[0]), *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
