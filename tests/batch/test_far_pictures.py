"""Pictures outside of where they may come from are told before anything is loaded, all of them in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from darkroom.jobs import generate as job

from darkroom.batch.input_files import ANYWHERE, far_folders, refuse_far
from darkroom.batch.options import Options
from darkroom.batch.order import Order
from runs import write_manifest

EDIT = {"task": "image_to_image", "prompt": "a", "strength": 0.5}
PAINT = {"task": "inpaint", "prompt": "a"}


def rows(folder: Path) -> list[dict[str, Any]]:
    held = [{"component": "low_pass", "image": f"file://{folder}/c/d.png"}, {"component": "high_pass", "prompt": "a"}]
    return [
        EDIT | {"image": "a.png"},
        EDIT | {"image": "in/../a.png", "prompt": "see https://example.org/.."},
        EDIT | {"image": f"{folder}/jobs/a.png"},
        EDIT | {"image": f"{folder}/photos/a.png"},
        PAINT | {"image": "../photos/b.png", "mask": f"{folder}/photos/m.png"},
        PAINT | {"image": "a.png", "mask": "s3://bucket/masks/m.png"},
        {"task": "hybrid", "components": held},
    ]


def order(folder: Path, **options: Any) -> Order:
    manifest = write_manifest(folder / "jobs", rows(folder))
    return Order.open(Options(manifest=manifest, out=str(folder / "run"), model="if-xs", **options))


def test_all_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        order(tmp_path)
    assert str(caught.value) == (
        f"5 pictures lie outside of the manifest's folder and bucket: 3 in {tmp_path}/photos, 1 in s3://bucket/masks, "
        f"1 in {tmp_path}/c; to take pictures from there too, say --inputs-root {tmp_path}/photos --inputs-root "
        f"s3://bucket/masks --inputs-root {tmp_path}/c"
    )


def test_places_that_are_allowed_are_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    roots = (f"{tmp_path}/link", f"file://{tmp_path}/c")
    with pytest.raises(ValueError, match=r"^1 picture lies outside .*: 1 in s3://bucket/masks; to take"):
        order(tmp_path, inputs_root=roots)
    assert order(tmp_path, inputs_root=(*roots, "s3://bucket")).rows.manifest.rows == 7
    assert order(tmp_path, inputs_root=ANYWHERE).rows.manifest.rows == 7


def test_a_run_that_was_planned_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are not parsed again."""
    opened = order(tmp_path, inputs_root=ANYWHERE)
    record = {"manifest": {"rows": 5}, "model": {}, "options": {}, "plan": "p", "checked": opened.rows.mark}
    opened.store.write("run.json", json.dumps(record).encode())
    with pytest.raises(ValueError, match="5 pictures lie outside"):
        order(tmp_path)
    with pytest.raises(typer.Exit) as stopped:
        job.main(opened.options.manifest, out=str(tmp_path / "new"), dry_run=True)
    said = capsys.readouterr().err
    assert (
        stopped.value.exit_code == 2 and said.startswith("darkroom: 5 pictures lie outside") and said.count("\n") == 1
    )


def test_a_root_that_is_no_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no possible bucket"):
        order(tmp_path, inputs_root=("s3://b",))


def test_of_many_folders_a_few_are_named() -> None:
    with pytest.raises(ValueError) as caught:
        refuse_far({f"/f{number}": 10 - number for number in range(9)}, "/jobs", ("/jobs",))
    assert "54 pictures lie" in str(caught.value) and "6 in /f4 and 4 more places; to" in str(caught.value)


def test_rows_that_name_nothing_far_are_not_looked_through() -> None:
    assert list(far_folders(b'{"row": {"image": "a/b.png", "prompt": "a / b"}}', {"image": "/x/y.png"})) == []
    assert list(far_folders(b'"image": "/y.png"', {"image": "/y.png"})) == ["/"]
