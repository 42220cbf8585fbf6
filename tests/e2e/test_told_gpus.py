"""What asks Ray for a GPU, walked on a Ray that is told it has some: see `told_gpus`. Only the kernels are not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.batch.generate import Options, run
from darkroom.models.catalog import open_model
from darkroom.models.embeddings import EmbeddingStore
from darkroom.runs.audit import audit
from runs import pictures, results, write_manifest
from told_gpus import BEST, ROWS

TESTS = Path(__file__).parents[1]


def walk(kind: str, folder: Path, cascade: str, network: str) -> str:
    """All jobs of that kind; what they said."""
    command = [sys.executable, str(TESTS / "told_gpus.py"), kind, str(folder), cascade, network]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, toy_model: str, toy_network: str) -> Path:
    folder = tmp_path_factory.mktemp("one-gpu")
    (folder / "said").write_text(walk("one", folder, toy_model, toy_network))
    return folder


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, toy_model: str, toy_network: str) -> Path:
    folder = tmp_path_factory.mktemp("nodes-apart")
    (folder / "said").write_text(walk("apart", folder, toy_model, toy_network))
    return folder


@pytest.fixture(scope="module")
def on_processors(tmp_path_factory: pytest.TempPathFactory, toy_model: str, shared_ray: None) -> dict[str, bytes]:
    """The same rows' pictures by a Ray without GPUs."""
    folder = tmp_path_factory.mktemp("no-gpu")
    out = str(folder / "run")
    run(Options(write_manifest(folder, ROWS), out, toy_model, capacity=8, unit_rows=3), lambda line: None)
    return pictures(out)


def test_stages_that_share_a_gpu_make_the_same_pictures(one: Path, on_processors: dict[str, bytes]) -> None:
    assert pictures(str(one / "shared")) == on_processors
    assert audit(str(one / "shared")).passed
    said = (one / "said").read_text()
    assert "no node said how much memory its GPUs have, going on unchecked (RuntimeError" in said
    for phase in ("starting Ray", "prompts: loading text_encoder", "stage 1: ready in", "the first rows are committed"):
        assert phase in said, phase


def test_encoders_beside_the_stages_on_one_gpu(one: Path, on_processors: dict[str, bytes]) -> None:
    assert pictures(str(one / "beside")) == on_processors


def test_prompts_are_encoded_by_actors(one: Path, toy_model: str) -> None:
    model = open_model(toy_model)
    store = EmbeddingStore(str(one / "embeddings"), model.encoder_key("text_encoder", "float32"))
    assert store.missing(["a red one", "a blue two", ""]) == []


def test_the_best_of_several_by_a_scorer_with_its_own_share(one: Path) -> None:
    found = results(str(one / "best"))
    assert found.keys() == {row["id"] for row in BEST}
    assert len(json.loads(found["best"]["scores"])["candidates"]) == 3 and found["plain"]["alignment"] is not None


@pytest.mark.slow  # its training is that below, its evaluation that of retrain/test_measure_where_fast.py
def test_a_tick(tmp_path: Path, toy_model: str, toy_network: str) -> None:
    walk("tick", tmp_path, toy_model, toy_network)
    assert (tmp_path / "world/registry").exists(), "promoted, after its evaluation on what Ray calls a GPU"


def test_each_stage_and_the_encoders_on_a_node_of_its_own(apart: Path, on_processors: dict[str, bytes]) -> None:
    assert pictures(str(apart / "apart")) == on_processors
    assert audit(str(apart / "apart")).passed
    said = re.sub(r".* still .*", "", (apart / "said").read_text())  # what a slow machine says every 5 s
    assert said.index("starting the workers") < said.index("prompts: loading text_encoder"), "while the stages load"
    assert said.count("prompts: loading text_encoder") == 1, "said once, though two listen"


def test_two_workers_share_a_training(apart: Path, one: Path) -> None:
    losses = [(folder / "epochs.csv").read_text().splitlines()[1].split(",")[2] for folder in
              (one / "model-1", apart / "model-2")]  # fmt: skip
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=2e-4)
    for folder, workers in ((one / "model-1", 1), (apart / "model-2", 2)):
        ran = open_model(str(folder)).config["training"]["ran"]
        assert (ran["device"], ran["workers"], ran["compile"], ran["graphs"]) == ("cpu", workers, False, False)
