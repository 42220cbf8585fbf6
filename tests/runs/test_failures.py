"""Failed rows as a manifest: wherever it lies, its pictures are those that the run's manifest named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from darkroom.jobs import failed as job

from darkroom.batch.options import Options
from darkroom.batch.order import Order
from darkroom.runs import SCHEMA
from darkroom.runs.failures import failed_rows
from darkroom.storage import open_store
from runs import commit, result

EDIT = {"task": "image_to_image", "prompt": "a cat", "strength": 0.5}
HELD = [{"component": "low_pass", "image": "in/one.png"}, {"component": "high_pass", "prompt": "a two"}]
ROWS: list[dict[str, Any]] = [
    {"task": "inpaint", "prompt": "a cat", "image": "in/one.png", "mask": "../masks/m.png"},
    EDIT | {"image": "in/one.png", "control": [{"net": "edges", "image": "in/edges.png"}]},
    {"task": "hybrid", "components": HELD},
    EDIT | {"image": "/photos/one.png"},
    EDIT | {"image": "s3://bucket/one.png"},
    {"task": "text_to_image", "prompt": "image"},
]


def failed_run(folder: Path, rows: list[dict[str, Any]], **manifest: Any) -> str:
    """A run in folder/runs/r of folder/manifests/m.jsonl, all of whose rows failed."""
    store = open_store(str(folder / "runs/r"))
    lines = [{"id": str(number), "key": str(number), "row": row} for number, row in enumerate(rows)]
    said = {"error": "gone", "error_class": "input"}
    failed = [result(line, "failed", parameters=json.dumps(line["row"]), **said) for line in lines]
    commit(store, "u", pa.Table.from_pylist(failed, SCHEMA))
    store.write("manifest/p/000000.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    manifest = {"rows": len(rows), "uri": f"{folder}/manifests/m.jsonl", **manifest}
    store.write("run.json", json.dumps({"plan": "p", "manifest": manifest, "model": {}, "options": {}}).encode())
    return store.root


@pytest.mark.parametrize("out", ["failed.jsonl", "s3://bucket/failed.jsonl", None])
def test_pictures_are_those_of_the_runs_manifest(out: str | None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, mask, edges = (
        f"{tmp_path}/{name}" for name in ("manifests/in/one.png", "masks/m.png", "manifests/in/edges.png")
    )
    paint, edit, hybrid, *others = [row.row for row in failed_rows(failed_run(tmp_path, ROWS), out=out)]
    assert paint == ROWS[0] | {"id": "0", "image": one, "mask": mask}
    assert edit == ROWS[1] | {"id": "1", "image": one, "control": [{"net": "edges", "image": edges}]}
    assert hybrid["components"] == [HELD[0] | {"image": one}, HELD[1]]
    assert others == [row | {"id": str(number)} for number, row in enumerate(ROWS[3:], 3)]


def test_paths_stay_as_written_beside_the_manifest(tmp_path: Path) -> None:
    run = failed_run(tmp_path, ROWS)
    beside = failed_rows(run, out=f"{tmp_path}/manifests/failed.jsonl")
    assert [row.row for row in beside] == [row | {"id": str(number)} for number, row in enumerate(ROWS)]


def test_rows_that_a_limit_kept_from_the_last_plan_are_listed_too(tmp_path: Path) -> None:
    run = failed_run(tmp_path, ROWS)
    whole, store = failed_rows(run), open_store(run)
    store.write("manifest/p/000000.jsonl", b"\n".join(store.read("manifest/p/000000.jsonl").splitlines()[:2]))
    assert failed_rows(run) == whole


def test_a_record_that_names_the_folder_is_believed(tmp_path: Path) -> None:
    """The manifest was given by a path that means another place here."""
    run = failed_run(tmp_path, [EDIT | {"image": "../one.png"}], uri="m.jsonl", base="s3://bucket/jobs")
    assert [row.row["image"] for row in failed_rows(run)] == ["s3://bucket/one.png"]
    run = failed_run(tmp_path / "b", [EDIT | {"image": "../../one.png"}], base="s3://bucket/jobs")
    assert [row.row["image"] for row in failed_rows(run)] == ["../../one.png"], "which leads nowhere from there too"


def test_the_command_says_what_generate_will_want(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = failed_run(tmp_path, [EDIT | {"image": "in/one.png", "steps": 4}])

    def written(place: str) -> str:
        with pytest.raises(typer.Exit):
            job.main(run, out=f"{tmp_path}/{place}/failed.jsonl")
        return capsys.readouterr().out

    def order(place: str, **options: Any) -> Order:
        made = Options(manifest=f"{tmp_path}/{place}/failed.jsonl", out=f"{tmp_path}/mended", model="if-xs", **options)
        return Order.open(made)

    assert "--inputs-root" not in written(".") and order(".").rows.manifest.rows == 1
    assert "--inputs-root" not in written("manifests") and order("manifests").rows.manifest.rows == 1
    *_, last = written("elsewhere").splitlines()
    assert last == (
        f"as a manifest, {tmp_path}/elsewhere/failed.jsonl: 1 picture lies outside of the manifest's folder and "
        f"bucket: 1 in {tmp_path}/manifests/in; to take pictures from there too, say "
        f"--inputs-root {tmp_path}/manifests/in"
    )
    with pytest.raises(ValueError, match="--inputs-root"):
        order("elsewhere")
    assert order("elsewhere", inputs_root=(f"{tmp_path}/manifests/in",)).rows.manifest.rows == 1
