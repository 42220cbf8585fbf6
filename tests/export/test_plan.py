"""Which rows an export holds, and where."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from darkroom.export.cards import _size_category
from darkroom.export.plan import ExportOptions, RowFilter, _shards, make_plan, read_size, read_splits
from darkroom.runs import Ledger, to_table
from darkroom.storage import open_store
from exports import make_run, options_of, row
from runs import commit


def ids(options: ExportOptions) -> dict[str, list[str]]:
    """Of the planned rows, by split, in their order."""
    store = open_store(options.run)
    plan, found = make_plan(options, store), dict[str, list[str]]()
    for shard in plan.shards:
        for piece in shard.pieces:
            for table in Ledger(store).rows(plan.files[piece.file], piece.places):
                found.setdefault(shard.split, []).extend(table["id"].to_pylist())
    return found


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("seed < 3", [0, 1, 2]),
        ("text = 'a blue two' OR alignment > 0.4", [1, 3, 6, 11, 16]),
        ("negative_prompt IS NULL AND width BETWEEN 9 AND 16 AND seed >= 15", [15, 17, 19]),
        ("prompts LIKE '%Maß%' AND parameters ->> 'seed' = 8", [8]),
        ("scores ->> 'scorer' = 'clip' -- a remark", [3]),
        ("text != 'a \"sede\" it''s' AND \"seed\" < 2", [0, 1]),
        ('[width] > 0 /* "sede" */ AND "rows".`seed` < 2 -- "sede"', [0, 1]),
    ],
)
def test_a_condition_of_sql_chooses_rows(run: str, where: str, numbers: list[int]) -> None:
    found = ids(options_of(run, "nowhere", "parquet", where=where, splits=(("train", 1.0),)))
    assert found == {"train": [f"folder/row {number}" for number in numbers]}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("sede = 3", "no such column: sede, did you mean 'seed'"),
        ('"sede" = 3', "no such column: sede, did you mean 'seed'"),
        ('NOT "aligment" > 0.4', "no such column: aligment, did you mean 'alignment'"),
        ('task = "anagram"', "no such column: anagram; a text stands in single quotes"),
        ('text = "a ""blue"" `two"', 'no such column: a "blue" `two; a text'),
        ("seed = ", "syntax error"),
        ("seed > (SELECT avg(seed) FROM rows)", "of a row's columns alone"),
        ("1) UNION SELECT 1 WHERE (1", "of a row's columns alone"),
        ("random() > 0", "of a row's columns alone"),
        ("1); DROP TABLE rows; --", "one statement at a time"),
    ],
)
def test_a_condition_that_is_none_is_refused(where: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"--where .*{said}.*; wanted a condition of SQL over text, id, key"):
        RowFilter(where)


def test_a_split_without_rows_is_none(run: str) -> None:
    options = options_of(run, "nowhere", "parquet", where="seed = 0", splits=(("train", 0.999), ("test", 0.001)))
    assert make_plan(options, open_store(run)).facts.splits == {"train": 1}


def test_no_row_is_nothing_to_export(run: str) -> None:
    with pytest.raises(ValueError, match="has no picture for which 'seed > 99' is true: nothing to export"):
        make_plan(options_of(run, "nowhere", "parquet", where="seed > 99"), open_store(run))


def test_each_good_row_lies_in_one_split_and_stays_there_as_the_run_grows(run: str) -> None:
    options = options_of(run, "nowhere", "parquet")
    before = ids(options)
    assert sorted(sum(before.values(), [])) == sorted(f"folder/row {number}" for number in range(20))
    commit(open_store(run), "third", to_table([row(number, run) for number in range(20, 200)]))
    after = ids(options)
    assert all(set(before[split]) <= set(after[split]) for split in before)
    assert 0.6 < len(after["train"]) / 200 < 0.8


def test_rows_of_one_key_are_one_picture_and_lie_in_one_split(tmp_path: Path) -> None:
    uri = make_run(str(tmp_path / "run"), 2)
    same = [row(number, uri) | {"key": "a" * 32} for number in range(10, 40)]
    commit(open_store(uri), "same", to_table(same))
    found = ids(options_of(uri, "nowhere", "parquet", where="seed >= 10"))
    assert [len(rows) for rows in found.values()] == [30]


def test_shards_are_about_as_large_as_was_asked_for(run: str) -> None:
    # Pictures of noise: 8 pixels are 0.3 kB, 16 are 0.9; a row is 0.4 kB more. About 20 kB are four shards of 5 kB.
    plan = make_plan(options_of(run, "nowhere", "parquet", splits=(("train", 1.0),)), open_store(run))
    assert [shard.number for shard in plan.shards] == [0, 1, 2, 3] and {shard.of for shard in plan.shards} == {4}
    assert sum(shard.rows for shard in plan.shards) == 20
    assert all(np.all(np.diff(piece.places) > 0) for shard in plan.shards for piece in shard.pieces)


@pytest.mark.parametrize("shard_bytes", [10**8, 123_456_789, 2**30])
def test_no_folder_has_more_files_than_the_hub_takes(shard_bytes: int) -> None:
    """Of pictures so small that their number alone counts; and metadata.jsonl lies beside them."""
    parts = [(np.arange(60_000, dtype=np.int32), np.full(60_000, 64), np.zeros(60_000, np.int8))]
    options = ExportOptions("run", "out", "imagefolder", shard_bytes=shard_bytes)
    rows = [shard.rows for shard in _shards(options, ["file"], parts, 0.0)]
    assert max(rows) + 1 <= 10_000 and sum(rows) == 60_000


@pytest.mark.parametrize(
    ("rows", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (10**7, "10M<n<100M"), (10**9, "1B<n<10B")],
)
def test_a_size_is_one_of_the_hubs(rows: int, category: str) -> None:
    assert _size_category(rows) == category


def test_what_is_counted(run: str) -> None:
    facts = make_plan(options_of(run, "nowhere", "parquet"), open_store(run)).facts
    assert facts.tasks == Counter(text_to_image=20) and facts.sizes == Counter({(8, 8): 10, (16, 16): 10})
    assert (facts.seeds, facts.least_seed, facts.most_seed, facts.prompts) == (20, 0, 19, 4)
    assert facts.examples[:2] == ["a red seven", "a blue two"]


def test_splits_and_sizes_as_they_are_written() -> None:
    assert read_splits([]) == (("train", 1.0),)
    assert (
        read_splits(["train=0.9,test=.1"]) == read_splits(["train=0.9", "test=0.1"]) == (("train", 0.9), ("test", 0.1))
    )
    assert (read_size("500MB"), read_size("1 GiB"), read_size("1.5kb"), read_size("7")) == (5 * 10**8, 2**30, 1500, 7)
    for wrong in ("train", "train=2", "a=0.5,a=0.5", "train=0.0,test=1", "../x=1"):
        with pytest.raises(ValueError, match="--split has '.*', wanted names with their parts"):
            read_splits([wrong])
    with pytest.raises(ValueError, match="the parts of --split are 0.8 together, wanted 1"):
        read_splits(["train=0.7,test=0.1"])
    with pytest.raises(ValueError, match="--shard-size is 'big', wanted a size such as 500MB"):
        read_size("big")
    with pytest.raises(ValueError, match="--format is 'web_dataset', wanted .*, did you mean 'webdataset'?"):
        ExportOptions("run", "out", "web_dataset")


def test_videos_are_refused_and_may_be_left_out(tmp_path: Path) -> None:
    uri = make_run(str(tmp_path / "run"), 2)
    store = open_store(uri)
    commit(store, "videos", to_table([row(7, uri) | {"task": "text_to_video", "video_uri": "a.mp4", "frames": 9}]))
    with pytest.raises(ValueError, match="1 row is a video, of which an export would hold the first frame alone"):
        make_plan(options_of(uri, "nowhere", "parquet"), store)
    plan = make_plan(options_of(uri, "nowhere", "parquet", where="task != 'text_to_video'"), store)
    assert sum(shard.rows for shard in plan.shards) == 2
