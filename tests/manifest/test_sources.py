"""Manifests of several files, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.manifest import Abilities, ManifestError, open_manifest, read_rows
from darkroom.manifest.sources import find_parts

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
RED = {"task": "text_to_image", "prompt": "a red seven"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three parts of three formats, and files beside them that are none."""
    top = tmp_path / "parts"
    (top / "b").mkdir(parents=True)
    (top / "a.jsonl").write_text(json.dumps(RED | {"id": "a", "seed": 1}) + "\n")
    pq.write_table(pa.table({"task": ["text_to_image"] * 2, "prompt": ["x", "y"], "seed": [2, 3]}), top / "b/c.parquet")
    (top / "d.csv").write_text("task,prompt,seed\ntext_to_image,z,4\n")
    for name in ("_SUCCESS", "_metadata.parquet", ".d.csv.crc", "notes.txt"):
        (top / name).write_text("not a part")
    return top


def seeds(uri: Path | str) -> list[int]:
    return [task.seed for task in open_manifest(str(uri), TEXT).tasks()]


def test_a_folder_is_its_parts_in_order(folder: Path) -> None:
    manifest = open_manifest(str(folder), TEXT)
    assert (manifest.rows, manifest.base) == (4, str(folder)), "paths start from the folder"
    assert seeds(folder) == seeds(f"{folder}/") == [1, 2, 3, 4]


def test_a_glob_takes_what_it_matches(folder: Path) -> None:
    assert seeds(f"{folder}/*.csv") == [4]
    assert seeds(f"{folder}/b/*") == [2, 3]
    assert seeds(f"{folder}/*/*.parquet") == [2, 3]
    assert open_manifest(f"{folder}/*/*.parquet", TEXT).base == str(folder)


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "jobs[1].jsonl").write_text(json.dumps(RED) + "\n")
    assert seeds(tmp_path / "jobs[1].jsonl") == [0]


def test_the_digest_is_of_all_parts_and_their_names(folder: Path) -> None:
    names = ("a.jsonl", "b/c.parquet", "d.csv")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()} {name}\n" for name in names]
    assert open_manifest(str(folder), TEXT).digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    one = open_manifest(str(folder / "d.csv"), TEXT)
    assert one.digest == hashlib.sha256((folder / "d.csv").read_bytes()).hexdigest()


def test_problems_of_all_parts_are_reported_with_the_part(folder: Path) -> None:
    (folder / "a.jsonl").write_text(json.dumps(RED | {"seed": -1, "id": "a"}) + "\n")
    (folder / "e.jsonl").write_text("{\n" + json.dumps(RED | {"id": "a"}) + "\n")
    with pytest.raises(ManifestError) as caught:
        open_manifest(str(folder), TEXT)
    first, second, third = caught.value.problems
    assert first == "a.jsonl line 1: 'seed' must be at least 0, was -1"
    assert second.startswith("e.jsonl line 1: not a JSON object")
    assert third == "e.jsonl line 2: the id 'a' is given twice, first in a.jsonl line 1"


def test_a_folder_without_parts_and_one_with_yaml(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"with files of .jsonl, .ndjson, .parquet, .csv, .tsv; there is none"):
        open_manifest(str(tmp_path), TEXT)
    (tmp_path / "demo.yaml").write_text("rows: []")
    (tmp_path / "a.jsonl").write_text(json.dumps(RED) + "\n")
    with pytest.raises(ManifestError, match="demo.yaml: a YAML manifest is a file of its own"):
        open_manifest(str(tmp_path), TEXT)


@pytest.mark.parametrize("name", ["a.jsonl", "a.yaml", "a.csv", "a.parquet"])
def test_what_is_no_file_is_not_read(name: str, tmp_path: Path) -> None:
    """A pipe would wait for its writer, a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/tty")):
        place = tmp_path / f"{target.name}-{name}"
        place.symlink_to(target)
        with pytest.raises(ManifestError, match=f"{place.name}: could not read .*: it is no file"):
            open_manifest(str(place), TEXT)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.jsonl").write_text(json.dumps(RED) + "\n")
    os.mkfifo(folder / "pipe.jsonl")
    with pytest.raises(ManifestError, match=r"pipe\.jsonl: could not read .*: it is no file"):
        open_manifest(str(folder), TEXT)


def test_a_name_in_another_spelling_of_its_accents_is_told(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "café.jsonl")).write_text(json.dumps(RED) + "\n")
    with pytest.raises(ManifestError, match="nothing is there; what is there by these letters has its accents spelt"):
        open_manifest(str(tmp_path / unicodedata.normalize("NFC", "café.jsonl")), TEXT)


def test_a_damaged_part_hides_none_of_the_others(folder: Path) -> None:
    (folder / "b/c.parquet").write_bytes(b"PAR1 not at all")
    rows = list(read_rows(str(folder)))
    assert [row.where for row in rows] == ["a.jsonl line 1", "b/c.parquet", "d.csv line 2"]


def test_parts_and_problems_are_the_same_in_a_bucket(folder: Path, s3_env: str) -> None:
    from darkroom.storage import open_store

    store = open_store(f"{s3_env}/parts")
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    here, there = open_manifest(str(folder), TEXT), open_manifest(f"{s3_env}/parts", TEXT)
    assert (there.digest, there.rows, there.base) == (here.digest, 4, f"{s3_env}/parts")
    assert seeds(f"{s3_env}/parts/b/*.parquet") == [2, 3]
    assert find_parts(f"{s3_env}/parts/d.csv").alone and seeds(f"{s3_env}/parts/d.csv") == [4]
    with pytest.raises(ManifestError, match=r"none\.csv: could not read .*none\.csv: nothing is there"):
        open_manifest(f"{s3_env}/parts/none.csv", TEXT)
