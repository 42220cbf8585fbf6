"""A job over a network on which everything goes wrong, and on a server that dies: nothing is lost, nothing is twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import S3Server, _answers, _start, _stop
from darkroom.runs import Ledger
from darkroom.runs.audit import audit
from darkroom.storage import StorageError, image_key_of, open_store
from fault_proxy import FaultProxy
from runs import RED, pictures, png, results, write_manifest

ROOT = Path(__file__).parents[2]
ROWS = 24

pytestmark = pytest.mark.slow


class Job:
    """A job that reads its pictures from a bucket and writes its run there. port: of the server that it is told of;
    env: of one that is reached directly, which is this process' too."""

    def __init__(self, folder: Path, uri: str, model: str, server: S3Server, port: int | None = None) -> None:
        self.out = f"{uri}/run"
        open_store(uri).write("in/one.png", png(16))
        edit = {"task": "image_to_image", "prompt": "a one", "image": f"{uri}/in/one.png", "start": 1, "steps": 3}
        texts = [{**RED, "steps": 40, "seed": seed, "id": f"text-{seed:02d}"} for seed in range(ROWS - 4)]
        self.rows = [*texts, *({**edit, "seed": seed, "id": f"edit-{seed}"} for seed in range(4))]
        roots = ["--inputs-root", uri]
        self.command = ["jobs/generate.py", write_manifest(folder, self.rows), "--out", self.out, "--model", model]
        self.command += [*roots, "--capacity", "4", "--unit-rows", "2"]
        own = {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", "DARKROOM_S3_TIMEOUT": "2"}
        self.env = os.environ | server.env | own | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port or server.port}"}

    def start(self) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, *self.command], cwd=ROOT, env=self.env, **pipes)

    def run(self, code: int = 0) -> str:
        """What it says, which ends with that exit code."""
        return self.end(self.start(), code)

    def end(self, process: subprocess.Popen[str], code: int = 0) -> str:
        said = process.communicate(timeout=400)[0]
        assert process.returncode == code and "Traceback" not in said, said
        return said

    def committed(self) -> int:
        try:
            return Ledger(open_store(self.out)).read().rows
        except StorageError:
            return 0

    def check(self, unbroken: dict[str, bytes]) -> None:
        """Each row once, each picture that of the run that nothing befell; nothing lies beside them."""
        rows, found = results(self.out), pictures(self.out)
        assert rows.keys() == found.keys() == {row["id"] for row in self.rows}
        assert found == unbroken and audit(self.out).passed
        store = open_store(self.out)
        assert list(store.list("staging/")) == list(store.list("work/")) == []
        assert set(store.list("images/")) >= {image_key_of(row["image_uri"]) for row in rows.values()}
        assert len(list(store.list("metadata/"))) == len(Ledger(store).read().shards)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, toy_model: str) -> dict[str, bytes]:
    """The pictures of a run that nothing befalls, in a folder."""
    folder = tmp_path_factory.mktemp("unbroken")
    job = Job(folder, str(folder), toy_model, s3)
    job.run()
    return pictures(job.out)


def test_a_bad_network_loses_nothing(
    tmp_path: Path, s3: S3Server, s3_env: str, toy_model: str, unbroken: dict[str, bytes]
) -> None:
    """503, resets, lost answers, bodies cut off, stalls, listings that lag: one of twelve requests."""
    with FaultProxy(s3.port, seed=4, rate=1 / 12) as proxy:
        job = Job(tmp_path, f"{s3_env}/bad", toy_model, s3, proxy.port)
        proxy.stall = 2.5
        said = job.run()
    assert sum(proxy.done.values()) > 20 and len(+proxy.done) >= 5, proxy.done
    assert said.count("does not answer") <= 1, said
    job.check(unbroken)


def test_keys_that_expire_end_it_and_it_goes_on(
    tmp_path: Path, s3: S3Server, s3_env: str, toy_model: str, unbroken: dict[str, bytes]
) -> None:
    with FaultProxy(s3.port) as proxy:
        job = Job(tmp_path, f"{s3_env}/expired", toy_model, s3, proxy.port)
        process = job.start()
        wait_for(lambda: job.committed() >= 4, process)
        proxy.expired = True
        said = job.end(process, 3)
        assert said.count("the keys have expired; renew AWS_SESSION_TOKEN") == 1, said
        proxy.expired = False
        before = job.committed()
        assert 4 <= before < ROWS
        assert f"{before} done, {ROWS - before} to make" in job.run()
    job.check(unbroken)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[tuple[S3Server, Callable[[], None], Callable[[], None]]]:
    """A server of this test's own, and what kills it and has it live again, on the same ports and data."""
    folder = tmp_path / "weed"
    folder.mkdir()
    process, server = _start(Path(sys.executable).with_name("weed"), folder)
    assert _answers(process, server)
    living = [process]

    def kill() -> None:
        _stop(living[-1])

    def revive() -> None:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        living.append(subprocess.Popen(process.args, cwd=folder, **quiet))

    yield server, kill, revive
    kill()


def test_a_server_that_dies_and_comes_back_costs_a_wait(
    tmp_path: Path, toy_model: str, unbroken: dict[str, bytes], mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kill, revive = mortal
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "1")  # of this process, which looks on
    job = Job(tmp_path, server.uri("x"), toy_model, server)
    job.env["DARKROOM_S3_PATIENCE"] = "120"
    process = job.start()
    wait_for(lambda: job.committed() >= 4, process)
    kill()
    time.sleep(10)
    revive()
    said = job.end(process)
    assert 1 <= said.count("does not answer (") <= 3, said  # the job and its workers are processes of their own
    assert said.count("answers again, after") >= 1, said
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "60")
    job.check(unbroken)
