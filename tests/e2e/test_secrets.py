"""Planted secrets are found nowhere: not in what is said, not in a run, not in its pages, not in Ray's logs."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import pytest
import ray

from conftest import S3Server
from darkroom import cli
from darkroom.batch.generate import Options, run
from darkroom.phases import redacted
from darkroom.report.page import write_report
from darkroom.storage import StorageError, open_store
from runs import RED, results, write_manifest

SECRET = "hunter2/Secret+Words99"
EDIT = {"task": "image_to_image", "prompt": "a one", "start": 0, "steps": 1}

REDACTED = {
    f"http://key:{SECRET}@host:9000/b": "http://host:9000/b",
    f"no Ray cluster at ray://me:{SECRET}@127.0.0.1:9: nothing": "no Ray cluster at ray://127.0.0.1:9: nothing",
    "'hf://hf_token12345@owner/name' names": "'hf://owner/name' names",
    "https://h/a.png?X-Amz-Expires=60&X-Amz-Signature=9f86&x=1": (
        "https://h/a.png?X-Amz-Expires=...&X-Amz-Signature=...&x=1"
    ),
    "registry://digits@v3 and hf://owner/name@rev, s3://bucket/a@b.png": (
        "registry://digits@v3 and hf://owner/name@rev, s3://bucket/a@b.png"
    ),
    "http://127.0.0.1:9000/x@y": "http://127.0.0.1:9000/x@y",
    "it was abc-from-the-environment once": "it was *** once",
}


@pytest.mark.parametrize("text", REDACTED)
def test_what_nobody_should_read_is_left_out(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc-from-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "it")  # too short to be one
    assert redacted(text) == REDACTED[text]


URI = f"s3://AKIA:{SECRET}@bucket/run"
GENERATE = ["generate", "jobs.jsonl", "--out", "run"]
COMMANDS = [
    ["generate", "jobs.jsonl", "--out", URI],
    ["generate", f"s3://AKIA:{SECRET}@bucket/a.jsonl", "--out", "run"],
    ["generate", f"https://me:{SECRET}@host/a.jsonl", "--out", "run"],
    [*GENERATE, "--model", URI],
    [*GENERATE, "--model", "hf://hf_hunter2token99@owner/name"],
    [*GENERATE, "--scorer", f"clip:https://me:{SECRET}@host/model"],
    [*GENERATE, "--embeddings", URI],
    [*GENERATE, "--inputs-root", URI],
    [*GENERATE, "--address", f"ray://me:{SECRET}@127.0.0.1:9"],
    [*GENERATE, "--verbose", "--model", URI],
    ["embed", "jobs.jsonl", "--model", "if-xs", "--out", URI],
    ["convert", f"https://me:{SECRET}@host/a.txt", "--out", "jobs.jsonl"],
    ["ingest", "folder", URI, "--out", "data"],
    ["train", "mnist-flow-class", "--data", URI, "--out", "model"],
    ["audit", URI],
    ["report", URI],
    ["doctor", URI],
    ["submit", "generate", "jobs.jsonl", "--out", URI, "--address", "http://127.0.0.1:9"],
    ["submit", *GENERATE[:2], "--out", "s3://bucket/run", "--address", f"http://me:{SECRET}@127.0.0.1:9"],
    ["jobs", "--address", f"http://me:{SECRET}@127.0.0.1:9"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command[0]} {command[-2]}"[:30])
def test_keys_in_addresses_are_said_nowhere(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And every such command ends at once, before anything is written."""
    write_manifest(tmp_path, [RED])
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["darkroom", *command])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = "".join(capfd.readouterr())
    assert stopped.value.code in (2, 3) and said
    assert SECRET not in said and "hunter2" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_of_the_environment_is_in_a_run(
    tmp_path: Path,
    toy_model: str,
    s3: S3Server,
    s3_env: str,
    shared_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    planted = {"HF_TOKEN": secrets.token_hex(16), "AWS_SESSION_TOKEN": ""}
    endpoint = f"http://{planted['HF_TOKEN']}:{SECRET.replace('/', '')}@127.0.0.1:{s3.port}"
    for name, value in {**planted, "AWS_ENDPOINT_URL_S3": endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = s3_env.rpartition("/")[0]
    rows = [{**RED, "id": "good"}, {**EDIT, "id": "gone", "image": f"{bucket}/none.png"}]
    said: list[str] = []
    given = {"model": toy_model, "inputs_root": (bucket,)}
    outcome = run(Options(manifest=write_manifest(tmp_path, rows), out=s3_env, **given), said.append)
    assert (outcome.made, outcome.failed) == (1, 1) and "there is no file" in results(s3_env)["gone"]["error"]
    write_report(s3_env)
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint.replace(str(s3.port), "9"))
    with pytest.raises(StorageError) as away:
        open_store(s3_env).read("run.json")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    hidden = [value.encode() for value in (s3.secret_key, planted["HF_TOKEN"], SECRET.replace("/", ""))]
    store, logs = open_store(s3_env), Path(ray._private.worker._global_node.get_session_dir_path())
    kept = {key: store.read(key) for key in store.list()}
    kept |= {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    kept |= {"said": "\n".join(said).encode(), "streams": "".join(capfd.readouterr()).encode()}
    kept["away"] = str(away.value).encode()
    assert len(kept) > 20 and any("index.html" in key for key in kept)
    assert [key for key, data in kept.items() if any(word in data for word in hidden)] == []
    assert os.environ["HF_TOKEN"] == planted["HF_TOKEN"]
