"""Ctrl-C and SIGTERM of a training and of a tick: one sentence, the shell's exit code, and it goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from darkroom.models.catalog import open_model
from darkroom.retrain.tick_record import load
from darkroom.storage import open_store
from darkroom.training.checkpoints import epochs_kept
from darkroom.training.data import load_images, sample_uri, write_dataset
from small_world import World

ROOT = Path(__file__).parents[2]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
TICK = "20261121T020000Z"
SETTINGS = {"hidden": 4, "batch": 16, "bf16": "off", "validation_images": 8}
# A job whose thread goes on asking Ray, whatever becomes of it, as that of a training does.
ASKING = """
import sys, threading, time
import typer
from darkroom.exits import exit_codes
from darkroom.ray_cluster import connect

def ask(counter):
    while True:
        try:
            ray.get(counter.remote())
        except BaseException:
            pass

try:
    with exit_codes():
        connect(None, verbose=False)
        import ray
        counter = ray.remote(lambda: 1)
        ray.get(counter.remote())
        threading.Thread(target=ask, args=(counter,), daemon=True).start()
        print("asks", flush=True)
        time.sleep(60)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a job in a session of its own, what is left of which is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(
            subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, start_new_session=True, **pipes)
        )
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupted(process: subprocess.Popen[str], number: int, began: Callable[[], bool]) -> str:
    """What a job says at its end, that is told to end once `began` holds."""
    deadline = time.monotonic() + 180
    while not began() and process.poll() is None:
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said and "SIGTERM" not in said and said.count("interrupted") == 1
    return said.splitlines()[-1]


@SIGNALS
def test_the_code_is_the_signals_whichever_thread_is_left_and_no_process_is(number: int, start: Start) -> None:
    process = start("-c", ASKING)
    assert process.stdout is not None and process.stdout.readline() == "asks\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    said = interrupted(process, number, lambda: True)
    assert said.startswith("darkroom: interrupted: Nothing that was committed is lost")
    assert not psutil.wait_procs(children, timeout=30)[1]


@SIGNALS
def test_a_training_is_kept_and_goes_on(number: int, start: Start, tmp_path: Path) -> None:
    splits = {}
    for split, count in (("train", 320), ("test", 20)):
        images = load_images(sample_uri(), split)
        splits[split] = images.images[:count], images.labels[:count]
    data, out = str(tmp_path / "data"), tmp_path / "model"
    write_dataset(data, splits, {"name": "few", "source": "sample", "classes": [str(digit) for digit in range(10)]})
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = ["jobs/train.py", "mnist-flow-class", "--data", data, "--out", str(out), *settings, "--no-report"]
    store = open_store(str(out))
    last = interrupted(start(*command, "--set", "epochs=500"), number, lambda: len(epochs_kept(store)) >= 2)
    epoch = epochs_kept(store)[-1]
    assert last in [  # a worker may bring one more to its end after the sentence
        f"darkroom: interrupted: the checkpoint of epoch {kept} is kept; the same command with --resume goes on from "
        "there"
        for kept in (epoch, epoch - 1)
    ]
    again = start(*command, "--set", "epochs=500", "--resume")
    interrupted(again, number, lambda: epochs_kept(store)[-1] > epoch)


@SIGNALS
def test_a_tick_is_kept_and_goes_on(number: int, start: Start, tmp_path: Path) -> None:
    world = World(str(tmp_path), tmp_path)
    world.arrive("one", 0, 320)
    pipeline = world.file(train={"recipe": "mnist-flow-class", "settings": SETTINGS | {"epochs": 12}})
    command = ["jobs/retrain.py", pipeline, "--tick", TICK]
    training = open_store(f"{tmp_path}/out/ticks/{TICK}/training")
    last = interrupted(start(*command), number, lambda: len(epochs_kept(training)) >= 2)
    assert last == f"darkroom: interrupted: what is done of the tick is kept; it goes on by --tick {TICK}"
    record = load(open_store(f"{tmp_path}/out"), TICK)
    assert record is not None and not record.is_over
    again = start(*command)
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0 and f"{TICK}  promoted" in said, said
    assert "epoch 1 " not in said, "it went on from its checkpoint"
    assert open_model(f"registry://{tmp_path}/registry/digits").name == "digits@1"
