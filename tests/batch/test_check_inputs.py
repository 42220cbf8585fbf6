"""What is wrong with pictures is told before a job begins, all at once, where they are asked to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from darkroom.batch.check_inputs import AHEAD, check_inputs
from darkroom.batch.load_inputs import LoadOptions
from darkroom.jobs import generate as job
from darkroom.manifest import Abilities, ManifestError, open_manifest
from darkroom.storage import StorageError, encode_png
from runs import png, write_manifest

ABLE = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True, nets=None)
EDIT = {"task": "image_to_image", "prompt": "a", "strength": 0.5}
PAINT = {"task": "inpaint", "prompt": "a", "image": "a.png"}
HELD = [{"component": "low_pass", "image": "held.png"}, {"component": "high_pass", "prompt": "a"}]
TEXT = {"task": "text_to_image", "prompt": "a"}


def checked(folder: Path, rows: list[dict[str, Any]], limit: int | None = None) -> int:
    (folder / "a.png").write_bytes(png(24))
    for name, value in (("black", 0), ("white", 255)):
        (folder / f"{name}.png").write_bytes(encode_png(np.full((24, 24, 3), value, np.uint8)))
    (folder / "cut.png").write_bytes(png(24)[:-40])
    manifest = open_manifest(write_manifest(folder, rows), ABLE)
    options = LoadOptions("", "", manifest.base, (24, 48), 3, 48, (manifest.base,))
    return check_inputs(manifest, options, limit)


def problems(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        checked(folder, rows)
    return [problem.removeprefix("jobs.jsonl ") for problem in caught.value.problems]


def test_each_is_read_once_however_many_rows_name_it(tmp_path: Path) -> None:
    rows = [EDIT | {"image": "a.png", "seed": seed} for seed in range(3 * AHEAD)]
    assert checked(tmp_path, [TEXT, *rows, PAINT | {"mask": "white.png"}]) == 2
    assert checked(tmp_path, [TEXT]) == 0


def test_all_that_is_wrong_is_told_at_once_by_its_lines(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encode_png(np.full((9, 9, 3), 255, np.uint8)))
    (tmp_path / "far.png").symlink_to("/etc/hostname")
    rows = [
        TEXT,
        EDIT | {"image": "none.png"},
        PAINT | {"image": "cut.png", "mask": "gone.png"},
        PAINT | {"mask": "small.png"},
        PAINT | {"mask": "black.png"},
        {"task": "hybrid", "components": HELD},
        EDIT | {"image": "far.png"},
        *[EDIT | {"image": "none.png", "seed": seed} for seed in range(1, 4)],
        PAINT | {"mask": "black.png", "empty_mask": "flag"},
    ]
    told = problems(tmp_path, rows)
    assert (
        told[0] == f"line 2: there is no file {tmp_path}/none.png (so in 3 more places, the last is jobs.jsonl line 10)"
    )
    assert told[1].startswith("line 3: cut.png: the image is cut short or damaged")
    assert told[2] == f"line 3: there is no file {tmp_path}/gone.png"
    assert told[3] == "line 4: the mask small.png is 9 x 9, its image a.png is 24 x 24; they must match"
    assert told[4].startswith("line 5: the mask black.png selects nothing")
    assert told[5] == f"line 6: there is no file {tmp_path}/held.png"
    assert told[6].startswith("line 7: far.png lies outside of the manifest's folder and bucket")
    assert len(told) == 7
    assert checked(tmp_path, rows, limit=1) == 0


def test_what_a_control_network_sees_is_looked_at_too(tmp_path: Path) -> None:
    uses = [{"net": "canny", "image": "a.png", "preprocess": "canny"}, {"net": "depth", "image": "none.png"}]
    manifest = open_manifest(write_manifest(tmp_path, [TEXT | {"control": uses}]), ABLE_OF_LATENTS)
    (tmp_path / "a.png").write_bytes(png(24))
    options = LoadOptions("", "", manifest.base, (48,), 3, 48, (manifest.base,), any_size=True)
    with pytest.raises(ManifestError, match=r"line 1: there is no file .*none\.png"):
        check_inputs(manifest, options)


ABLE_OF_LATENTS = Abilities("sd-xs", (48,), 48, "text", "diffusion", 1000, latent=True, step=8, nets=None)


def test_an_outage_is_no_rows_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    manifest = open_manifest(write_manifest(tmp_path, [EDIT | {"image": "s3://bucket/a.png"}]), ABLE)
    with pytest.raises(StorageError):
        check_inputs(manifest, LoadOptions("", "", manifest.base, (24, 48), 3, 48))


def test_the_command_says_it_with_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path, [EDIT | {"image": "none.png"}])
    for check, code in ((False, 0), (True, 2)):
        with pytest.raises(typer.Exit) as ended:
            job.main(manifest, out=str(tmp_path / "run"), check_inputs=check, dry_run=True)
        assert ended.value.exit_code == code
    assert "jobs.jsonl line 1: there is no file" in capsys.readouterr().err
