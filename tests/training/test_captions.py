"""Folders of pictures with captions become a data set, with every bad line told at once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import typer
from darkroom.jobs import ingest as job
from PIL import Image

from darkroom.storage import open_store
from darkroom.training import captions
from darkroom.training.captions import read_captions
from darkroom.training.data import load_images, read_record, sample_uri
from darkroom.training.ingest import ingest


def picture(colour: int, width: int = 5, height: int = 4, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def write(uri: str, files: dict[str, bytes | str]) -> str:
    for key, data in files.items():
        open_store(uri).write(key, data.encode() if isinstance(data, str) else data)
    return uri


PICTURES: dict[str, bytes | str] = {"b.png": picture(1), "sub/a.jpg": picture(2, 30, 7, "JPEG"), "c.webp": picture(3)}
LINES = [{"file_name": "b.png", "text": " a dog "}, {"file_name": "./sub/a.jpg", "caption": "a cat, asleep"}]
LINES += [{"file_name": "c.webp", "prompt": "ein Vögelchen", "rating": 3}]
FOUND = [("b.png", "a dog"), ("sub/a.jpg", "a cat, asleep"), ("c.webp", "ein Vögelchen")]


def as_jsonl(rows: list[dict]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


def test_a_file_holds_no_more_than_fits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "FILE_BYTES", len(picture(1)))
    source = write(str(tmp_path / "pets"), PICTURES | {"metadata.jsonl": as_jsonl(LINES)})
    record = ingest("captions", source, str(tmp_path / "out"))
    assert len(record["splits"]["train"]["files"]) == 3
    assert [(one.name, one.text) for one in read_captions(str(tmp_path / "out"))] == FOUND


@pytest.mark.parametrize(
    "metadata",
    [
        {"metadata.jsonl": as_jsonl(LINES)},
        {"metadata.csv": 'text,file_name\na dog,b.png\n"a cat, asleep",sub/a.jpg\nein Vögelchen,c.webp\n'},
    ],
    ids=["jsonl", "csv"],
)
def test_pictures_of_any_size_keep_their_bytes(store_uri: str, tmp_path: Path, metadata: dict) -> None:
    out = str(tmp_path / "out")
    record = ingest("captions", write(f"{store_uri}/pets", PICTURES | metadata | {".DS_Store": b"x"}), out)
    assert (record["name"], record["kind"], record["splits"]["train"]["rows"]) == ("pets", "captions", 3)
    found = list(read_captions(out))
    assert [(one.name, one.text) for one in found] == FOUND
    assert [one.data for one in found] == [PICTURES[one.name] for one in found]
    assert read_record(out, "captions") == record


def test_a_key_that_no_folder_could_have_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = ["a.png", "day//b.png", "train/one/a.png", "train//c.png", "test/one/a.png"]
    monkeypatch.setattr("darkroom.storage.s3.S3Store.list", lambda self: iter(keys))
    monkeypatch.setattr("darkroom.storage.s3.S3Store.read", lambda self, key: picture(1))
    for kind, prompt in (("captions", "a dog"), ("folder", None)):
        with pytest.raises(ValueError, match=r"train//c\.png: its key has an empty part, '\.' or '\.\.' between"):
            ingest(kind, "s3://bucket/pets", str(tmp_path / "out"), prompt=prompt)


def test_one_prompt_for_all(tmp_path: Path) -> None:
    folder = write(str(tmp_path / "dog"), PICTURES)
    job.main("captions", folder, out=str(tmp_path / "out"), prompt="a photo of sks dog")
    assert {(one.name, one.text) for one in read_captions(str(tmp_path / "out"))} == {
        (name, "a photo of sks dog") for name in PICTURES
    }
    with pytest.raises(ValueError, match="has no captions: wanted either metadata.jsonl or metadata.csv"):
        ingest("captions", folder, str(tmp_path / "other"))
    write(folder, {"metadata.csv": "file_name,text\n"})
    with pytest.raises(ValueError, match="metadata.csv has the captions, and --prompt gives another"):
        ingest("captions", folder, str(tmp_path / "other"), prompt="a dog")


def test_every_bad_line_is_told_at_once(tmp_path: Path) -> None:
    lines = [
        json.dumps(LINES[0]), "{no", '["b.png"]', '{"text": "nameless"}', '{"file_name": "b.png", "text": "again"}',
        '{"file_name": "d.png", "text": "gone"}', '{"file_name": "c.webp"}', '{"file_name": "e.png", "text": "  "}',
        '{"file_name": "sub/a.jpg", "text": "a", "caption": "b"}', '{"file_name": "bad.png", "text": "broken"}',
    ]  # fmt: skip
    files = PICTURES | {"bad.png": picture(9)[:40], "metadata.jsonl": "\n".join(lines), "left.png": picture(4)}
    with pytest.raises(ValueError) as error:
        ingest("captions", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))
    text = str(error.value)
    for wanted in (
        "has 12 problems:",
        "metadata.jsonl line 2: is not JSON",
        "metadata.jsonl line 3: wanted an object with file_name and text",
        "metadata.jsonl line 4: wanted 'file_name', the picture's file; it has text",
        "metadata.jsonl line 5: b.png is named twice",
        "metadata.jsonl line 6: there is no file d.png",
        "metadata.jsonl line 7: wanted one of text, caption, prompt for c.webp; it has none",
        "metadata.jsonl line 8: the text of e.png is '  ', wanted a sentence",
        "metadata.jsonl line 9: wanted one of text, caption, prompt for sub/a.jpg; it has text and caption",
        "left.png: no line of metadata.jsonl names it",
        "bad.png",
    ):
        assert wanted in text, text
    assert not (tmp_path / "out").exists()


def test_no_caption_is_cut_without_a_word(tmp_path: Path) -> None:
    folder = write(str(tmp_path / "pets"), PICTURES)
    text = 'file_name,text\nb.png,a dog, running on grass\nsub/a.jpg,"a cat, asleep",\nc.webp,"two\r\nlines"\n'
    write(folder, {"metadata.csv": text})
    with pytest.raises(ValueError) as error:
        ingest("captions", folder, str(tmp_path / "out"))
    problem = "metadata.csv line 2: has 3 cells, the header has 2; a text with commas stands in quotes"
    assert problem in str(error.value) and "has 2 problems" in str(error.value), "the other is b.png, without a caption"
    write(folder, {"metadata.csv": text.replace(" running on grass", "")})
    ingest("captions", folder, str(tmp_path / "out"))
    found = {one.name: one.text for one in read_captions(str(tmp_path / "out"))}
    assert found == {"b.png": "a dog", "sub/a.jpg": "a cat, asleep", "c.webp": "two\r\nlines"}
    write(folder, {"metadata.csv": f'file_name,text\nb.png,"{"a" * csv.field_size_limit()}b"\n'})
    with pytest.raises(ValueError, match="metadata.csv line 2: cannot be read from here on: field larger than"):
        ingest("captions", folder, str(tmp_path / "out"))


def test_a_caption_keeps_the_marks_that_json_lets_stand(tmp_path: Path) -> None:
    lines = [json.dumps({"file_name": name, "text": f"a\u2028{name}\x85b"}, ensure_ascii=False) for name in PICTURES]
    folder = write(str(tmp_path / "pets"), PICTURES | {"metadata.jsonl": "\r\n".join(lines)})
    ingest("captions", folder, str(tmp_path / "out"))
    assert [one.text for one in read_captions(str(tmp_path / "out"))] == [f"a\u2028{name}\x85b" for name in PICTURES]


def test_what_was_changed_afterwards_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest("captions", write(str(tmp_path / "pets"), PICTURES | {"metadata.jsonl": as_jsonl(LINES)}), str(out))
    record = json.loads((out / "dataset.json").read_text())
    record["splits"]["train"]["digest"] = "0" * 64
    (out / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="are not those that were ingested"):
        list(read_captions(str(out)))
    next(out.glob("*.parquet")).write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="is cut short or damaged"):
        list(read_captions(str(out)))


def test_labels_and_captions_are_not_taken_for_each_other(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ingest("captions", write(str(tmp_path / "pets"), PICTURES), out, prompt="a pet")
    with pytest.raises(ValueError, match="holds pictures with captions, wanted pictures with labels"):
        load_images(out, "train")
    with pytest.raises(ValueError, match="holds pictures with labels, wanted pictures with captions: `darkroom ingest"):
        read_record(sample_uri(), "captions")
    with pytest.raises(ValueError, match="--prompt is the caption of every picture"):
        ingest("mnist", None, out, prompt="a digit")
    with pytest.raises(typer.Exit):
        job.main("captions", str(tmp_path / "pets"), out=out, per_class=3)
