"""Where a GPU measures: on a Ray that is told it has one, whose torch finds none and so measures on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.retrain.schema import Data
from darkroom.retrain.snapshot import take_snapshot
from small_world import World
from toys import network_config, save_toy_network

TOLD = """
import json, os, signal, sys, threading, time
import ray
from darkroom.ray_cluster.connection import start_ray
from darkroom.retrain import measure as m
from darkroom.retrain.schema import Evaluate
from darkroom.training.data import load_data_set

model, uri, out, *cases = sys.argv[1:]
data = load_data_set(uri)
start_ray(num_cpus=2, num_gpus=1, object_store_memory=10**8, logging_level="error", log_to_driver=False)
hog = ray.remote(num_gpus=1)(type("Hog", (), {"ready": lambda self: True})).remote()
ray.get(hog.ready.remote())
found = {"said": []}


def ends(name, model, how=Evaluate(count=10, steps=1, guidance=2.0)):
    try:
        found[name] = sorted(m.measure_where_fast(model, data, how, out, found["said"].append)["metrics"])
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]


def dies(*given):
    yield None
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(*given):
    yield None
    time.sleep(600)


if "waits" in cases:
    m.SAID_SECONDS, m.SILENCE_SECONDS = 1, 3
    ends("starved", model)
m.SAID_SECONDS, m.SILENCE_SECONDS = 1, 300
threading.Timer(3 if "waits" in cases else 0, lambda: ray.kill(hog)).start()
ends("patient", model)
if "waits" in cases:
    ends("wrong", model + "-that-is-not-there")
if "fails" in cases:
    ends("broken", model, None)
    whole, m._measure_in_two = m._measure_in_two, dies
    ends("lost", model)
    m.MEASURE_SECONDS, m._measure_in_two = 3, hangs
    ends("endless", model)
    m.MEASURE_SECONDS, m._measure_in_two = 300, whole
    ends("again", model)
print(json.dumps(found))
"""


def found_of(here: World, folder: Path, case: str) -> dict[str, list[str]]:
    """What measuring ended with, by the name of the try, and what it said."""
    here.arrive("one", 0, 40, tests=30)
    data = take_snapshot(Data(kind="idx", source=f"{here.uri}/source"), f"{here.uri}/out", print).uri
    model = save_toy_network(str(folder / "model"), network_config(channels=1))
    command = [sys.executable, "-c", TOLD, model, data, str(folder / "page"), case]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))  # Ray talks there too


def test_a_gpu_is_waited_for_but_not_for_ever(here: World, tmp_path: Path) -> None:
    found = found_of(here, tmp_path, "waits")
    room = "that wants 1 CPU and 1 GPU; free in the cluster: 1 of 2 CPU, 0 of 1 GPU"
    assert found["starved"] == ["ClusterError", f"no GPU became free to measure a model within 3 s; {room}"]
    assert found["said"][0] == f"no GPU is free to measure a model, waiting for up to 3 s; {room}"
    assert "class_accuracy" in found["patient"] and "validation_loss" in found["patient"]
    kind, message = found["wrong"]
    assert kind in ("ModelError", "ValueError", "NotFound") and "Traceback" not in message and "not-there" in message


@pytest.mark.slow  # seven workers, of which four end badly
def test_errors_come_as_they_are_and_the_gpu_is_given_back(here: World, tmp_path: Path) -> None:
    found = found_of(here, tmp_path, "fails")
    kind, message = found["broken"]
    assert kind == "ClusterError" and message.startswith("a model could not be measured: AttributeError: 'NoneType'")
    kind, message = found["lost"]
    assert kind == "ClusterError" and message.startswith("the worker that measures a model was lost 3 times: Worker")
    sentence = "a model was not measured within 3 s of its beginning; it was ended"
    assert found["endless"] == ["ClusterError", sentence]
    assert found["again"] == found["patient"], "the GPU was given back"
