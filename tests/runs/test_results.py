from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from darkroom.runs import SCHEMA, from_parquet, to_parquet, to_table
from darkroom.storage import StorageError, encode_png

COLUMNS = [
    "id", "key", "task", "status", "error", "error_class", "attempts", "image", "image_uri", "sha256", "width",
    "height", "video_uri", "video_sha256", "video_bytes", "frames", "fps", "prompts",
    "negative_prompt", "seed", "steps", "guidance", "sampler", "start_timestep", "parameters",
    "source_uri", "source_sha256", "model", "model_revision", "evaluations", "seconds", "worker", "stages",
    "controls", "flags", "scores", "alignment", "concealment", "created_at", "schema_version",
]  # fmt: skip
NEW_IN_2 = ["stages", "flags", "scores", "alignment", "concealment"]
NEW_IN_3 = ["error_class", "attempts"]
NEW_IN_4 = ["controls"]
NEW_IN_5 = ["video_uri", "video_sha256", "video_bytes", "frames", "fps"]


def result(number: int = 0, **changes: Any) -> dict[str, Any]:
    key = hashlib.sha256(str(number).encode()).hexdigest()
    row = {
        "id": f"row-{number}", "key": key, "task": "text_to_image", "status": "ok", "error": "", "error_class": "",
        "attempts": 2, "image": None,
        "image_uri": f"/run/images/{number}.png", "sha256": "", "width": 8, "height": 8,
        "video_uri": f"/run/images/{number}.mp4", "video_sha256": "d", "video_bytes": 3, "frames": 9, "fps": 8,
        "prompts": ["a", "b ü"],
        "negative_prompt": "", "seed": number, "steps": 34, "guidance": 7.0, "sampler": "ddpm",
        "start_timestep": None, "parameters": "{}", "source_uri": "", "source_sha256": "", "model": "if-xs",
        "model_revision": "r1", "evaluations": 68, "seconds": 0.25, "worker": "w0", "stages": "[]", "controls": "[]",
        "flags": ["watermark"], "scores": "{}", "alignment": None, "concealment": 0.5,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    }  # fmt: skip
    return {**row, **changes}


def picture(shade: int) -> bytes:
    return encode_png(np.full((8, 6, 3), shade, np.uint8))


def test_the_schema_is_pinned() -> None:
    assert SCHEMA.names == COLUMNS
    assert SCHEMA.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert SCHEMA.field("created_at").type == pa.timestamp("us", tz="UTC")
    assert SCHEMA.metadata[b"schema_version"] == b"5"


def test_rows_come_back_from_parquet_as_they_were() -> None:
    rows = [result(0, image={"bytes": picture(3), "path": "0.png"}), result(1, status="failed", steps=None, width=None)]
    back = from_parquet(to_parquet(to_table(rows)))
    assert back.schema.equals(SCHEMA, check_metadata=True)
    assert back.to_pylist() == [{**row, "schema_version": 5} for row in rows]


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        (1, NEW_IN_2 + NEW_IN_3 + NEW_IN_4 + NEW_IN_5),
        (2, NEW_IN_3 + NEW_IN_4 + NEW_IN_5),
        (3, NEW_IN_4 + NEW_IN_5),
        (4, NEW_IN_5),
    ],
)
def test_shards_of_earlier_versions_are_still_read(version: int, lacks: list[str]) -> None:
    old = pa.schema([field for field in SCHEMA if field.name not in lacks], metadata={"schema_version": str(version)})
    rows = [{name: value for name, value in result(n).items() if name not in lacks} for n in range(2)]
    table = pa.Table.from_pylist([{**row, "schema_version": version} for row in rows], schema=old)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    back = from_parquet(sink.getvalue())
    assert back.schema.equals(SCHEMA, check_metadata=True)
    blank = {"stages": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None, "error_class": ""}
    blank |= {"attempts": 1, "controls": "[]", "video_uri": "", "video_sha256": "", "schema_version": version}
    blank |= dict.fromkeys(("video_bytes", "frames", "fps"))
    assert back.to_pylist() == [{**row, **{name: blank[name] for name in [*lacks, "schema_version"]}} for row in rows]
    assert from_parquet(to_parquet(back)).equals(back), "retiring a row writes the others of its shard anew"


@pytest.mark.parametrize(("inside", "groups"), [(False, [250]), (True, [100, 100, 50])])
def test_plain_pyarrow_reads_every_column_and_finds_zstd_in_groups(inside: bool, groups: list[int]) -> None:
    """Small ones where pictures lie inside: whoever shows one reads a group."""
    rows = [result(n) for n in range(250)]
    rows[-1]["image"] = {"bytes": b"png" if inside else None, "path": "x.png"}
    file = pq.ParquetFile(io.BytesIO(to_parquet(to_table(rows))))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == groups
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    table = file.read()
    assert table.column_names == COLUMNS
    assert table["seed"].to_pylist() == list(range(250))
    assert json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"] == {"image": {"_type": "Image"}}


def test_no_rows_are_a_table_too() -> None:
    assert from_parquet(to_parquet(to_table([]))).num_rows == 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"extra": 1}, r"unknown \['extra'\]"),
        ({"error": None}, r"text is wanted in \['error'\]"),
        ({"prompts": None}, "prompts must be a list"),
        ({"prompts": ["a", None]}, "prompts must be a list"),
        ({"flags": None}, "flags must be a list"),
        ({"seed": "seven"}, "wrong type"),
        ({"steps": 2**40}, "wrong type"),
        ({"image": {"bytes": b"x"}}, "image must be None or"),
        ({"image": {"bytes": None, "path": ""}}, "image must be None or"),
        ({"created_at": datetime(2026, 1, 1)}, "with a time zone"),
    ],
)
def test_a_row_that_does_not_fit_is_our_own_bug(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        to_table([result(0), result(1, **changes)])


def test_a_missing_column_is_our_own_bug() -> None:
    row = result(4)
    del row["worker"]
    with pytest.raises(AssertionError, match=r"'row-4': missing \['worker'\]"):
        to_table([row])


def test_only_the_pinned_schema_is_written() -> None:
    with pytest.raises(AssertionError, match="not a table of results"):
        to_parquet(to_table([result()]).replace_schema_metadata(None))


def test_damaged_and_foreign_files_are_told_apart() -> None:
    data = to_parquet(to_table([result()]))
    for damaged in (b"", data[: len(data) // 2], b"\0" * len(data)):
        with pytest.raises(StorageError, match="not a readable Parquet file"):
            from_parquet(damaged)
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["x"]}).replace_schema_metadata({"schema_version": "7"}), sink)
    with pytest.raises(StorageError, match="schema version 7: this program reads 1 to 5"):
        from_parquet(sink.getvalue())


@pytest.mark.parametrize("inline", [True, False], ids=["bytes", "path"])
def test_the_folder_opens_as_an_image_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    (tmp_path / "metadata").mkdir()
    rows = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture(number))
        image = {"bytes": picture(number), "path": path.name} if inline else {"bytes": None, "path": str(path)}
        rows.append(result(number, image=image))
    rows.append(result(3, status="failed", error="the image is damaged"))
    for number, part in enumerate((rows[:2], rows[2:])):
        (tmp_path / f"metadata/{number}.parquet").write_bytes(to_parquet(to_table(part)))
    files = sorted(map(str, tmp_path.glob("metadata/*.parquet")))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.column_names == COLUMNS
    assert loaded[3]["image"] is None
    for number in range(3):
        opened = loaded[number]["image"]
        assert isinstance(opened, Image.Image)
        assert np.array_equal(np.asarray(opened), np.full((8, 6, 3), number))
        assert loaded[number]["prompts"] == ["a", "b ü"]
        assert loaded[number]["created_at"] == rows[number]["created_at"]
