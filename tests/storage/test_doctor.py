"""What `darkroom doctor` finds, and that jobs hold to it: on servers that do what many do that are not AWS's."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import typer
from moto.server import ThreadedMotoServer

from darkroom.jobs import doctor as job
from darkroom.runs import Ledger, stage, to_table
from darkroom.storage import StorageError, open_store, s3
from darkroom.storage.doctor import at_start, examine
from darkroom.storage.findings import BAD, NOTE, OK
from darkroom.storage.lease import hold
from fake_s3 import FakeS3
from fault_proxy import FaultProxy
from runs import next_owner, result

EVERYTHING = {
    "reached", "addressing", "latency", "clock", "names", "listing", "conditional put", "checksums",
    "multi-object delete", "multipart",
}  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeS3]:
    """Starts a server with these quirks, for this test's stores."""
    with pytest.MonkeyPatch.context() as patch:
        servers = []

        def start(*quirks: str, **more: float) -> FakeS3:
            server = FakeS3(*quirks, **more).__enter__()
            servers.append(server)
            for name, value in server.env.items():
                patch.setenv(name, value)
            return server

        yield start
        for server in servers:
            server.__exit__()


@pytest.mark.parametrize(
    ("quirk", "of", "level", "says"),
    [
        ("wants md5", "", "", ""),
        ("no multi-delete", "multi-object delete", NOTE, "deleted one by one"),
        ("no multipart", "multipart", NOTE, "one put each, of 5 GB"),
        ("ignores md5", "checksums", NOTE, "audit"),
        ("ignores conditions", "conditional put", BAD, "If-None-Match where something is there"),
        ("ignores If-Match", "conditional put", BAD, "If-Match where something else is there"),
        ("refuses conditions", "conditional put", BAD, r"does not take a put with a condition \(NotImplemented\)"),
    ],
)
def test_what_a_server_lacks_is_found(
    served: Callable[..., FakeS3], quirk: str, of: str, level: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = served(quirk)
    with pytest.raises(typer.Exit) as stopped:
        job.main("s3://bucket/run")
    assert stopped.value.exit_code == (1 if level == BAD else 0)
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert {name for _, name, _ in lines} == EVERYTHING
    odd = [line for line in lines if line[0] != OK and line[1] != "latency"]
    assert [line[:2] for line in odd] == ([[level, of]] if of else [])
    assert all(re.search(says, line[2]) for line in odd)
    assert server.objects == {} and server.parts == {}, "it leaves nothing behind"


def test_a_job_says_at_its_start_what_is_odd_once(served: Callable[..., FakeS3]) -> None:
    server = served("no multi-delete", skew=-600)
    with hold(open_store("s3://bucket/run"), "a job", 30):
        server.requests.clear()
        clock, deletes = at_start("s3://bucket/run")
        assert at_start("s3://bucket/other") == []
    assert "behind this machine's" in clock.says and "one by one" in deletes.says
    assert [request for request in server.requests if "lease.json" not in request] == ["HEAD /bucket"]


def test_of_a_place_that_is_as_it_should_be_nothing_is_said(served: Callable[..., FakeS3], tmp_path: Path) -> None:
    served()
    with hold(open_store("s3://bucket/run"), "a job", 30):
        assert at_start("s3://bucket/run") == []
    assert [finding for finding in at_start(str(tmp_path / "run")) if finding.of != "free space"] == []
    assert not (tmp_path / "run").exists()


def test_a_clock_that_differs_is_told(served: Callable[..., FakeS3]) -> None:
    served(skew=-600)
    (clock,) = (finding for finding in examine("s3://bucket") if finding.of == "clock")
    assert clock.level == NOTE and "behind this machine's" in clock.says and "set the clock" in clock.says


def test_a_real_server_is_fit(s3_env: str) -> None:
    found = {finding.of: finding.level for finding in examine(s3_env) if finding.of != "latency"}
    assert found.keys() == EVERYTHING - {"latency"} and set(found.values()) == {OK}, found
    assert list(open_store(s3_env).list()) == []


def test_a_server_of_another_make_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {**FakeS3().env, "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}"}.items():
            monkeypatch.setenv(name, value)
        s3.server().client.create_bucket(Bucket="bucket")
        found = {finding.of: finding for finding in examine("s3://bucket/run")}
        assert not [finding for finding in found.values() if finding.level == BAD], found
        commit_and_clean("s3://bucket/run")
    finally:
        server.stop()


def test_a_folder_is_fit_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for folder in (tmp_path / "run", tmp_path / "to/be/made"):
        found = [finding for finding in examine(str(folder)) if finding.of != "free space"]
        assert {finding.level for finding in found} == {OK}, found
    assert os.listdir(tmp_path) == ["run"] and os.listdir(tmp_path / "run") == []


def test_a_folder_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*ignored: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    found = {finding.of: finding for finding in examine(str(tmp_path))}
    assert found["exclusive create"].level == BAD and "supports hard links" in found["exclusive create"].says


def test_a_wrong_uri_and_keys_that_expired_end_at_once(served: Callable[..., FakeS3], capsys) -> None:
    served("expired")
    for uri, code, says in (("s3:/bucket/x", 2, "did you mean s3://bucket/x"), ("s3://bucket/x", 3, "have expired")):
        with pytest.raises(typer.Exit) as stopped:
            job.main(uri)
        assert stopped.value.exit_code == code and says in capsys.readouterr().err


# ---- what jobs do about it


def table(*ids: str) -> pa.Table:
    return to_table([result({"id": name, "key": name * 8, "row": {"task": "text_to_image"}}) for name in ids])


def commit_and_clean(uri: str) -> None:
    """A run's life: two commits, of which the second makes a row of the first anew, a roll-up, another owner."""
    store = open_store(uri)
    with hold(store, "job", 30):
        next_owner(store).commit([stage(store, "u-1", table("x", "y"))])
        writer = next_owner(store)
        writer.commit([stage(store, "u-2", table("y", "z"))])
        writer.close()
    next_owner(store)
    assert Ledger(store).read().rows == 3
    assert list(store.list("staging/")) == [] and len(list(store.list("metadata/"))) == 2


@pytest.mark.parametrize("quirk", ["wants md5", "no multi-delete"])
def test_a_run_ends_well_where_deletes_want_another_form(served: Callable[..., FakeS3], quirk: str) -> None:
    server = served(quirk)
    commit_and_clean("s3://bucket/run")
    if quirk == "no multi-delete":
        assert sum("?delete" in request for request in server.requests) == 1, "it is asked once"


@pytest.mark.parametrize("quirk", ["ignores conditions", "ignores If-Match", "refuses conditions"])
def test_nobody_owns_anything_on_a_server_without_conditions(served: Callable[..., FakeS3], quirk: str) -> None:
    server = served(quirk)
    store = open_store("s3://bucket/run")
    says = "does not keep the conditions of a put: .* Two jobs could own one run"
    with pytest.raises(StorageError, match=says), hold(store, "job", 30):
        pytest.fail("held")
    store.write("champion", b"v1")
    with pytest.raises(StorageError, match=says):
        store.replace("champion", b"v1", b"v2")
    assert server.objects == {"bucket/run/champion": b"v1"}


def test_conditions_are_tried_once_for_a_bucket(served: Callable[..., FakeS3]) -> None:
    server = served()
    for number in range(3):
        assert open_store(f"s3://bucket/{number}").create("k", b"v")
    assert sum("probe-" in request for request in server.requests) > 0
    before = len(server.requests)
    assert open_store("s3://bucket/again").create("k", b"v")
    assert len(server.requests) == before + 1


def test_an_object_in_parts_survives_the_loss_of_any_answer(
    served: Callable[..., FakeS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_WHOLE", 2 * 2**20)
    monkeypatch.setattr(s3, "_PART", 2**20)
    server, data = served(), secrets.token_bytes(3 * 2**20 + 17)
    with FaultProxy(server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        for place in range(6):  # begin, four parts, end
            store = open_store(f"s3://bucket/{place}")
            proxy.script = [*[""] * place, "lost"]
            store.write("large", data)
            assert store.read("large") == data and proxy.done["lost"] == place + 1
    assert sum("partNumber" in request for request in server.requests) == 6 * 4 + 4
