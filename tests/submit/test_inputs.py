"""A manifest and its pictures on their way to a run: at the paths that were written, once."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from darkroom.manifest import ManifestError, read_rows
from darkroom.storage import NotFound, Store, join, open_store, read_uri
from darkroom.submit.inputs import upload
from runs import png, write_manifest

EDIT = {"task": "image_to_image", "prompt": "a one", "start": 1, "steps": 3}
HELD = [{"component": "low_pass", "image": "in/two.png"}, {"component": "high_pass", "prompt": "a two"}]
ROWS: list[dict[str, Any]] = [
    {**EDIT, "image": "in/one.png"},
    {**EDIT, "image": "./in/one.png"},
    {"task": "inpaint", "prompt": "a one", "image": "../beside/three.png", "mask": "mask.png", "steps": 2},
    {"task": "hybrid", "components": HELD, "steps": 2},
    {**EDIT, "image": "s3://elsewhere/four.png"},
    {**EDIT, "image": "in/none.png"},
]


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    home = open_store(str(tmp_path / "home"))
    for number, key in enumerate(("jobs/in/one.png", "jobs/in/two.png", "beside/three.png", "jobs/mask.png")):
        home.write(key, png(8, seed=number))
    return write_manifest(tmp_path / "home" / "jobs", ROWS)


def written(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys that are written from now on."""
    keys: list[str] = []
    write = type(store).write
    monkeypatch.setattr(type(store), "write", lambda self, key, data: (keys.append(key), write(self, key, data))[1])
    return keys


def test_every_path_leads_from_there_to_the_same_bytes(manifest: str, store_uri: str) -> None:
    there, missing = upload(manifest, store_uri)
    assert missing == ["in/none.png"]
    assert [row.data for row in read_rows(there)] == ROWS, "not a letter is changed: rows keep their keys"
    here, base = (uri.rpartition("/")[0] for uri in (manifest, there))
    for path in ("in/one.png", "./in/one.png", "../beside/three.png", "mask.png", "in/two.png"):
        assert read_uri(join(base, path)) == read_uri(join(here, path)), path
        assert join(base, path).startswith(f"{open_store(store_uri).root}/inputs/"), "it stays within the run"
    with pytest.raises(NotFound):
        read_uri(join(base, "in/none.png"))


@pytest.mark.parametrize("name", ["v1.2.prompts.txt", "v1.2.txt.gz"])
def test_a_name_keeps_what_says_its_format(name: str, tmp_path: Path, store_uri: str) -> None:
    content = b"a red seven\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    there, _ = upload(str(tmp_path / name), store_uri)
    assert [row.data for row in read_rows(there)] == [{"prompt": "a red seven"}]


def test_again_nothing_is_sent(manifest: str, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = upload(manifest, store_uri)
    sent = written(open_store(store_uri), monkeypatch)
    assert upload(manifest, store_uri) == first and sent == []


def test_other_words_are_sent_without_the_pictures(
    manifest: str, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = upload(manifest, store_uri)
    write_manifest(Path(manifest).parent, [{**row, "guidance": 3} for row in ROWS])
    sent = written(open_store(store_uri), monkeypatch)
    second, _ = upload(manifest, store_uri)
    assert [open_store(store_uri).uri(key) for key in sent] == [second]
    assert second != first and second.rpartition("/")[0] == first.rpartition("/")[0]


def test_another_picture_of_the_same_name_does_not_replace_the_one_that_a_job_may_be_reading(
    manifest: str, store_uri: str
) -> None:
    first, _ = upload(manifest, store_uri)
    open_store(str(Path(manifest).parent)).write("in/one.png", png(8, seed=99))
    second, _ = upload(manifest, store_uri)
    one, two = (read_uri(join(uri.rpartition("/")[0], "in/one.png")) for uri in (first, second))
    assert one == png(8, seed=0) and two == png(8, seed=99)


def test_absolute_paths_mean_nothing_elsewhere(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [{**EDIT, "image": "/data/one.png"}, {**EDIT, "image": "file:///data/two.png"}])
    with pytest.raises(ManifestError) as refused:
        upload(manifest, str(tmp_path / "run"))
    assert len(refused.value.problems) == 2
    assert "jobs.jsonl line 1: the picture /data/one.png: only this machine has it" in str(refused.value)
    assert not (tmp_path / "run").exists()
