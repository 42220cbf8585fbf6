"""Trainings by real workers of a real Ray: the same curve for one and two, and what they survive."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from darkroom.models.catalog import open_model
from darkroom.storage import open_store
from darkroom.training.checkpoints import epochs_kept
from darkroom.training.data import load_images, sample_uri, write_dataset
from darkroom.training.distributed import Workers
from darkroom.training.job import TrainOptions, train
from small_world import ENDED

DDPM = ("width=8", "epochs=2", "batch=64", "validation_images=8", "dropout=0", "bf16=off", "average=0.9")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few digits: five steps an epoch."""
    uri = str(tmp_path_factory.mktemp("digits"))
    splits = {}
    for split, count in (("train", 320), ("test", 20)):
        images = load_images(sample_uri(), split)
        chosen = np.random.default_rng(0).permutation(len(images.labels))[:count]
        splits[split] = (images.images[chosen], images.labels[chosen])
    write_dataset(uri, splits, {"name": "few", "source": "sample", "classes": [str(digit) for digit in range(10)]})
    return uri


def run(digits: str, out: str, *settings: str, recipe: str = "mnist-ddpm", **more) -> list[str]:
    lines: list[str] = []
    train(TrainOptions(recipe=recipe, data=digits, out=out, settings=settings, **more), lines.append)
    return lines


def losses(out: str) -> np.ndarray:
    return pq.read_table(io.BytesIO(open_store(out).read("losses.parquet")))["loss"].to_numpy()


@pytest.mark.usefixtures("shared_ray")
def test_one_worker_and_two_on_s3_give_the_same_curve_and_the_model_opens(
    digits: str, s3_env: str, tmp_path: Path
) -> None:
    one, two = str(tmp_path / "one"), f"{s3_env}/two"
    run(digits, one, *DDPM)
    lines = run(digits, two, *DDPM, workers="2")
    assert [line[:11] for line in lines if ENDED.match(line)] == ["epoch 1/2  ", "epoch 2/2  "]
    assert len(losses(one)) == 10
    np.testing.assert_allclose(losses(one), losses(two), rtol=2e-4)
    assert epochs_kept(open_store(two))[-1] == 2
    assert json.loads(open_store(two).read("run.json"))["kind"] == "training"
    first, second = (open_model(out).load().state_dict() for out in (one, two))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="go on with --resume, or choose another --out"):
        run(digits, one, *DDPM)
    assert run(digits, one, *DDPM, resume=True)[-1].endswith("is finished already")
    with pytest.raises(ValueError, match="epochs was 2, now 3"):
        run(digits, one, *DDPM, "epochs=3", resume=True)


@pytest.mark.slow  # found in training/test_loop.py, and told as the full disk of training/test_distributed.py
@pytest.mark.usefixtures("shared_ray")
def test_a_training_that_diverges_says_where(digits: str, tmp_path: Path) -> None:
    flow = ("hidden=4", "epochs=1", "batch=64", "validation_images=8", "learning_rate=1e30")
    with pytest.raises(FloatingPointError, match="the loss is .* last good checkpoint: none"):
        run(digits, str(tmp_path / "diverged"), *flow, recipe="mnist-flow-class")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_worker_that_is_killed_is_replaced_and_the_curve_is_the_unbroken_one(digits: str, tmp_path: Path) -> None:
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    settings = (*DDPM, "epochs=6")
    run(digits, whole, *settings)
    killed: list[int] = []

    def kill_the_worker() -> None:
        deadline = time.monotonic() + 120
        while not epochs_kept(open_store(broken)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue

    assassin = threading.Thread(target=kill_the_worker)
    assassin.start()
    run(digits, broken, *settings)
    assassin.join()
    assert len(killed) == 1
    np.testing.assert_array_equal(losses(broken), losses(whole))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_resumed_it_goes_on_from_the_last_checkpoint_with_more_workers(digits: str, tmp_path: Path) -> None:
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    run(digits, whole, *DDPM)
    run(digits, broken, *DDPM)
    store = open_store(broken)
    store.delete("config.json", "model.safetensors", "checkpoints/epoch-0002.safetensors")  # as if killed in epoch 2
    lines = run(digits, broken, *DDPM, resume=True, workers="3")
    assert [line for line in lines if line.startswith("epoch 1")] == []
    np.testing.assert_array_equal(losses(broken)[:5], losses(whole)[:5])
    np.testing.assert_allclose(losses(broken), losses(whole), rtol=2e-4)


TOLD = """
import sys
from darkroom.ray_cluster.connection import start_ray
from darkroom.training.job import TrainOptions, train
from small_world import ENDED

start_ray(num_cpus=2, num_gpus=2, object_store_memory=10**8, logging_level="error", log_to_driver=False)
for workers in ("1", "2"):
    train(TrainOptions("mnist-ddpm", sys.argv[1], sys.argv[2] + workers, tuple(sys.argv[3:]), workers), print)
"""


@pytest.mark.slow  # test_told_gpus.py trains so too, on nodes apart
def test_gpus_that_ray_was_told_of_and_torch_does_not_find_are_trained_beside(digits: str, tmp_path: Path) -> None:
    out = str(tmp_path / "workers")
    command = [sys.executable, "-c", TOLD, digits, out, *DDPM]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(f"{out}1"), losses(f"{out}2"), rtol=2e-4)
    for workers in (1, 2):
        ran = open_model(f"{out}{workers}").config["training"]["ran"]
        assert (ran["device"], ran["workers"], ran["compile"], ran["graphs"]) == ("cpu", workers, False, False)


STARVED = """
import sys
import ray
from darkroom.ray_cluster import ClusterError
from darkroom.ray_cluster.connection import start_ray
from darkroom.training import distributed
from darkroom.training.job import TrainOptions, train
from small_world import ENDED

start_ray(num_cpus=2, object_store_memory=10**8, logging_level="error", log_to_driver=False)
hog = ray.remote(num_cpus=1)(type("Hog", (), {"ready": lambda self: True})).remote()
ray.get(hog.ready.remote())
distributed.SAID_SECONDS, distributed.SILENCE_SECONDS = 2, 6
try:
    train(TrainOptions("mnist-ddpm", sys.argv[1], sys.argv[2]), print)
except ClusterError as error:
    print("gave up:", error)
"""


@pytest.mark.slow
def test_a_training_that_finds_no_room_says_so_and_ends(digits: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARVED, digits, str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    *_, waits, ended = done.stdout.splitlines()
    room = "1 want 1.5 CPU each; free in the cluster: 1 of 2 CPU"
    assert waits.endswith(f"s, still waiting; {room}") and ended.startswith(
        "gave up: no worker of the training was heard"
    )
    assert ended.endswith(room) and "Traceback" not in done.stderr, done.stderr


def test_numbers_of_workers() -> None:
    assert Workers.parse("3").scaling == 3 and Workers.parse("2:8").scaling == (2, 8)
    for wrong in ("two", "0", "5:2", "2:"):
        with pytest.raises(ValueError, match="--workers"):
            Workers.parse(wrong)
