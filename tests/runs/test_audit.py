from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from darkroom.runs import Ledger, latents_key, stage, to_table
from darkroom.runs.audit import LISTED, audit, fix
from darkroom.runs.log import LogDamaged
from darkroom.runs.maintenance import clean, compact
from darkroom.runs.reading import NoRun
from darkroom.storage import Store, image_key, open_store, video_key
from runs import commit, next_owner, png, result

IDS = ("a", "b", "c")


def line(name: str, **row: Any) -> dict[str, Any]:
    return {"id": name, "key": hashlib.md5(name.encode()).hexdigest(), "row": {"task": "text_to_image", **row}}


def finish(store: Store, names: tuple[str, ...], unit: str, status: str = "ok", error: str = "") -> None:
    """A unit of result rows, with their pictures where all is well."""
    rows = []
    for name in names:
        own = line(name)
        if status == "ok":
            key = image_key(name, own["key"])
            store.write(key, png(8))
            picture = {"image": {"bytes": None, "path": store.uri(key)}, "image_uri": store.uri(key)}
            rows.append(result(own, sha256=hashlib.sha256(png(8)).hexdigest(), **picture))
        else:
            rows.append(result(own, status, error=error))
    commit(store, unit, to_table(rows))


def begin(store: Store, names: tuple[str, ...] = IDS, limit: int | None = None) -> None:
    record = {"plan": "p", "options": {"limit": limit}, "manifest": {"rows": len(names)}, "model": {}}
    store.write("run.json", json.dumps(record).encode())
    store.write("manifest/p/000000.jsonl", "\n".join(json.dumps(line(name)) for name in names).encode())


@pytest.fixture
def run(tmp_path: Path) -> Store:
    """A whole run of three rows in two shards."""
    store = open_store(str(tmp_path / "run"))
    begin(store)
    finish(store, ("a", "b"), "p-000000")
    finish(store, ("c",), "p-000001")
    return store


def test_a_whole_run_passes(store_uri: str) -> None:
    store = open_store(store_uri)
    begin(store)
    finish(store, IDS, "p-000000")
    found = audit(store_uri)
    assert (found.passed, found.good, found.rows) == (True, 3, 3)
    assert found.text() == "3 of 3 manifest rows have exactly one good row and a whole picture"


def test_a_run_that_was_moved_is_still_whole(run: Store, tmp_path: Path) -> None:
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    shutil.move(run.root, elsewhere.root)
    found = audit(elsewhere.root)
    assert found.passed and found.notes[0].startswith("3 rows name their pictures where the run lay before")
    text, whole = compact(elsewhere.root)
    assert text.endswith("in 1 file now, in 2 before; 3 named their pictures where the run lay before") and whole
    assert audit(elsewhere.root).notes == [] and "named" not in compact(elsewhere.root)[0]
    data = load_dataset("parquet", data_files=f"{elsewhere.root}/metadata/*.parquet", cache_dir=str(tmp_path / "cache"))
    assert [picture.size for picture in data["train"]["image"]] == [(8, 8)] * 3


def test_inline_pictures_are_checked_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    begin(store, ("a", "b"))
    inline = {"bytes": png(8), "path": "images/x.png"}
    good = result(line("a"), sha256=hashlib.sha256(png(8)).hexdigest(), image=inline)
    commit(store, "p-000000", to_table([good, result(line("b"), sha256="0" * 64, image=inline)]))
    assert audit(str(tmp_path)).problems == ["the picture of row b is damaged: its SHA-256 is another"]


def test_failed_rows_say_why(run: Store) -> None:
    begin(run, (*IDS, "d"))
    finish(run, ("d",), "p-000002", "failed", "there is no file x.png")
    found = audit(run.root)
    assert (found.passed, found.good, found.rows) == (False, 3, 4)
    assert found.problems == ["row d failed: there is no file x.png"]


def test_missing_and_foreign_rows(run: Store) -> None:
    begin(run, ("a", "b", "z"))
    assert audit(run.root).problems == ["row z has 0 results, wanted 1", "the result c is no row of the manifest"]


def test_a_limited_job_leaves_other_rows_alone(run: Store) -> None:
    begin(run, ("a",), limit=1)
    assert audit(run.root).passed


def test_a_row_that_is_there_twice(run: Store) -> None:
    writer = next_owner(run)
    again = stage(run, "p-000009", to_table([result(line("a"), "failed", error="x")]))
    writer._replace([again], [])  # as two jobs at once could do before a run had one owner
    found = audit(run.root)
    assert found.problems == ["row a has 2 results, wanted 1"] and found.good == 2


def test_the_picture_of_an_earlier_manifest(run: Store) -> None:
    changed = [line("a"), {**line("b"), "key": "f" * 32}, line("c")]
    run.write("manifest/p/000000.jsonl", "\n".join(map(json.dumps, changed)).encode())
    assert audit(run.root).problems == ["row b has the picture of an earlier manifest"]


def test_a_picture_that_is_gone_or_damaged(run: Store) -> None:
    gone, damaged = (image_key(name, line(name)["key"]) for name in "ab")
    run.delete(gone)
    run.write(damaged, png(8)[:-1])
    found = audit(run.root)
    assert found.good == 1
    assert found.problems == [
        f"the picture of row a, {run.uri(gone)}, is gone",
        f"the picture of row b, {run.uri(damaged)}, is damaged: its SHA-256 is another",
    ]


def test_shards_that_are_strange_unpublished_or_lost(run: Store) -> None:
    shards = list(Ledger(run).read().shards)
    run.move(f"metadata/{shards[0]}", f"staging/{shards[0]}")
    run.delete(f"metadata/{shards[1]}")
    run.write("metadata/strange.0123456789ab.parquet", b"")
    run.write("metadata/theirs.parquet", b"")
    run.write("metadata/notes.txt", b"")
    found = audit(run.root)
    assert found.counts == {"unpublished": 1, "lost": 1, "stray": 1, "foreign file": 1} and found.good == 2
    assert f"{shards[1]}, committed with 1 row, is gone" in found.problems
    assert "metadata/strange.0123456789ab.parquet belongs to no commit: its rows do not count" in found.problems
    assert "metadata/notes.txt is no file of the run" in found.notes


def test_the_list_is_cut_and_the_rest_counted(run: Store) -> None:
    begin(run, (*IDS, *(f"m{n}" for n in range(LISTED + 7))))
    lines = audit(run.root).text().splitlines()
    assert len(lines) == 1 + LISTED + 1 and lines[-1] == "... and 7 more"


def test_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match=r"run\.json"):
        audit(str(tmp_path))


def test_a_manifest_of_no_rows_is_no_pass(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    begin(store, ())
    assert not audit(str(tmp_path)).passed


def test_what_is_lost_is_made_anew_by_the_next_job(run: Store) -> None:
    run.delete(image_key("a", line("a")["key"]))
    shard = list(Ledger(run).read().shards)[1]
    run.write(f"metadata/{shard}", run.read(f"metadata/{shard}")[:-9] + b"scrambled")
    assert fix(run.root) == f"2 rows of {run.root} are to be made anew: run its `darkroom generate` again"
    found = audit(run.root)
    assert found.good == 1 and found.counts == {"missing": 2}
    assert fix(run.root) == f"nothing in {run.root} is lost or damaged"


def test_damaged_files_are_not_merged_away(run: Store) -> None:
    """Nor are whole ones on both sides of them left unmerged."""
    finish(run, ("d",), "p-000002")
    begin(run, (*IDS, "d"))
    first, damaged, last = Ledger(run).read().shards
    scrambled = run.read(f"metadata/{damaged}")[:-9] + b"scrambled"
    run.write(f"metadata/{damaged}", scrambled)
    text, whole = compact(run.root)
    left = "1 file is damaged and was left alone, see `darkroom audit --fix`"
    assert text == f"4 rows of {run.root}, in 2 files now, in 3 before; {left}" and not whole
    assert run.read(f"metadata/{damaged}") == scrambled
    assert audit(run.root).counts == {"damaged": 1} and compact(run.root)[1] is False
    assert fix(run.root).startswith("1 row of ") and compact(run.root) == (
        f"3 rows of {run.root}, in 1 file now, in 1 before",
        True,
    )


def test_a_row_that_is_there_twice_is_made_anew_and_then_merged(run: Store) -> None:
    """As two jobs at once could do before a run had one owner."""
    finish(run, ("d",), "p-000002")
    next_owner(run)._replace([stage(run, "p-000009", to_table([result(line("a"))]))], [])
    text, whole = compact(run.root)
    twice = "1 row is there twice: run its `darkroom generate` again"
    assert text == f"5 rows of {run.root}, in 3 files now, in 4 before; {twice}" and not whole
    finish(run, ("a",), "p-000003")
    assert compact(run.root) == (f"4 rows of {run.root}, in 1 file now, in 3 before", True)


def test_a_file_that_is_gone_is_said(run: Store) -> None:
    run.delete(f"metadata/{next(iter(Ledger(run).read().shards))}")
    text, whole = compact(run.root)
    assert text.endswith("in 1 before; 1 file is gone: run its `darkroom generate` again") and not whole


@pytest.mark.parametrize("harm", ["all gone", "a roll-up gone", "a roll-up damaged"])
def test_a_log_that_is_lost_is_made_anew_from_the_results(run: Store, harm: str) -> None:
    compact(run.root)
    next_owner(run)  # whose record comes after the roll-up
    rollups = [key for key in run.list("commits/") if key.endswith(".rollup.parquet")]
    if harm == "a roll-up damaged":
        run.write(rollups[0], b"PAR1")
    else:
        run.delete(*(run.list("commits/") if harm == "all gone" else rollups))
    before = list(run.list())
    for touch in (audit, compact, lambda uri: clean(uri, remove=True), lambda uri: clean(uri, remove=False)):
        with pytest.raises(LogDamaged):
            touch(run.root)
    assert [key for key in run.list() if key != "lease.json"] == [key for key in before if key != "lease.json"]
    assert fix(run.root).endswith(f"made anew from metadata/\nnothing in {run.root} is lost or damaged")
    found = audit(run.root)
    assert found.passed and found.good == 3


def test_files_of_others_stay_where_they_are(run: Store) -> None:
    theirs = {"metadata/notes.txt": b"mine", "commits/.DS_Store.json": b"Bud1", "commits/notes": b"mine"}
    for key, data in theirs.items():
        run.write(key, data)
    compact(run.root)
    clean(run.root, remove=True)
    found = audit(run.root)
    assert found.passed and "metadata/notes.txt is no file of the run" in found.notes
    assert {key: run.read(key) for key in theirs} == theirs


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"plan": "p"}'])
def test_a_damaged_record_of_the_run_is_said(run: Store, content: bytes) -> None:
    run.write("run.json", content)
    with pytest.raises(NoRun, match=r"run\.json is damaged: it is no record of a run"):
        audit(run.root)


def test_a_part_of_the_manifest_that_is_gone_or_damaged_is_no_pass(run: Store) -> None:
    run.write("manifest/p/000001.jsonl", b"{")
    assert audit(run.root).counts == {"manifest": 1}
    run.delete("manifest/p/000000.jsonl", "manifest/p/000001.jsonl")
    found = audit(run.root)
    assert found.counts["manifest"] == 1 and "0 of the 3 rows of its manifest lie in" in found.problems[0]


def filmed(store: Store, name: str) -> tuple[dict[str, Any], str]:
    """A good row with a video beside its first frame, and the video's key."""
    own = line(name, task="text_to_video")
    key, mp4 = video_key(name, own["key"]), f"the video of {name}".encode()
    store.write(key, mp4)
    store.write(image_key(name, own["key"]), png(8))
    uri = store.uri(image_key(name, own["key"]))
    video = {"video_uri": store.uri(key), "video_sha256": hashlib.sha256(mp4).hexdigest(), "frames": 9, "fps": 8}
    picture = {"image": {"bytes": None, "path": uri}, "image_uri": uri, "sha256": hashlib.sha256(png(8)).hexdigest()}
    return result(own, **picture, **video), key


def test_a_video_is_looked_at_and_made_anew(store_uri: str) -> None:
    store = open_store(store_uri)
    begin(store)
    rows, keys = zip(*(filmed(store, name) for name in IDS), strict=True)
    commit(store, "p-000000", to_table(list(rows)))
    assert audit(store_uri).passed and "nothing in" in clean(store_uri, remove=True)
    store.delete(keys[0])
    store.write(keys[1], b"half of it")
    found = audit(store_uri)
    assert (found.good, found.counts["picture"]) == (1, 2)
    assert f"the video of row a, {store.uri(keys[0])}, is gone" in found.text()
    assert f"the video of row b, {store.uri(keys[1])}, is damaged" in found.text()
    assert "2 rows of" in fix(store_uri)


def test_latents_stay_until_their_row_is_made(store_uri: str) -> None:
    store = open_store(store_uri)
    begin(store)
    row, _ = filmed(store, "a")
    commit(store, "p-000000", to_table([row, result(line("b"), "failed", error="no decoder")]))
    for name in IDS:
        store.write(latents_key(line(name)["key"]), b"latents")
    assert "removed 1 object" in clean(store_uri, remove=True)
    assert [store.exists(latents_key(line(name)["key"])) for name in IDS] == [False, True, True]


def test_a_run_that_was_moved_has_its_videos(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    begin(store, ("a",))
    row, key = filmed(store, "a")
    commit(store, "p-000000", to_table([row]))
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert audit(str(moved)).passed
    compact(str(moved))
    ledger = Ledger(open_store(str(moved)))
    (shard,) = ledger.read().shards.values()
    assert ledger.table(shard)["video_uri"].to_pylist() == [open_store(str(moved)).uri(key)]
