"""A pipeline on a real S3 server and a real Ray: trained by Ray Train, tried out by the real generate path, killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from darkroom.batch import generate
from darkroom.models.catalog import open_model
from darkroom.models.registry import RegisteredModel
from darkroom.retrain.schema import Pipeline
from darkroom.retrain.tick import run_tick
from darkroom.retrain.tick_record import TickRecord, load
from darkroom.retrain.times import tick_id
from darkroom.storage import open_store
from darkroom.training.checkpoints import epochs_kept
from runs import results
from small_world import QUICK, World, train_here

FIRST = datetime(2026, 11, 21, 2, tzinfo=UTC)
SEVENS = [{"task": "text_to_image", "label": 7, "steps": 2, "seed": seed} for seed in range(2)]
NO_IMAGE = {"task": "image_to_image", "label": 3, "image": "none.png", "start": 1, "steps": 3}

# Runs a tick in a process of its own, which kills itself: after the first checkpoint, or when it would promote.
KILLED = """
import os, signal, sys, threading, time
from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.tick import run_tick
from darkroom.retrain.times import read_tick
from darkroom.storage import open_store
from darkroom.storage.s3 import S3Store
from darkroom.training.checkpoints import epochs_kept

where, file, tick, address = sys.argv[1:]
pipeline = read_pipeline(file)
training = open_store(f"{pipeline.out}/ticks/{tick}/training")

def die(*given):
    os.kill(os.getpid(), signal.SIGKILL)

def after_the_first_checkpoint():
    while not epochs_kept(training):
        time.sleep(0.02)
    die()

if where == "training":
    threading.Thread(target=after_the_first_checkpoint, daemon=True).start()
else:
    replace = S3Store.replace
    S3Store.replace = lambda store, key, *given: (die if key == "champion.json" else replace)(store, key, *given)
run_tick(pipeline, read_tick(tick), print, address)
"""


def night(number: int) -> datetime:
    return FIRST + timedelta(days=number - 1)


def manifest(folder: Path, name: str, *rows: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump({"rows": list(rows)}))
    return str(folder / name)


def run(pipeline: Pipeline, number: int, **more: Any) -> TickRecord:
    return run_tick(pipeline, night(number), lambda line: None, **more)


def killed(world: World, file: str, number: int, where: str) -> None:
    """The tick in a process that dies by SIGKILL in the middle of its training, or of its promotion."""
    (world.folder / "killed.py").write_text(KILLED)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(world.folder / "killed.py"), where, file, tick_id(night(number)), address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == -9, done.stderr[-2000:]


@pytest.mark.usefixtures("shared_ray")
def test_a_new_champion_is_tried_out_and_put_to_work_or_withdrawn(s3_env: str, tmp_path: Path) -> None:
    world = World(s3_env, tmp_path)
    world.arrive("one", 0, 64)
    rows = manifest(tmp_path, "digits.yaml", *SEVENS)
    first = run(world.pipeline(generate={"manifest": rows, "capacity": 4}), 1)
    assert first.outcome == "promoted", first.data["reason"]
    assert first.steps["generate"]["rows"] == 2 and not first.has_failures
    assert {row["model"] for row in results(first.steps["generate"]["run"]).values()} == {"digits@1"}
    world.arrive("two", 64, 32)
    broken = manifest(tmp_path, "broken.yaml", *SEVENS, NO_IMAGE)
    second = run(world.pipeline(smoke=broken), 2, train=train_here)
    assert second.outcome == "rolled_back" and second.has_failures
    assert second.data["reason"].startswith("1 of 3 rows of the smoke manifest failed")
    model = RegisteredModel(f"{s3_env}/registry", "digits")
    assert [(e["kind"], e["version"]) for e in model.moves()] == [("promoted", 1), ("promoted", 2), ("rolled_back", 1)]
    assert open_model(f"registry://{s3_env}/registry/digits").name == "digits@1"


class Visitor(threading.Thread):
    """Opens the champion over and over, as a generation that starts at that moment would, and loads its weights."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.uri, self.stop, self.seen, self.problems = uri, threading.Event(), [], []

    def run(self) -> None:
        while not self.stop.wait(0.2):
            try:
                network = open_model(self.uri)
                network.load()
                self.seen.append(network.name)
            except ValueError as error:
                self.problems.append(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_year_in_small(s3_env: str, tmp_path: Path) -> None:
    """Promoted, nothing new, a better one, refused for its data, killed twice, rolled back; history tells of it all."""
    world = World(s3_env, tmp_path)
    learning = {"recipe": "mnist-flow-class", "settings": QUICK | {"hidden": 8, "epochs": 4}}
    rules = {
        "class_accuracy": {"at_least": 0.01, "margin": 0.2},
        "frechet_distance": {"at_most": 150, "margin": 5},
        "validation_loss": {"at_most": 1, "margin": 0.02},
    }
    asked: dict[str, Any] = {
        "train": learning,
        "evaluate": {"count": 40, "steps": 6, "guidance": 3.0},
        "gate": rules,
        "smoke": manifest(tmp_path, "smoke.yaml", *SEVENS),
    }
    rows, uri, marks = manifest(tmp_path, "digits.yaml", *SEVENS), f"registry://{s3_env}/registry/digits", []

    def live(version: int, name: str) -> None:
        """What is generated now is all of one version; and which it was will be asked of the history."""
        generate.run(generate.Options(rows, f"{s3_env}/runs/{name}", uri, capacity=4), lambda line: None)
        assert {row["model"] for row in results(f"{s3_env}/runs/{name}").values()} == {f"digits@{version}"}
        marks.append((datetime.now(UTC), version))

    marks.append((datetime.now(UTC), None))
    world.arrive("one", 0, 400, tests=100)
    assert run(world.pipeline(**asked), 1).outcome == "promoted"
    live(1, "after-1")
    visitor = Visitor(uri)
    visitor.start()
    assert run(world.pipeline(**asked), 2).data["reason"] == "no new data"
    world.arrive("two", 400, 1200, tests=100)
    third = run(world.pipeline(**asked), 3)
    (accuracy, frechet, _) = third.rounds[0]["table"]
    assert third.outcome == "promoted" and accuracy["gain"] > 0 and frechet["gain"] > 5, "it is a better one"
    live(2, "after-3")
    bad = World(f"{s3_env}/bad", tmp_path)
    bad.arrive("one", 0, 1600, shuffled=True, tests=100)
    fourth = run(world.pipeline(**asked, data={"kind": "idx", "source": f"{s3_env}/bad/source"}), 4)
    assert fourth.outcome == "refused" and "the margin is" in fourth.data["reason"]
    live(2, "after-4")
    world.arrive("three", 1600, 400, tests=100)
    file = world.file(**asked)
    killed(world, file, 5, "training")
    store, fifth = open_store(f"{s3_env}/out"), tick_id(night(5))
    before = epochs_kept(open_store(f"{s3_env}/out/ticks/{fifth}/training"))
    assert before and before[-1] < 4
    live(2, "killed-in-training")
    killed(world, file, 5, "promotion")
    assert load(store, fifth).outcome == "" and RegisteredModel(f"{s3_env}/registry", "digits").versions() == [1, 2, 3]
    live(2, "killed-in-promotion")
    assert run(world.pipeline(**asked), 5).outcome == "promoted"
    live(3, "after-5")
    model = RegisteredModel(f"{s3_env}/registry", "digits")
    model.rollback(reason="a person looked")
    live(2, "rolled-back")
    visitor.stop.set()
    visitor.join()
    assert not visitor.problems and set(visitor.seen) == {"digits@1", "digits@2", "digits@3"}
    assert [(moment, model.champion_at(moment)) for moment, _ in marks] == marks
    assert [event["version"] for event in model.moves()] == [1, 2, 3, 2]
    page = store.read("index.html").decode()
    assert page.count('class="good"') == 3 and "page/frechet_distance.png" in page
