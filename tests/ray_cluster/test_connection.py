"""Joining Ray: what goes wrong is the environment's fault, in a sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from darkroom.ray_cluster import ClusterError, connect, refuse_lost_token


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        RuntimeError("its version differs"),
        Exception("The current node timed out during startup."),  # as Ray raises it on a busy machine
    ],
)
def test_a_ray_that_does_not_come_up_is_the_environments_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError, match=f"no Ray cluster at this machine: {error}"):
        connect(None, verbose=False)


def test_a_ray_that_is_late_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its node's agent takes 15 seconds to come up, after which Ray's own node ends itself."""
    started: list[str] = []

    def starts(address: str, **_: object) -> None:
        started.append(address)
        if len(started) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", starts)
    connect(None, verbose=False)
    assert started == ["local"] * 3


SLOW_AGENT = """
import pathlib, sys, time
marker = pathlib.Path(__file__).with_name("slowed")
if any(word.endswith("dashboard/agent.py") for word in sys.orig_argv) and not marker.exists():
    marker.touch()
    time.sleep(60)
"""


@pytest.mark.slow  # a minute of Ray's own patience
def test_a_real_ray_whose_agent_is_late_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENT)
    program = "import ray, darkroom.ray_cluster as c; c.connect(None, verbose=False); print(ray.cluster_resources())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (tmp_path / "slowed").exists() and ended.returncode == 0, ended.stderr
    assert "'CPU'" in ended.stdout


def test_a_cluster_that_is_not_there_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fails(address: str, **_: object) -> None:
        asked.append(address)
        raise ConnectionError("no route")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError, match="no Ray cluster at 127.0.0.1:6379: no route; if it is up, is its token"):
        connect("127.0.0.1:6379", verbose=False)
    assert asked == ["127.0.0.1:6379"]


def test_a_long_folder_for_sockets_is_named(tmp_path: Path) -> None:
    """As batch systems give one to a job. This is what Ray itself says of it, before it starts anything; in a process
    where no other test has a Ray."""
    folder = tmp_path / "scratch_directory_of_a_batch_system/job_1355700/user_home_projects/tmp"
    folder.mkdir(parents=True)
    program = "from darkroom.ray_cluster import connect; connect(None, verbose=False)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(folder)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    *_, last = ended.stderr.strip().splitlines()
    says = f"no Ray cluster at this machine: RAY_TMPDIR is {folder}, {len(str(folder))} characters, too long "
    assert ended.returncode == 1 and f"ClusterError: {says}" in last and last.endswith("/tmp")


def test_a_home_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    """Ray keeps a token there, before it starts anything; RAY_TMPDIR is not to blame."""
    (tmp_path / "home").write_text("a file where a folder should be")
    program = "from darkroom.ray_cluster import connect; connect(None, verbose=False)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path / "home")}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    *_, last = ended.stderr.strip().splitlines()
    assert "no Ray cluster at this machine: " in last and "RAY_TMPDIR" not in last
    assert last.endswith("set HOME to a folder that it can write to, or RAY_AUTH_TOKEN")


def test_a_token_itself_is_taken_before_a_lost_file_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray does: its own answer, in a process where no other test had it look."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "lost"))
    with pytest.raises(ClusterError, match="which is not there"):
        refuse_lost_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    refuse_lost_token()
    program = "from ray._raylet import AuthenticationTokenLoader as Loader; print(Loader.instance().has_token())"
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ended.stdout == "True\n", ended.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_to_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/scratch/ray")

    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError, match=f"{os.strerror(number)}.*RAY_TMPDIR is /scratch, and Ray needs room"):
        connect(None, verbose=False)


def test_a_bug_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise TypeError("an argument too many")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(TypeError):
        connect(None, verbose=False)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "is where jobs are sent to"),
        ("ray://127.0.0.1:10001", "is Ray Client's, which cannot"),
    ],
)
def test_an_address_of_another_kind_is_the_users_part(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Ray Client nobody is told what the cluster has."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=said):
        connect(address, verbose=False)
