"""The job on Ray, as a command, and a data set on its way to a hub: a small server that speaks its language."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from darkroom.export import job
from darkroom.export.job import _at_once, export
from darkroom.jobs import export as command
from darkroom.storage import StorageError, open_store
from exports import export_here, make_run, options_of
from loopback import Loopback
from runs import tree

TOKEN = "hf_that_may_write"


def run_command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_shards_on_ray_are_those_of_this_process(shared_ray: None, s3_env: str, tmp_path: Path) -> None:
    run = make_run(f"{s3_env}/run")
    here, there = options_of(run, tmp_path / "here", "webdataset"), options_of(run, f"{s3_env}/there", "webdataset")
    export_here(here)
    lines: list[str] = []
    done = export(there, lines.append)
    assert (done.rows, done.written, len(done.receipts)) == (20, 4, 4) and done.bytes > 40_000
    store = open_store(f"{s3_env}/there")
    shards = [key for key in tree(tmp_path / "here") if key.startswith("data/")]
    assert list(store.list("data/")) == shards
    assert all(store.read(key) == (tmp_path / "here" / key).read_bytes() for key in shards)
    assert export(there, lines.append).written == 0
    assert lines[-1].endswith("4 shards (12 train, 8 test), 4 there already")
    store.delete("data/test-00000.tar")
    for picture in open_store(run).list("images/"):
        open_store(run).write(picture, b"no picture")
    with pytest.raises(StorageError, match="the picture of the row 'folder/row .*' is damaged"):
        export(there, lines.append)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--format", "tfrecord", "--out", "OUT"], "--format is 'tfrecord', wanted webdataset, imagefolder"),
        (["OUT", "--format", "parquet", "--out", "OUT"], "there is no run in"),
        (["RUN", "--format", "parquet", "--out", "OUT", "--where", "sede > 1"], "did you mean 'seed'?"),
        (["RUN", "--format", "parquet", "--out", "OUT", "--split", "train=0.5"], "are 0.5 together, wanted 1"),
        (["RUN", "--format", "parquet", "--out", "OUT", "--push", "demo"], "--push is 'demo', wanted OWNER/NAME"),
        (["RUN", "--format", "parquet", "--out", "OUT", "--push", "a/b"], "--push wants a token of the hub"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "out"
    code, text = run_command(*(word.replace("RUN", run).replace("OUT", str(out)) for word in arguments))
    assert code == 2 and said in text and "Traceback" not in text and not out.exists()


def test_tasks_at_once_fit_the_memory() -> None:
    cluster = {"CPU": 16.0, "memory": 64e9}
    assert _at_once(cluster, 10**9) == 11 and _at_once(cluster, 10**8) == 16
    assert _at_once({"CPU": 2.0, "memory": 1e9}, 10**9) == 1


class Hub(Loopback):
    """Data sets, by name; each its files by path. commits: paths of each. refuses: every write."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.created: list[dict[str, object]] = []
        self.refuses = False
        super().__init__(_Handler, "hub")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:  # noqa: N802
        if "/tree/" not in self.path:
            return self._answer({}, 404)
        self._answer(
            [
                {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
                for path, data in self.hub.files.items()
            ]
        )

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.refuses or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "no"}, 403)
        if self.path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            return self._answer({"url": f"{self.hub.url}/datasets/owner/demo"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._answer({"files": modes})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        self.hub.files |= {path: base64.b64decode(content) for path, content in files.items()}
        self.hub.commits.append(sorted(files))
        self._answer({"commitUrl": f"{self.hub.url}/datasets/owner/demo/commit/0", "commitOid": "0" * 40})

    def _answer(self, told: object, status: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *ignored: object) -> None:
        pass


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {})  # else it is asked for, and kept
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.mark.parametrize("format", ["huggingface", "imagefolder"])
def test_a_finished_export_is_pushed_shard_by_shard_and_its_card_last(
    run: str, tmp_path: Path, hub: Hub, format: str
) -> None:
    out = tmp_path / "out"
    options = options_of(run, out, format, push="owner/demo")
    export_here(options)
    lines: list[str] = []
    done = export(options, lines.append)  # every shard is there: no Ray
    assert done.written == 0 and [asked["visibility"] for asked in hub.created] == ["private"]
    public = {name: (out / name).read_bytes() for name in tree(out) if not name.startswith(".export/")}
    assert hub.files == public
    assert len(hub.commits) == 5 and hub.commits[-1] == ["README.md", "croissant.json"]
    lost = next(key for key in hub.files if key.startswith(("data/test", "test/00000/metadata")))
    del hub.files[lost]
    export(options, lines.append)
    assert hub.files == public and len(hub.commits) == 7, "one shard, and the card"
    assert TOKEN not in "".join(lines) + "".join(data.decode("latin-1") for data in public.values())


def test_nothing_unfinished_and_nothing_of_others_is_pushed(
    run: str, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(run, tmp_path / "out", "parquet", push="owner/demo")

    def stops(*ignored: object) -> Iterator[job.Receipt]:
        raise StorageError("the disk is full")
        yield

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="the disk is full"):
        patch.setattr(job, "_on_ray", stops)
        export(options, print)
    assert not hub.commits and not hub.created
    export_here(options)
    hub.files["data/of-another.parquet"] = b"else"
    with pytest.raises(ValueError, match="owner/demo holds other files, such as data/of-another.parquet: wanted a new"):
        export(options, print)
    hub.refuses = True
    with pytest.raises(ValueError, match=r"the hub refuses owner/demo \(403\): HF_TOKEN must be allowed to write"):
        export(options, print)
    assert not hub.commits
