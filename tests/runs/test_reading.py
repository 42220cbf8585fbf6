"""A run as people read it, by one that the first round made."""

from __future__ import annotations

import builtins
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.runs import SCHEMA
from darkroom.runs.reading import SHOWN, NoRun, open_run
from darkroom.storage import open_store
from runs import png, results, with_pictures_inside

FIRST_ROUND = Path(__file__).parents[1] / "fixtures/first_round/run"


@pytest.fixture
def run(store_uri: str) -> str:
    """The run, copied to a folder and to S3: what it says of where its pictures lie is wrong by now."""
    store = open_store(store_uri)
    for path in FIRST_ROUND.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(FIRST_ROUND).as_posix(), path.read_bytes())
    return store_uri


def test_rows_as_arrow_and_as_pandas(run: str) -> None:
    opened, expected = open_run(run), results(run)
    assert opened.rows().schema.names == [name for name in SCHEMA.names if name != "image"]
    assert {row["id"]: row["seed"] for row in opened.rows(["id", "seed"]).to_pylist()} == {
        row_id: row["seed"] for row_id, row in expected.items()
    }
    frame = opened.to_pandas().set_index("id")
    assert frame.status.to_dict() == {row_id: row["status"] for row_id, row in expected.items()}
    with pytest.raises(ValueError, match="a run has no column 'sede': wanted id, key,"):
        opened.rows(["sede"])


def test_what_failed_and_why(run: str) -> None:
    (failed,) = open_run(run).failed().to_pylist()
    assert failed["id"] == "gone" and failed["error"].startswith("there is no file")


def test_pictures_are_found_where_the_run_lies_now(run: str) -> None:
    opened, expected = open_run(run), results(run)
    found = dict(opened.pictures())
    assert found.keys() == {row_id for row_id, row in expected.items() if row["status"] == "ok"}
    stored = Image.open(next(FIRST_ROUND.glob("images/*/seven.*.png")))
    assert opened.picture("seven").tobytes() == found["seven"].tobytes() == stored.convert("RGB").tobytes()
    with pytest.raises(KeyError, match="no picture of a row 'gone'"):
        opened.picture("gone")


def test_of_pictures_that_lie_inside_few_are_read_to_find_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of them may have 256 MB, and a run many."""
    store, share = with_pictures_inside(tmp_path, monkeypatch)
    found = open_run(store.root).picture("r250")
    assert found.tobytes() == Image.open(io.BytesIO(png(32, 250))).tobytes() and 0 < share() < 0.3


def test_a_data_set_with_its_pictures(run: str) -> None:
    found = open_run(run).to_datasets()
    images = {row["id"]: row["image"].convert("RGB").tobytes() for row in found}
    assert images == {row_id: picture.tobytes() for row_id, picture in open_run(run).pictures()}


def test_without_datasets_it_says_what_to_install(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ImportError, match="to_datasets wants the package `datasets`: pip install datasets"):
        open_run(run).to_datasets()


def test_what_a_notebook_shows(run: str) -> None:
    opened = open_run(run)
    assert repr(opened) == f"Run({run!r}: 5 ok, 1 failed; model if-xs)"
    page = opened._repr_html_()
    assert page.count("<img ") == 5 <= SHOWN and 'title="seven; ' in page


def test_of_a_run_under_way_the_rows_are_counted(tmp_path: Path) -> None:
    shutil.copytree(FIRST_ROUND, tmp_path / "run")
    finished = open_run(tmp_path / "run").summary
    (tmp_path / "run/summary.json").unlink()
    assert open_run(tmp_path / "run").summary == {"rows": 6, "counts": finished["counts"]}


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="there is no run in .*: it has no run.json"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"kind": "training"}))
    with pytest.raises(NoRun, match="holds a training: `open_model` opens the model"):
        open_run(tmp_path)
