"""What test_cluster.py shows in small, with the embedded model and with trainings, and the commands as they are typed.
A quarter of an hour on two cores; run by `make cluster-test`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clusters import Field, exported, field_of, python
from conftest import S3Server
from darkroom.ray_cluster.processes import start_time
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from darkroom.submit import nodes
from darkroom.training.checkpoints import epochs_kept
from darkroom.training.data import load_images, sample_uri, write_dataset
from runs import results, write_manifest

pytestmark = pytest.mark.cluster
SEVEN = {"task": "text_to_image", "label": 7, "steps": 50}
CLI = "from darkroom.cli import main; main()"


@pytest.fixture
def ground(s3: S3Server, tmp_path: Path) -> Iterator[Field]:
    with field_of(tmp_path, s3, workers=2, cpus=2) as ground:
        yield ground


def typed(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and words of `darkroom ARGUMENTS`."""
    process = python(CLI, *arguments, **environment)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def inside(ground: Field, s3: S3Server) -> dict[str, str]:
    """What whoever types a command has exported."""
    return {**s3.env, **ground.local.environment}


def commits(run: str) -> int:
    return sum(1 for _ in open_store(run).list("metadata/"))


@pytest.mark.parametrize("replaced", [True, False])
def test_the_demo_survives_the_loss_of_a_node(ground: Field, s3: S3Server, replaced: bool) -> None:
    run = s3.uri(f"demo-{replaced}")
    asked = ["manifests/demo.yaml", "--out", run, "--workers", "2", "--unit-rows", "4", "--stall-seconds", "600"]
    name = ground.submit("generate", *asked)
    ground.wait_for(name, lambda: commits(run) >= 2, 600, "the first commits")
    assert len({address for address, _ in ground.stage_actors()}) == 2, "both nodes work"
    ground.lose(ground.workers()[0])
    before = len(results(run))
    if replaced:
        ground.gain(2)
    code = ground.follow(name)
    assert code == 0, ground.said[name][-4000:]
    found = audit(run)
    assert found.passed and before < found.rows == found.good


def test_a_training_survives_the_loss_of_a_node(ground: Field, s3: S3Server) -> None:
    data, run = s3.uri("digits"), s3.uri("training")
    splits = {}
    for split, count in (("train", 640), ("test", 20)):
        images = load_images(sample_uri(), split)
        splits[split] = (images.images[:count], images.labels[:count])
    write_dataset(data, splits, {"name": "few", "source": "sample", "classes": [str(digit) for digit in range(10)]})
    settings = [part for text in ("width=8", "epochs=4", "batch=64", "bf16=off") for part in ("--set", text)]
    asked = ["mnist-ddpm", "--data", data, "--out", run, "--workers", "2", "--no-report", *settings]
    code, said = typed("submit", "train", *asked, "--priority", "5", **inside(ground, s3))
    name = said.splitlines()[-1]
    assert code == 0 and ground.api.job(name).metadata["priority"] == "5", said
    ground.wait_for(name, lambda: epochs_kept(open_store(run)), 600, "the first checkpoint")
    ground.lose(ground.workers()[0])
    assert not open_store(run).exists("config.json"), "it was lost in the middle"
    ground.gain(2)
    code = ground.follow(name)
    assert code == 0, ground.said[name][-4000:]
    losses = pq.read_table(io.BytesIO(open_store(run).read("losses.parquet")))["loss"].to_numpy()
    assert len(losses) == 40 and np.isfinite(losses).all()
    assert open_store(run).exists("config.json") and max(epochs_kept(open_store(run))) == 4


def test_a_job_that_is_stopped_goes_on_when_it_is_submitted_again(
    ground: Field, s3: S3Server, toy_network: str, tmp_path: Path
) -> None:
    run = s3.uri("stopped")
    manifest = write_manifest(tmp_path, [{**SEVEN, "id": f"r{n}", "seed": n} for n in range(24)])
    asked = [manifest, "--out", run, "--model", toy_network, "--capacity", "2", "--unit-rows", "2"]
    first = ground.submit("generate", *asked)
    ground.wait_for(first, lambda: commits(run) >= 1, 300, "the first commit")
    assert typed("stop", first, **inside(ground, s3)) == (0, f"{first}: stopped\n")
    before = results(run)
    assert 0 < len(before) < 24
    second = ground.submit("generate", *asked)
    code, said = typed("logs", second, "--follow", **inside(ground, s3))
    assert second == f"{first}-2" and code == 0 and "24 rows in" in said, said
    after = results(run)
    assert audit(run).passed and {name: after[name] for name in before} == before, "not made twice"


def test_from_nothing_to_a_finished_job_as_it_is_typed(tmp_path: Path, s3: S3Server, toy_network: str) -> None:
    """The commands of cluster/README.md, on a small network: the exit codes too."""
    folder, run = str(tmp_path / "cluster"), s3.uri("typed")
    manifest = write_manifest(tmp_path, [{**SEVEN, "id": "a"}, {**SEVEN, "id": "b", "seed": 1}])
    storage = {**s3.env, "OMP_NUM_THREADS": "1"}
    code, said = typed("cluster", "up", "--nodes", "1", "--cpus-per-node", "2", "--folder", folder, **storage)
    assert code == 0, said
    try:
        come_in = {**storage, **exported(said)}
        assert typed("cluster", "status", "--folder", folder)[0] == 0
        assert typed("cluster", "up", "--folder", folder)[0] == 2, "one is up"
        submit = ["submit", "generate", manifest, "--out", run, "--model", toy_network, "--wait"]
        code, said = typed(*submit, **come_in)
        assert code == 0 and "2 rows in" in said, said
        assert typed("submit", "audit", run, "--wait", **come_in)[0] == 0
        assert typed("submit", "audit", f"{run}-none", "--wait", **come_in)[0] == 2
        code, said = typed("submit", "audit", str(tmp_path), **come_in)
        assert code == 2 and "--shared-filesystem" in said and "Traceback" not in said
        code, listed = typed("jobs", **come_in)
        name = re.search(r"^generate-typed-\w+", listed, re.MULTILINE)[0]
        assert code == 0 and listed.count("SUCCEEDED (0)") == 2 and listed.count("FAILED (2)") == 1
        assert "2 rows in" in typed("logs", name, **come_in)[1]
        without = {key: value for key, value in come_in.items() if not key.startswith("RAY_AUTH")}
        code, said = typed("jobs", **without)
        assert code == 3 and "it wants its token" in said and "Traceback" not in said
        local = nodes.read(folder)
    finally:
        code, said = typed("cluster", "down", "--folder", folder)
    assert code == 0 and not any(start_time(node.pid) for node in local.nodes)
    assert not Path(local.temporary).exists() and not Path(folder, "token").exists()
    assert "2 rows in" in typed("logs", name, "--run", run, **storage)[1], "the run has kept it"
