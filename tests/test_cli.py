"""Commands as a user types them: what is printed, and the exit code. What needs Ray is in e2e/."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from subprocess import PIPE

import pytest
import typer
from ray.exceptions import GetTimeoutError, RayTaskError

from darkroom import __version__, cli
from darkroom.batch.progress import Stalled
from darkroom.cli import GROUPS, dress, epilog
from darkroom.exits import Interrupted, interruptible
from darkroom.ray_cluster import ClusterError
from darkroom.storage import StorageError
from darkroom.submit.request import job_names
from runs import RED, png, tree, write_manifest

ROOT = Path(__file__).parent.parent


def darkroom(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `darkroom ...` in a process of its own."""
    command = [sys.executable, "-c", "from darkroom.cli import main; main()", *arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("the disk is full"), 3),
        (ClusterError("no Ray"), 3),
        (Stalled("nothing was committed"), 3),
        (ValueError("the manifest is wrong"), 2),
    ],
)
def test_errors_are_a_sentence_and_a_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, cli.exit_codes():
        raise error
    said = capsys.readouterr().err
    assert stopped.value.exit_code == code
    assert said.startswith(f"darkroom: {error}") and "Traceback" not in said
    assert ("run the same command again" in said) == (code == 3)


def test_what_ray_raises_is_a_line_and_the_environments_fault(capsys: pytest.CaptureFixture[str]) -> None:
    told = ValueError("unexpected shape")
    wrapped = RayTaskError("work", "Traceback\n  File ...\nValueError: unexpected shape", told).as_instanceof_cause()
    assert isinstance(wrapped, ValueError), "Ray's wrapper is of both kinds"
    for error, said in ((wrapped, "ValueError: unexpected shape"), (GetTimeoutError("timed out"), "timed out")):
        with pytest.raises(typer.Exit) as stopped, cli.exit_codes():
            raise error
        assert stopped.value.exit_code == 3
        assert capsys.readouterr().err.startswith(f"darkroom: Ray gave up: {said}\n")


def test_a_bug_of_ours_is_a_sentence_that_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, cli.exit_codes():
        raise AssertionError("a bug")
    assert stopped.value.exit_code == 3
    said = capsys.readouterr().err
    assert "a fault of this program, AssertionError" in said and said.endswith(": a bug; --verbose says more\n")


def test_the_commands_and_their_help() -> None:
    shown = darkroom("-h")
    assert shown.returncode == 0 and "darkroom generate manifests/demo.yaml --out runs/demo" in shown.stdout
    names = [line.split()[1] for line in shown.stdout.splitlines() if re.match(r"│ [a-z]+ ", line)]
    order = ("generate", "report", "audit", "train", "retrain", "submit", "cluster")
    assert [name for name in names if name in order] == [*order], "as one comes to need them"
    assert set(job_names()) < set(names)
    options = darkroom("generate", "--help", COLUMNS="200").stdout
    for option in ("--out", "--model", "--workers", "--capacity", "--dry-run", "--limit"):
        assert option in options
    assert "darkroom generate jobs.jsonl --out runs/try --limit 20 --dry-run\n" in re.sub(" +\n", "\n", options)


def test_the_version() -> None:
    assert darkroom("--version").stdout == f"darkroom {__version__}\n"


@pytest.mark.parametrize("job", job_names())
def test_every_help_has_examples_and_names_for_values(job: str) -> None:
    module = import_module(f"darkroom.jobs.{job}")
    assert f"darkroom {job} " in epilog(module.__doc__).replace("\n", " "), "an example of it"
    app = getattr(module, "app", None) or typer.Typer(add_completion=False)
    if not hasattr(module, "app"):
        app.command()(module.main)
    command = typer.main.get_command(app)
    dress(command, job)
    for part in getattr(command, "commands", {"": command}).values():
        bare = {p.name for p in part.params if p.metavar is None}
        assert not bare & {"out", "run", "data", "manifest", "model", "address", "pipeline", "limit"}, "no <str>"
        ungrouped = {p.name for p in part.params if p.param_type_name == "option" and p.rich_help_panel is None}
        assert job not in GROUPS or ungrouped == {"verbose"}


def test_every_problem_of_a_manifest_in_one_message(tmp_path: Path, toy_model: str) -> None:
    manifest = write_manifest(tmp_path, [RED, {"task": "text_to_image", "promt": "x"}, {**RED, "size": 99}])
    out = tmp_path / "run"
    ended = darkroom("generate", manifest, "--out", str(out), "--model", toy_model, "--dry-run")
    assert ended.returncode == 2 and ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert lines[0] == "darkroom: the manifest has 2 problems:"
    assert lines[1] == "  jobs.jsonl line 2: unknown key 'promt', did you mean 'prompt'?"
    assert lines[2].startswith("  jobs.jsonl line 3: the size 99 is not one the model 'toy' makes")
    assert not out.exists()


REFUSED = """
import sys
from darkroom.cli import main
try:
    main()
finally:
    print([name for name in ("torch", "ray", "transformers", "diffusers") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("wrong.jsonl", "--out", "run"), "wrong.jsonl line 2: unknown key 'promt', did you mean 'prompt'?"),
        (("nowhere.jsonl", "--out", "run"), "nothing is there"),
        (("right.jsonl", "--out", "run", "--model", "if-xxl"), "no model 'if-xxl'"),
        (("right.jsonl", "--out", "run", "--capacity", "some"), "--capacity is 'some'"),
        (("right.jsonl", "--out", "run", "--rerun", "all"), "--rerun names 'all'"),
        (("right.jsonl", "--out", "right.jsonl"), "right.jsonl is a file: wanted a folder"),
        (("right.jsonl", "--out", "right.jsonl/run"), "right.jsonl is a file: wanted a folder"),
        (("right.jsonl", "--out", "s3:/bucket/run"), "did you mean s3://bucket/run?"),
        (("right.jsonl", "--out", "gs:/bucket/run"), "begins as an address does, 'gs:/'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_heavy_is_imported(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "right.jsonl").write_text(json.dumps(RED))
    (tmp_path / "wrong.jsonl").write_text(f"{json.dumps(RED)}\n" + json.dumps({"task": "text_to_image", "promt": "x"}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "COLUMNS": "200"}
    command = [sys.executable, "-c", REFUSED, "generate", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ended.returncode == 2 and said in ended.stderr, ended.stderr
    assert ended.stdout == "[]\n", "none of them is imported"
    assert tree(tmp_path) == ["right.jsonl", "wrong.jsonl"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, toy_model: str) -> None:
    rows = [{**RED, "id": "a"}, {**RED, "id": "b", "size": 16}, {**RED, "id": "c", "size": 16}]
    edit = {"id": "d", "task": "image_to_image", "prompt": "a one", "image": "x.png", "start": 1, "steps": 3}
    (tmp_path / "x.png").write_bytes(png(8))
    manifest, out = write_manifest(tmp_path, [*rows, edit]), tmp_path / "run"
    ended = darkroom("generate", manifest, "--out", str(out), "--model", toy_model, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "4 rows: 0 done, 3 to make, 1 duplicate, 0 changed"
    assert [line.split() for line in lines[1:3]] == [
        ["image_to_image", "1", "to", "make"],
        ["text_to_image", "2", "to", "make"],
    ]
    assert lines[3].startswith("stage 1: 12 model evaluations, about ") and lines[4].startswith("stage 2: 8 model")
    assert not out.exists() and tree(tmp_path) == ["jobs.jsonl", "x.png"]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    ended = darkroom("generate", write_manifest(tmp_path, [RED]), "--out", str(tmp_path / "run"), "--model", "if-xxl")
    assert ended.returncode == 2 and "no model 'if-xxl'" in ended.stderr and "if-xs" in ended.stderr


def test_storage_that_is_down_is_a_sentence_and_code_3(tmp_path: Path, toy_model: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    down = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "DARKROOM_S3_PATIENCE": "0", **keys}
    manifest = write_manifest(tmp_path, [RED])
    ended = darkroom("generate", manifest, "--out", "s3://bucket/run", "--model", toy_model, **down)
    assert ended.returncode == 3, ended.stderr
    assert "the endpoint cannot be reached; check AWS_ENDPOINT_URL_S3" in ended.stderr
    assert "run the same command again" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [("jobs",), ("generate", "jobs.jsonl", "--out", "run")])
def test_a_shell_that_names_a_cluster_which_has_ended(arguments: tuple[str, ...], tmp_path: Path) -> None:
    token = str(tmp_path / "token")
    ended = darkroom(*arguments, RAY_ADDRESS="127.0.0.2:6379", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token)
    assert ended.returncode == 3 and ended.stderr.startswith(f"darkroom: RAY_AUTH_TOKEN_PATH names {token}, which is")
    assert "unset RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH" in ended.stderr and "Traceback" not in ended.stderr


def test_an_audit_where_there_is_no_run(tmp_path: Path) -> None:
    ended = darkroom("audit", str(tmp_path))
    assert ended.returncode == 2 and "run.json" in ended.stderr and "Traceback" not in ended.stderr


def test_a_job_that_is_stuck_outside_of_the_interpreter_ends_by_a_signal_all_the_same() -> None:
    """As in a call into Ray that waits for a raylet which died: no handler of Python's ever runs."""
    code = """
import ctypes, threading
from darkroom import exits

exits.STUCK_SECONDS = 0.5
mutex = ctypes.create_string_buffer(64)
with exits.exit_codes():
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    threading.Timer(1.0, print, ["stuck"], {"flush": True}).start()
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.startswith("darkroom: interrupted, and not at its end after 0.5 s. Nothing that was committed is lost")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_not_lost_where_nothing_can_be_raised(number: int) -> None:
    class Held:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            sum(range(10))  # the handler is called here, and python drops what a destructor raises

    with pytest.raises(Interrupted) as caught, interruptible():
        Held()
        time.sleep(10)
    assert caught.value.code == 128 + number
