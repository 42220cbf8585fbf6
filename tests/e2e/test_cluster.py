"""A real cluster of three nodes with a token and a real S3 server: who may come in, and what a submitted job survives.

The same with the embedded model, with trainings and with a replacement is in test_cluster_in_full.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

from clusters import Field, field_of, planted, python
from conftest import S3Server
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from darkroom.submit.nodes import members
from darkroom.submit.request import prepare
from darkroom.submit.submission import Running, copied, copied_jobs
from runs import RED, png, results, write_manifest

WRONG = "0" * 64
SEVEN = {"task": "text_to_image", "label": 7, "steps": 30}
EDIT = {"task": "image_to_image", "label": 2, "image": "in/one.png", "start": 5, "steps": 30}
DRIVER = """
import sys, ray
ray.init(sys.argv[1], logging_level="error", log_to_driver=False)
print("came in:", len(ray.nodes()))
"""


@pytest.fixture(scope="module")
def ground(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with field_of(tmp_path_factory.mktemp("field"), s3, workers=2, cpus=1) as ground:
        yield ground


@pytest.fixture(scope="module")
def drivers(ground: Field) -> dict[str, subprocess.Popen[str]]:
    """Programs that try to join; Ray lets them wait for 20 seconds, in which others test."""
    token = Path(ground.local.folder, "token").read_text()
    none = {"RAY_AUTH_MODE": "disabled"}  # else Ray takes the one in the user's home
    wrong, right = ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": text} for text in (WRONG, token))
    tries = {"without": none, "wrong": wrong, "right": right}
    return {name: python(DRIVER, ground.local.address, **given) for name, given in tries.items()}


def ask(ground: Field, method: str, path: str, token: str | None, body: Any = None) -> int:
    """The HTTP status that the dashboard answers with."""
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ground.local.dashboard + path, data, headers, method=method)
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.usefixtures("drivers")
def test_each_node_has_an_address_of_its_own_and_the_token_is_its_owners(ground: Field) -> None:
    addresses = [node.address for node in ground.local.nodes]
    assert len(set(addresses)) == 3 and set(addresses) <= set(members(ground.local))
    token = Path(ground.local.folder, "token")
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    for node in ground.local.nodes:
        command = Path(f"/proc/{node.pid}/cmdline").read_text()
        assert token.read_text() not in command, "anybody on the machine can read that"


def test_requests_without_the_token_are_refused(ground: Field) -> None:
    right = Path(ground.local.folder, "token").read_text()
    job = {"entrypoint": "touch /tmp/should-not-be-there", "submission_id": "intruder"}
    requests = [
        ("GET", "/api/jobs/", None),
        ("POST", "/api/jobs/", job),
        ("GET", "/api/version", None),
        ("GET", "/nodes?view=summary", None),
        ("GET", "/api/v0/actors", None),
        ("GET", "/api/v0/logs?node_ip=127.0.0.2", None),
        ("PUT", "/api/packages/gcs/_ray_pkg_0123456789abcdef.zip", {}),
    ]
    for method, path, body in requests:
        assert ask(ground, method, path, None, body) == 401, (method, path)
        assert ask(ground, method, path, WRONG, body) == 403, (method, path)
    assert [ask(ground, "GET", path, right) for path in ("/api/jobs/", "/api/version", "/api/v0/actors")] == [200] * 3
    assert "intruder" not in [one.submission_id for one in ground.api.jobs()]


@pytest.mark.parametrize(("token", "code"), [(None, "UNAUTHENTICATED"), (WRONG, "UNAUTHENTICATED"), ("right", "OK")])
def test_ray_client_without_the_token_is_refused(ground: Field, token: str | None, code: str) -> None:
    """By the first call that every client makes, since a whole client starts a server of its own."""
    if token == "right":
        token = Path(ground.local.folder, "token").read_text()
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(ground.local.client.removeprefix("ray://"), [("grpc.enable_http_proxy", 0)]) as channel:
        ping = ClusterInfoRequest(type=ClusterInfoType.PING)
        call = RayletDriverStub(channel).ClusterInfo.with_call
        try:
            answered = call(ping, metadata=metadata, timeout=30)[1].code()
        except grpc.RpcError as error:
            answered = error.code()
    assert answered.name == code


@pytest.fixture(scope="module")
def run(ground: Field, s3: S3Server) -> str:
    return s3.uri("cluster/run")


def test_a_run_survives_the_loss_of_a_node_and_tells_nobody_a_secret(
    ground: Field, run: str, toy_network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = planted(monkeypatch)
    open_store(str(tmp_path)).write("in/one.png", png(28))
    rows = [{**SEVEN, "id": f"r{n}", "seed": n} for n in range(16)] + [{**EDIT, "id": "edit"}]
    manifest = write_manifest(tmp_path, rows)
    asked = ["--out", run, "--model", toy_network, "--workers", "2", "--capacity", "2", "--unit-rows", "2"]
    name = ground.submit("generate", manifest, *asked)
    second = ground.api.submit(prepare("generate", [manifest, *asked], shared=False), None, 0, image_code=False)
    assert (second.id, second.new) == (name, False), "submitted twice, it is there once"
    with pytest.raises(Running, match="was asked something else"):
        ground.submit("generate", manifest, *asked, "--limit", "3")
    # Another job lets it go first, and is stopped before its turn comes.
    other = ground.submit("audit", run, priority=-1)
    ground.wait_for(
        other, lambda: f"{other} waits for {name}" in ground.api.log(other), 120, "the lower priority to wait"
    )
    assert ground.api.stop(other).status == "STOPPED"
    assert json.loads(copied(run, other, "status.json"))["status"] == "stopped"

    ground.wait_for(name, lambda: list(open_store(run).list("metadata/")), 600, "the first commit")
    ground.lose(ground.workers()[0])
    assert len(results(run)) < len(rows), "it was lost in the middle"
    code = ground.follow(name)
    assert code == 0, ground.said[name]
    assert audit(run).passed and results(run)["edit"]["source_uri"].startswith(f"{run}/inputs/")
    assert [node.name for node in ground.workers()] == ["worker-2"], "nobody took the lost one's place"

    kept = copied(run, name, "log.txt")
    assert "17/17 rows committed" in kept and kept in ground.said[name]
    assert {one["id"]: one["status"] for one in copied_jobs(run)} == {name: "done", other: "stopped"}
    where = {"details": repr(ground.api.jobs()), "log": ground.said[name]}
    store = open_store(run)
    where |= {key: store.read(key).decode("latin-1") for key in store.list()}
    places = [(place, key) for place, text in where.items() for key, value in secret.items() if value in text]
    assert places == []
    storage = [key for key, text in where.items() if os.environ["AWS_SECRET_ACCESS_KEY"] in text]
    assert storage == [], "nor the storage key, which the nodes do have"


def test_a_jobs_exit_code_is_its_own(ground: Field, run: str) -> None:
    """Ray's own tools end with 1 whatever the job ended with."""
    first = ground.submit("audit", f"{run}-that-is-not-there")
    assert ground.follow(first) == 2, ground.said[first]
    assert "run.json" in ground.said[first]
    with pytest.raises(ValueError, match="knows no such job"):
        ground.api.stop("nothing")


@pytest.mark.slow  # test_told_gpus.py has nodes apart too, which no job was sent to
def test_stages_run_on_the_nodes_that_are_set_apart_for_them(
    ground: Field, s3: S3Server, toy_model: str, tmp_path: Path
) -> None:
    for stage in ("stage1", "stage2"):
        ground.gain(1, stage)
    home = {stage: node.address for node in ground.workers() for stage in node.stages}
    manifest = write_manifest(tmp_path, [{**RED, "id": f"r{n}", "seed": n, "size": 16} for n in range(4)])
    before = ground.stage_actors(living=False)
    name = ground.submit("generate", manifest, "--out", s3.uri("cluster/apart"), "--model", toy_model)
    assert ground.follow(name) == 0, ground.said[name]
    found = [actor for actor in ground.stage_actors(living=False) if actor not in before]
    asked = {mark: address for address, resources in found for mark in resources if mark in home}
    assert asked == home and len(found) == 2


def test_drivers_without_the_token_are_refused(drivers: dict[str, subprocess.Popen[str]]) -> None:
    said = {name: process.communicate(timeout=120)[0] for name, process in drivers.items()}
    assert drivers["right"].returncode == 0 and "came in: " in said["right"], said["right"]
    for name in ("without", "wrong"):
        assert drivers[name].returncode == 1 and "InvalidAuthToken" in said[name] and "came in" not in said[name], said
