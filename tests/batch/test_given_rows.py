"""Rows of a command are a manifest like any other: read again, gone on with, refused by their places."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from darkroom.batch.given_rows import with_manifest
from darkroom.batch.options import Options
from darkroom.jobs import generate as job
from darkroom.manifest import ManifestError, parse_task, read_rows
from darkroom.submit.request import prepare

PROMPT = "a red seven"


def asked(folder: Path, manifest: str = "", **more: object) -> Options:
    return Options(manifest, str(folder / "run"), **more)


def test_each_prompt_has_so_many_rows_with_seeds_that_count_on(tmp_path: Path) -> None:
    with with_manifest(asked(tmp_path), [PROMPT, "a six"], count=2, seed=5) as options:
        rows = [row.data for row in read_rows(options.manifest)]
    assert [(row["prompt"], row["seed"]) for row in rows] == [(PROMPT, 5), (PROMPT, 6), ("a six", 5), ("a six", 6)]
    assert {parse_task(row).task for row in rows} == {"text_to_image"}
    with with_manifest(asked(tmp_path), [PROMPT, "a six"], count=2, seed=5) as again:
        assert again == options, "the same command is the same manifest, so that its run goes on"
    assert list(read_rows(options.manifest)), "which stays in the run"


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    with with_manifest(asked(tmp_path), [PROMPT], keep=False) as options:
        (row,) = read_rows(options.manifest)
        assert row.data["seed"] == 0
    assert not list(tmp_path.iterdir()) and not Path(options.manifest).exists()


def test_a_manifest_of_its_own_is_left_alone(tmp_path: Path) -> None:
    options = asked(tmp_path, "rows.jsonl")
    with with_manifest(options) as found:
        assert found is options
    assert not list(tmp_path.iterdir())


def test_standard_input_is_kept_with_paths_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"task": "upscale", "prompt": "a", "image": "in.png"}\n\n{"prompt": "a six"}\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with with_manifest(asked(tmp_path, "-"), say=said.append) as options:
        first, second = (row.data for row in read_rows(options.manifest))
        assert first["image"] == str(tmp_path / "in.png") and str(tmp_path) in options.inputs_root
        assert second == {"prompt": "a six"}
    assert said[0] == f"standard input: 2 rows, kept as {options.manifest}, which may be given in its place"
    with pytest.raises(ManifestError, match=r"stdin\.jsonl line 3: no"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
        with with_manifest(asked(tmp_path, "-"), say=said.append):
            raise ManifestError([f"{Path(options.manifest).name} line 2: no"])


@pytest.mark.parametrize(
    ("manifest", "given", "says"),
    [
        ("rows.jsonl", {"prompts": [PROMPT]}, "the manifest rows.jsonl and --prompt are given: wanted one of them"),
        ("", {}, 'wanted a manifest, or a prompt by --prompt "a red seven"'),
        ("rows.jsonl", {"count": 2}, "--count and --seed are of --prompt"),
        ("-", {"seed": 0}, "--count and --seed are of --prompt"),
        ("", {"prompts": [PROMPT], "rerun": "never"}, "--rerun names 'never'"),
        ("", {"prompts": [PROMPT], "model": "if-xxl"}, "no model 'if-xxl'"),
    ],
)
def test_what_is_refused_before_anything_is_written(manifest: str, given: dict, says: str, tmp_path: Path) -> None:
    options = asked(tmp_path, manifest, **{name: given.pop(name) for name in ("rerun", "model") if name in given})
    with pytest.raises(ValueError, match=says), with_manifest(options, **given):
        pass
    assert not list(tmp_path.iterdir())


def test_a_command_of_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        job.main(out=str(tmp_path / "run"), prompt=[PROMPT], count=3, dry_run=True)
    assert ended.value.exit_code == 0 and capsys.readouterr().out.startswith("3 rows: 0 done, 3 to make")
    with pytest.raises(typer.Exit) as ended:
        job.main(out=str(tmp_path / "run"), prompt=["a" * 20_001], dry_run=True)
    assert ended.value.exit_code == 2 and "  --prompt: 'prompt' must have at most" in capsys.readouterr().err


def test_prompts_are_submitted_as_they_are() -> None:
    command = ["--prompt", "a 6/9", "--prompt", "s3", "--count", "2", "--out", "s3://bucket/run"]
    request = prepare("generate", command, shared=False)
    assert sorted(request.arguments) == sorted(command)
    with pytest.raises(ValueError, match="standard input is read on this machine"):
        prepare("generate", ["-", "--out", "s3://bucket/run"], shared=False)
    with pytest.raises(ValueError, match="wanted a manifest, or a prompt"):
        prepare("generate", ["--out", "s3://bucket/run"], shared=False)
