"""What a job survives: its own death, the death of its engine, storage that fails, a cluster that has no room."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.batch.generate import Options, run
from darkroom.models.catalog import open_model
from darkroom.models.embeddings import EmbeddingStore
from darkroom.ray_cluster import ClusterError
from darkroom.runs import Ledger
from darkroom.runs.audit import audit
from darkroom.storage import StorageError, open_store
from runs import RED, results, write_manifest

ROOT = Path(__file__).parents[2]
ROWS = 24
SLOW = {**RED, "steps": 60}  # with two evaluations a pass, a unit takes a second or so

# Killing and starving real clusters takes minutes and a quiet machine; one such test is always run.
slow = pytest.mark.slow


def job(tmp_path: Path, toy_model: str, **more: Any) -> Options:
    manifest = write_manifest(tmp_path, [{**SLOW, "id": f"r{n}", "seed": n} for n in range(ROWS)])
    given = {"capacity": 2, "unit_rows": 2, **more}
    return Options(manifest=manifest, out=str(tmp_path / "run"), model=toy_model, **given)


def silent(line: str) -> None:
    """Where a job's words go."""


def committed(out: str) -> int:
    """Rows that count."""
    return Ledger(open_store(out)).read().rows


def descendants(pid: int) -> dict[int, str]:
    """Processes below `pid`, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: dict[int, str] = {}
    front = {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front}
        found |= {child: lines[child] for child in front}
    return found


def alive(pid: int) -> bool:
    """Not so a zombie, which the first process of a container may never reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts a Python program in a session of its own; whatever is left of it at the end is ended."""
    started: list[tuple[subprocess.Popen[str], set[int]]] = []

    def start(*arguments: str, path: str = "") -> tuple[subprocess.Popen[str], set[int]]:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{path}", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, start_new_session=True, **pipes
        )
        started.append((process, set()))
        return started[-1]

    yield start
    for process, seen in started:
        seen |= descendants(process.pid).keys()
        for pid in (process.pid, *seen):
            if alive(pid):
                kill(pid)
        process.wait()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def command_of(options: Options) -> list[str]:
    command = ["jobs/generate.py", options.manifest, "--out", options.out, "--model", options.model]
    return [*command, "--capacity", "2", "--unit-rows", "2"]


def test_killed_half_way_the_same_command_completes_it(
    tmp_path: Path, toy_model: str, shared_ray: None, start: Any
) -> None:
    options = job(tmp_path, toy_model)
    process, seen = start(*command_of(options))
    first_commits(process, options, 4)
    below = descendants(process.pid)
    seen |= below.keys()
    workers = [pid for pid, line in below.items() if "Agent" not in line]  # Ray's agents outlive it, and do no work
    kill(process.pid)
    process.wait()
    wait_for(lambda: not any(map(alive, workers)), 60, "its workers to end with it")
    goes_on(options)


@slow
def test_interrupted_while_it_works_or_while_ray_starts_the_same_command_completes_it(
    tmp_path: Path, toy_model: str, shared_ray: None, start: Any
) -> None:
    options = job(tmp_path, toy_model)
    process, _ = start(*command_of(options))
    first_commits(process, options, 2)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    kept = f"interrupted: {committed(options.out)} of {ROWS} rows are kept; run the same command again to go on"
    assert kept in said and "Traceback" not in said and "SIGTERM" not in said
    process, _ = start(*command_of(options))
    for line in process.stdout:
        if "starting Ray" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, said
    assert kept in said and "Traceback" not in said
    goes_on(options)


def first_commits(process: subprocess.Popen[str], options: Options, rows: int) -> None:
    """Waits until so many rows are there, and fails with what the job said if it ended before."""
    wait_for(lambda: committed(options.out) >= rows or process.poll() is not None, 600, "the first commits")
    assert committed(options.out) >= rows, process.communicate()[0]


def goes_on(options: Options) -> None:
    """Half of a run is there: it becomes whole, and what was there is not made twice."""
    before = results(options.out)
    assert 0 < len(before) < ROWS, "it ended half way"
    outcome = run(options, silent)
    after = results(options.out)
    assert (outcome.rows, outcome.failed, outcome.done_before) == (ROWS, 0, len(before))
    assert outcome.made == ROWS - len(before)
    assert {name: after[name] for name in before} == before
    assert audit(options.out).passed


@slow
def test_an_engine_that_is_killed_costs_no_row(tmp_path: Path, toy_model: str, shared_ray: None) -> None:
    options = job(tmp_path, toy_model)
    killed: list[int] = []

    def kill_the_engine() -> None:
        wait_for(lambda: any(Path(options.out, "images").rglob("*.png")), 600, "the first picture")
        engines = [pid for pid, line in descendants(os.getpid()).items() if "(stage " in line]
        killed.extend(engines)
        for pid in engines:
            kill(pid)

    assassin = threading.Thread(target=kill_the_engine)
    assassin.start()
    outcome = run(options, silent)
    assassin.join()
    assert len(killed) == 1
    assert (outcome.rows, outcome.failed, outcome.done_before) == (ROWS, 0, 0)
    assert audit(options.out).passed


@slow
def test_a_bucket_that_is_not_there_costs_the_row_that_names_it(
    tmp_path: Path, toy_model: str, s3_env: str, shared_ray: None
) -> None:
    edit = {"id": "edit", "task": "image_to_image", "prompt": "a one", "start": 0, "steps": 1}
    manifest = write_manifest(tmp_path, [RED, {**edit, "image": "s3://no-such-bucket/one.png"}])
    given = {"unit_rows": 1, "inputs_root": ("s3://no-such-bucket",)}
    outcome = run(Options(manifest=manifest, out=str(tmp_path / "run"), model=toy_model, **given), silent)
    assert (outcome.made, outcome.failed) == (1, 1)
    row = results(str(tmp_path / "run"))["edit"]
    assert row["error_class"] == "input" and "the bucket does not exist" in row["error"]


@slow
def test_pictures_that_cannot_be_stored_stop_the_job_and_it_can_go_on(
    tmp_path: Path, toy_model: str, shared_ray: None
) -> None:
    options = Options(
        manifest=write_manifest(tmp_path, [{**RED, "id": "a"}]), out=str(tmp_path / "run"), model=toy_model
    )
    Path(options.out).mkdir()
    blocked = Path(options.out, "images")
    blocked.write_bytes(b"a file where a folder should be")
    with pytest.raises(StorageError, match="could not write .*/images/"):
        run(options, silent)
    blocked.unlink()
    assert run(options, silent).made == 1
    assert audit(options.out).passed


def test_more_workers_than_the_cluster_has_room_for(tmp_path: Path, toy_model: str, shared_ray: None) -> None:
    with pytest.raises(ClusterError, match="ask for fewer --workers"):
        run(job(tmp_path, toy_model, workers=50), silent)


STARVED = """
import runpy, sys
from darkroom import cli
from darkroom.batch import prompts
cli.quiet(False)
import ray
from darkroom.ray_cluster.connection import start_ray

manifest, out, model = sys.argv[1:]
start_ray(num_cpus=2, object_store_memory=10**8, logging_level="error", log_to_driver=False)
hog = ray.remote(num_cpus=2)(type("Hog", (), {"ready": lambda self: True})).remote()
ray.get(hog.ready.remote())
prompts.SMALL_ENCODER = 0  # so that the job does not encode by itself
sys.argv = ["generate", manifest, "--out", out, "--model", model, "--stall-seconds", "3"]
runpy.run_path("jobs/generate.py", run_name="__main__")
"""


@slow
def test_a_cluster_without_room_is_said_and_ends(tmp_path: Path, toy_model: str, start: Any) -> None:
    """Prompts are there already, so that it is the pipeline that starves."""
    options = job(tmp_path, toy_model)
    model = open_model(toy_model)
    prompts = ["", "a red one"]
    store = EmbeddingStore(options.out, model.encoder_key("text_encoder", "float32"))
    store.put(prompts, model.text_encoder("text_encoder", torch.device("cpu")).encode(prompts))
    process, _ = start("-c", STARVED, options.manifest, options.out, toy_model)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert (
        "no unit was committed and no worker gave a sign of life" in said and "free in the cluster: 0 of 2 CPU" in said
    )
    assert "load: took 0 units, gave back 0" in said and "write: took 0 units" in said
    assert "run the same command again" in said and "Traceback" not in said, said


@slow
def test_prompts_that_find_no_room_are_said_too(tmp_path: Path, toy_model: str, start: Any) -> None:
    options = job(tmp_path, toy_model)
    process, _ = start("-c", STARVED, options.manifest, options.out, toy_model)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 3 and "no prompt was embedded and no worker gave a sign" in said, said


HANGING = """
import runpy, sys, time
from pathlib import Path
from darkroom.sampling.engine import Engine

advance, marker = Engine.advance, Path(__file__).with_name("hung")

def set_up():
    Engine.advance = hang

def hang(self):
    if self.statistics.passes > 20 and not marker.exists():
        marker.touch()
        time.sleep(3600)
    return advance(self)

if __name__ == "__main__":
    from darkroom import cli
    cli.quiet(False)
    from darkroom.ray_cluster.connection import start_ray

    start_ray(num_cpus=2, logging_level="error", log_to_driver=False,
              runtime_env={"worker_process_setup_hook": "hanging.set_up"})
    runpy.run_path("jobs/generate.py", run_name="__main__")
"""


@slow
def test_a_worker_that_hangs_is_named_and_replaced(tmp_path: Path, toy_model: str, start: Any) -> None:
    options = job(tmp_path, toy_model)
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    arguments = ["--out", options.out, "--model", toy_model, "--capacity", "2", "--unit-rows", "2"]
    process, _ = start(str(script), options.manifest, *arguments, "--stall-seconds", "60", path=str(tmp_path))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert re.search(
        r"stage 1: process \d+ on \S+ is at one pass for \d+ s, in hanging\.py:\d+, hang; after \d+ s it", said
    ), said
    assert "stage 1: the worker that ended is replaced by process" in said and "Traceback" not in said
    assert audit(options.out).passed
