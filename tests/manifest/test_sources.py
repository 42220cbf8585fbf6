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
from darkroom.manifest.readers import read_chunks
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


def test_folders_that_links_lead_to_are_read_once(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for number, place in enumerate((top / "day1", top / ".store/day3", elsewhere / "deep")):
        place.mkdir(parents=True)
        (place / "a.jsonl").write_text(json.dumps(RED | {"seed": number}) + "\n")
    (tmp_path / "beside.jsonl").write_text(json.dumps(RED | {"seed": 9}) + "\n")
    links = {"day2": elsewhere, "day3": top / ".store/day3", "day0": top / "day1", ".latest": elsewhere / "deep"}
    links |= {"up": tmp_path, "self": top, "loop": top / "loop", "day1/back": top, "day2/up": tmp_path}
    links |= {"day2/deep/set": top, "day1/two": top / "day2"}
    for name, place in links.items():
        (top / name).symlink_to(place)
    names = ["day1/a.jsonl", "day2/deep/a.jsonl", "day3/a.jsonl"]
    assert [part.name for part in find_parts(str(top)).parts] == names and seeds(top) == [0, 2, 1]
    assert [part.name for part in find_parts(f"{top}/day[23]/*.jsonl").parts] == ["day3/a.jsonl"]
    assert seeds(f"{top}/day*/deep/a.*") == [2]
    assert seeds(f"{top}/day0/*.jsonl") == [0]


def test_a_glob_looks_into_no_folder_that_cannot_match(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, walk = [], os.walk

    def watched(*given, **options):
        for found in walk(*given, **options):
            looked.append(os.path.relpath(found[0], folder))
            yield found

    monkeypatch.setattr(os, "walk", watched)
    assert [part.name for part in find_parts(f"{folder}/*.csv").parts] == ["d.csv"] and looked == ["."]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers of a bucket with three pages of keys, each of which is noted by its prefix."""
    from darkroom.storage.s3 import S3Store

    answers: list[str] = []

    def pages(self, action, key, prefix):
        for keys in (
            ("sets/", "sets/day//a.jsonl", "sets/b.jsonl"),
            ("sets/c.jsonl",),
            ("sets/day2/c.jsonl", "sets/./d.csv"),
        ):
            answers.append(prefix)
            found = [key for key in keys if key.startswith(prefix)]
            yield {"Contents": [{"Key": key, "Size": 3, "ETag": '"x"'} for key in found]}

    monkeypatch.setattr(S3Store, "_pages", pages)
    return answers


def test_a_bucket_is_listed_once_and_from_where_a_glob_begins(bucket: list[str]) -> None:
    assert [part.key for part in find_parts("s3://bucket/sets/*2/c.json*").parts] == ["day2/c.jsonl"]
    assert [part.key for part in find_parts("s3://bucket/se*s/c.jsonl").parts] == ["sets/c.jsonl"]
    assert bucket == ["sets/"] * 3 + ["se"] * 3
    bucket.clear()
    assert len(find_parts("s3://bucket/sets").parts) == 3
    assert len(bucket) == 1 + 3, "one answer says that it is a folder"


def test_a_key_that_no_folder_could_have_is_refused(bucket: list[str]) -> None:
    source = find_parts("s3://bucket/sets/")
    assert [part.key for part in source.parts] == ["b.jsonl", "c.jsonl", "day2/c.jsonl"]
    assert [name for name, _ in source.unread] == ["./d.csv", "day//a.jsonl"]
    (problem,) = [row.problem for row in next(read_chunks(source, {})).rows()]
    assert problem.startswith("its key has an empty part, '.' or '..' between slashes")


def test_an_address_spells_a_blank_in_its_own_way(tmp_path: Path) -> None:
    place = tmp_path / "my jobs" / "a b.jsonl"
    place.parent.mkdir()
    place.write_text(json.dumps(RED | {"seed": 3}) + "\n")
    address = f"file://{tmp_path}/my%20jobs"
    assert place.as_uri() == f"{address}/a%20b.jsonl"
    for uri in (place.as_uri(), address, f"{address}/", f"{address}/a%20*.jsonl"):
        assert seeds(uri) == [3]
        assert find_parts(uri).base == str(place.parent)


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "jobs[1].jsonl").write_text(json.dumps(RED) + "\n")
    assert seeds(tmp_path / "jobs[1].jsonl") == [0]
    (tmp_path / "parts [2]").mkdir()
    (tmp_path / "jobs[1].jsonl").rename(tmp_path / "parts [2]/a.jsonl")
    for place in (tmp_path / "parts [2]", f"{tmp_path}/parts [2]/", f"file://{tmp_path}/parts%20[2]"):
        assert seeds(place) == [0], "a folder too"


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
