"""Runs and trainings below a folder, on a folder and on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkroom.storage import open_store
from darkroom.studio.found_runs import MORE, find_runs

RUN = {"plan": "a", "manifest": {}, "model": {}, "options": {}}
TRAINING = {"kind": "training", "recipe": {"name": "mnist-flow-class"}}


def test_runs_are_found_at_any_depth_and_not_within_a_run(store_uri: str) -> None:
    store = open_store(store_uri)
    records = {"demo": RUN, "a/b/flow": TRAINING, "nightly/ticks/20261121T020000Z/training": TRAINING}
    for name, record in records.items():
        store.write(f"{name}/run.json", json.dumps(record).encode())
    store.write("demo/images/run.json", json.dumps(RUN).encode())
    store.write(".hidden/run.json", json.dumps(RUN).encode())
    store.write("half/run.json", b'{"kind": "trai')
    store.write("notes/words.txt", b"nothing")
    found = {one.name: one for one in find_runs(store_uri)}
    assert list(found) == ["a/b/flow", "demo", "half", "nightly/ticks/20261121T020000Z/training"]
    assert {name: one.record for name, one in found.items() if not one.problem} == records
    assert found["half"].problem == f"{store.uri('half/run.json')} is damaged: it is no record of a run"
    assert [name for name, one in found.items() if one.is_training] == ["a/b/flow", list(records)[2]]
    (itself,) = find_runs(store.uri("demo"))
    assert (itself.name, itself.uri, itself.record) == ("", store.uri("demo"), RUN)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "odd/run.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (found,) = find_runs(str(tmp_path))
    assert found.name == "odd" and found.problem == f"there is no run in {tmp_path}/odd: it has no run.json"
    assert find_runs(str(tmp_path / "nowhere")) == []


def test_what_is_too_much_to_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c/d", "e"):
        open_store(str(tmp_path)).write(f"{name}/run.json", json.dumps(RUN).encode())
    monkeypatch.setattr("darkroom.studio.found_runs.MOST", 5)
    *found, more = find_runs(str(tmp_path))
    assert [one.name for one in found] == ["a", "b", "e"] and more.name == MORE and not more.is_training
    assert more.problem.startswith(
        f"5 folders of {tmp_path} were looked into, 1 more were not, nor what lies below them"
    )
    monkeypatch.setattr("darkroom.studio.found_runs.MOST", 6)
    assert [one.name for one in find_runs(str(tmp_path))] == ["a", "b", "c/d", "e"]


@pytest.mark.parametrize("names", [["b", "a", "a/c"]])
def test_folders_and_files_are_those_directly_below(store_uri: str, names: list[str]) -> None:
    store = open_store(store_uri)
    for name in names:
        store.write(f"{name}/x/y.txt", b".")
    store.write("file.txt", b".")
    assert store.folders() == ["a", "b"] and store.folders("a") == ["c", "x"] and store.folders("a/x") == []
    assert store.folders("nowhere") == [] and store.folders("file.txt") == []
    assert (store.files(), store.files("a/x")) == (["file.txt"], ["y.txt"])
    assert store.files("a") == store.files("nowhere") == store.files("file.txt") == []
