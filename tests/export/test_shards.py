"""What an export writes, as its readers open it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from darkroom.export.plan import FORMATS, make_plan
from darkroom.export.shards import _picture, dhash, with_text
from darkroom.storage import StorageError, open_store
from darkroom.submit.entry import Record
from exports import HOSTILE, PROMPTS, export_here, make_run, options_of
from runs import pictures, png, results, tree


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    yield library


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tree(folder) if name != ".export/plan.json"}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_command_makes_the_same_bytes_and_only_what_is_missing(run: str, tmp_path: Path, format: str) -> None:
    first, second = (options_of(run, tmp_path / name, format) for name in ("first", "second"))
    written = export_here(first)
    assert len(written) > 2 and export_here(second) == written
    whole = files(tmp_path / "first")
    named = {key: data for key, data in whole.items() if key not in ("README.md", "croissant.json")}
    assert {key: files(tmp_path / "second")[key] for key in named} == named
    lost = next(key for key in sorted(whole) if key.startswith(("data/train-00001", "train/00001/metadata")))
    (tmp_path / "first" / lost).unlink()
    (tmp_path / "first/.export/shards/test-00000.json").unlink()  # a job that died before it said that it was done
    assert sorted(export_here(first)) == ["test-00000", "train-00001"]
    assert files(tmp_path / "first") == whole
    assert export_here(first) == []


def test_hugging_faces_library_opens_all_of_them(run: str, tmp_path: Path, datasets: Any) -> None:
    stored, expected = pictures(run), results(run)
    for format in ("huggingface", "webdataset", "imagefolder"):
        export_here(options_of(run, tmp_path / format, format))
        loaded = datasets.load_dataset(str(tmp_path / format))
        assert {split: len(rows) for split, rows in loaded.items()} == {"train": 12, "test": 8}, format
        for row in (row for rows in loaded.values() for row in rows):
            image, facts = (row["png"], row["json"]) if format == "webdataset" else (row["image"], row)
            picture = Image.open(io.BytesIO(stored[facts["id"]]))
            assert image.tobytes() == picture.convert("RGB").tobytes() and image.size == picture.size
            assert facts["text"] == expected[facts["id"]]["prompts"][0]
            if format != "imagefolder":
                assert facts["stages"][0]["steps"] == 4 and facts["controls"] is None
                assert (facts["scores"] or {}).get("scorer") == ("clip" if facts["seed"] == 3 else None)


def test_parquet_in_pandas_and_pyarrow(run: str, tmp_path: Path) -> None:
    export_here(options_of(run, tmp_path / "out", "parquet"))
    frame = pandas.read_parquet(tmp_path / "out/data").set_index("id").sort_values("seed")
    assert {row_id: bytes(data) for row_id, data in frame.image.items()} == pictures(run)
    assert frame.sha256.tolist() == [hashlib.sha256(data).hexdigest() for data in frame.image]
    assert frame.file_name.is_unique and frame.text.tolist() == [PROMPTS[number % 5] for number in range(20)]
    assert frame.negative_prompt.isna().tolist() == [number % 2 == 1 for number in range(20)]
    table = pyarrow.dataset.dataset(tmp_path / "out/data").to_table(columns=["scores", "stages", "source_sha256"])
    assert [scores["matrix"] for scores in table["scores"].to_pylist() if scores] == [[[0.5]]]
    assert table["source_sha256"].null_count == 20 and table["stages"][0][0]["capacity"].as_py() == 32


def test_webdatasets_samples_stand_together_without_time_or_owner(run: str, tmp_path: Path) -> None:
    export_here(options_of(run, tmp_path / "out", "webdataset"))
    with tarfile.open(tmp_path / "out/data/train-00000.tar") as archive:
        members = archive.getmembers()
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in members} == {(0, 0, 0, "", 0o644)}
        names = [one.name for one in members]
        stems = [name.partition(".")[0] for name in names]
        assert names == [f"{stem}.{kind}" for stem in dict.fromkeys(stems) for kind in ("png", "txt", "json")]
        row = json.loads(archive.extractfile(names[2]).read())
        assert archive.extractfile(names[1]).read().decode() == row["text"] == "a red seven"
        assert row["file_name"] == names[0] and row["created_at"].endswith("+00:00")


def test_pictures_of_an_image_folder_carry_their_row_if_asked(run: str, tmp_path: Path) -> None:
    export_here(options_of(run, tmp_path / "plain", "imagefolder"))
    export_here(options_of(run, tmp_path / "text", "imagefolder", png_text=True))
    for line in (tmp_path / "text/train/00000/metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        path = Path("train/00000", row["file_name"])
        with Image.open(tmp_path / "plain" / path) as plain, Image.open(tmp_path / "text" / path) as picture:
            assert plain.info == {} and plain.tobytes() == picture.tobytes()
            told = json.loads(picture.text["darkroom"])
        assert told["id"] == row["id"] and told["row"]["prompt"] == row["text"]
        assert row["sha256"] == hashlib.sha256((tmp_path / "text" / path).read_bytes()).hexdigest() != told["sha256"]
        assert (tmp_path / "plain" / path).read_bytes() == pictures(run)[row["id"]]


def test_from_and_to_a_bucket_and_with_pictures_inside(store_uri: str, tmp_path: Path) -> None:
    inline = make_run(f"{store_uri}/run", inline=True)
    outside = make_run(str(tmp_path / "outside"))
    export_here(options_of(inline, f"{store_uri}/out", "huggingface"))
    export_here(options_of(outside, tmp_path / "out", "huggingface"))
    store = open_store(f"{store_uri}/out")
    found = {}
    for key in store.list("data/"):
        found |= {row["id"]: row["image"]["bytes"] for row in pq.read_table(io.BytesIO(store.read(key))).to_pylist()}
    assert found == pictures(outside)


def test_rows_of_a_large_file_come_a_row_group_at_a_time(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_here(options_of(run, tmp_path / "small", "parquet"))
    monkeypatch.setattr("darkroom.runs.ledger._LARGE", 0)
    export_here(options_of(run, tmp_path / "large", "parquet"))
    small, large = (
        {key: data for key, data in files(tmp_path / name).items() if key.startswith("data/")}
        for name in ("small", "large")
    )
    assert small == large


def test_a_picture_that_is_gone_or_damaged_is_named(run: str, tmp_path: Path) -> None:
    options = options_of(run, tmp_path / "out", "parquet", where="seed = 0", splits=(("train", 1.0),))
    picture = next(Path(run).glob("images/00/folder_row_0~*.png"))
    with pytest.raises(AssertionError, match="the picture of the row 'folder/row 0' is damaged; `darkroom audit"):
        picture.write_bytes(png(8, seed=99))
        export_here(options)
    assert not (tmp_path / "out/README.md").exists()
    picture.unlink()
    with pytest.raises(StorageError, match="the picture images/00/folder_row_0.* is gone; `darkroom audit"):
        make_plan(options, open_store(run))
    with pytest.raises(StorageError, match="the picture of the row 'folder/row 0' is gone; `darkroom audit"):
        _picture(results(run)["folder/row 0"], open_store(run))


def test_the_record_of_a_submitted_export_is_not_in_its_way(run: str, store_uri: str) -> None:
    Record(open_store(store_uri), "export-1", "export", []).status("waiting")  # before the job begins
    assert export_here(options_of(run, store_uri, "parquet"))
    assert open_store(store_uri).exists("submissions/export-1/status.json")


def test_another_export_is_not_mixed_in(run: str, tmp_path: Path) -> None:
    options = options_of(run, tmp_path / "out", "parquet")
    export_here(options)
    with pytest.raises(ValueError, match="holds another export, with format 'parquet'; wanted a new place"):
        export_here(options_of(run, tmp_path / "out", "webdataset", shard_bytes=5_000))
    make_run(run, 22)
    with pytest.raises(ValueError, match="holds another export, of other rows: the run has changed since"):
        export_here(options)
    with pytest.raises(ValueError, match="run holds something else: wanted a new place"):
        export_here(options_of(run, run, "parquet"))


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_says_where_it_was_made_and_cards_say_how(run: str, tmp_path: Path, format: str) -> None:
    out = tmp_path / "set"
    export_here(options_of(run, out, format, licence="cc-by-4.0", where="seed < 99"))
    for name, data in files(out).items():
        assert not any(text in data for text in (b"secret-place", b"my-host", str(tmp_path).encode())), name
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    for said in ("`if-xs`, revision `6844c1e1`", "apache-2.0", "12 train, 8 test", "20 text_to_image", "10 of 8 x 8",
                 "20 different, 0 to 19", "0 of 20 rows share", "    seed < 99\n", "darkroom 0.1.0"):  # fmt: skip
        assert said in card
    assert f"    {' '.join(HOSTILE.split())}\n" in card, "what a user wrote is code, in its own line"
    told = json.loads((out / "croissant.json").read_text())
    digests = {part["contentUrl"]: part["sha256"] for part in told["distribution"] if part["@type"] == "cr:FileObject"}
    assert len(digests) == 4
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    assert {record["name"] for record in told["recordSet"]} == {"train", "test"}


def test_a_perceptual_hash_tells_alike_from_different() -> None:
    grey = np.tile(np.arange(0, 216, 3, dtype=np.uint8), (64, 1))
    assert dhash(Image.fromarray(grey)) == "f" * 16, "every pixel is darker than its right neighbour"
    assert dhash(Image.fromarray(grey[:, ::-1])) == "0" * 16
    both = np.concatenate([grey[:32], grey[32:, ::-1]])
    assert dhash(Image.fromarray(both)) == "f" * 8 + "0" * 8
    assert dhash(Image.fromarray(both // 2 + 20).resize((200, 100))) == dhash(Image.fromarray(both))


def test_a_text_in_a_png_leaves_its_picture_as_it_is() -> None:
    plain = png(5)
    named = with_text(plain, "darkroom", "Maß 七")
    with Image.open(io.BytesIO(named)) as picture, Image.open(io.BytesIO(plain)) as before:
        assert picture.text == {"darkroom": "Maß 七"} and picture.tobytes() == before.tobytes()
