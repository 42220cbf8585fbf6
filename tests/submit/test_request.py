"""What may be sent to a cluster, and under which name."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import typer

from darkroom.manifest import ManifestError
from darkroom.models.errors import ModelError
from darkroom.submit.request import NAMES, PATHS, SIGNS, LocalPath, job_names, prepare, run_of
from runs import RED, write_manifest

# One of every kind of parameter: positional, option, flag on and off, repeated, number.
COMMANDS = {
    "audit": ["s3://bucket/run"],
    "report": ["s3://bucket/run", "--against", "s3://bucket/other", "--samples", "5"],
    "train": [
        *("mnist-flow-class", "--data", "s3://bucket/mnist", "--out", "s3://bucket/flow", "--workers", "2:8"),
        *("--resume", "--set", "hidden=32", "--set", "epochs=5", "--no-report"),
    ],
    "evaluate": ["if-xs", "--out", "s3://bucket/quality", "--guidance", "4.5"],
    "ingest": ["mnist", "s3://bucket/downloads", "--out", "s3://bucket/mnist", "--per-class", "100"],
}
# Parameters that are texts, and no places.
TEXTS = {
    *("address", "capacity", "column", "default", "dtype", "format", "host", "kind", "layout", "license", "only"),
    *("max_failed_rows", "prompt", "push", "recipe", "rerun", "sampler", "settings", "shard_size", "spacing", "split"),
    *("tick", "token", "where", "workers"),
}
EXPORT = ["s3://bucket/run", "--out", "s3://bucket/set", "--format", "huggingface"]
TRAIN = ["lora", "--data", "s3://bucket/dogs", "--out", "s3://bucket/dog"]


@pytest.mark.parametrize("job", COMMANDS)
def test_a_job_is_asked_what_was_written_and_nothing_else(job: str) -> None:
    request = prepare(job, COMMANDS[job], shared=False)
    assert sorted(request.arguments) == sorted(COMMANDS[job])
    again = prepare(job, list(request.arguments), shared=False)
    assert again == request and again.digest == request.digest
    runs = {"audit": "run", "report": "run", "train": "flow", "evaluate": "quality", "ingest": "mnist"}
    assert request.run == f"s3://bucket/{runs[job]}"
    assert run_of(job, COMMANDS[job]) == request.run, "as the cluster's node finds it out"


@pytest.mark.parametrize("asked", [["audit"], ["audit", "--no-such-option"], ["develop", "s3://bucket/run"]])
def test_a_job_that_will_refuse_what_it_was_asked_writes_nowhere(asked: list[str]) -> None:
    assert run_of(asked[0], asked[1:]) == ""


@pytest.mark.parametrize(
    ("job", "arguments", "run"),
    [
        ("convert", ["s3://bucket/prompts.txt", "--out", "s3://bucket/jobs.jsonl"], ""),
        ("failed", ["s3://bucket/run", "--out", "s3://bucket/failed.jsonl"], "s3://bucket/run"),
    ],
)
def test_a_file_that_is_written_is_no_folder_for_the_jobs_record(job: str, arguments: list[str], run: str) -> None:
    assert prepare(job, arguments, shared=False).run == run == run_of(job, arguments)


def test_every_job_can_be_submitted() -> None:
    assert {"generate", "train", "audit", "report", "evaluate", "ingest"} <= set(job_names())
    for job in job_names():
        if hasattr(import_module(f"darkroom.jobs.{job}"), "app"):  # it has several commands, for here and now
            continue
        with pytest.raises(Exception, match="--no-such-option"):
            prepare(job, ["--no-such-option"], shared=False)


@pytest.mark.parametrize("option", ["--adapter", "--control"])
def test_what_rows_may_name_lies_where_nodes_see_it(option: str, tmp_path: Path) -> None:
    """A place on this machine is none of theirs, or an absolute one; what is in the program has no place."""
    manifest = write_manifest(tmp_path, [RED])
    asked = ["generate", [manifest, "--out", "s3://bucket/run", option, "a=nets/a"]]
    with pytest.raises(LocalPath, match=f"{option} a=nets/a: on this machine, and the cluster's nodes see others"):
        prepare(*asked, shared=False)
    with pytest.raises(ModelError, match=f"{Path.cwd()}/nets/a"):
        prepare(*asked, shared=True)
    embedded = {"--adapter": "a=sd-xs-yellowed", "--control": "canny=sd-xs-canny"}[option]
    with pytest.raises(ModelError, match="was trained on sd-xs|'canny' given|holds no control network"):
        prepare("generate", [*asked[1][:-1], embedded], shared=False)


def test_what_the_job_would_refuse_is_refused_here() -> None:
    with pytest.raises(typer.BadParameter, match="valid integer"):
        prepare("evaluate", ["if-xs", "--out", "s3://bucket/quality", "--count", "many"], shared=False)
    with pytest.raises(ValueError, match="no job 'develop' to submit: wanted one of audit, "):
        prepare("develop", [], shared=False)


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        ("audit", ["runs/demo"], "run runs/demo: on this machine"),
        ("train", ["mnist-ddpm", "--data", "s3://b/mnist", "--out", "models/ddpm"], "--out models/ddpm: "),
        ("train", ["mnist-ddpm", "--data", "mnist", "--out", "s3://b/ddpm"], "--data mnist: "),
        ("ingest", ["idx", "file:///data/idx", "--out", "s3://b/idx"], "source file:///data/idx: "),
        ("embed", ["--import", "a.pth", "--model", "if-xs", "--out", "s3://b/embeddings"], "--import a.pth: "),
        ("evaluate", ["models/flow", "--out", "s3://b/quality"], "model models/flow: "),
    ],
)
def test_folders_of_this_machine_are_refused_unless_every_node_sees_them(
    job: str, arguments: list[str], said: str
) -> None:
    with pytest.raises(LocalPath, match=said) as refused:
        prepare(job, arguments, shared=False)
    assert "s3://bucket/prefix" in str(refused.value) and "--shared-filesystem" in str(refused.value)
    sent = prepare(job, arguments, shared=True)
    local = next(text for text in arguments if said.split()[1].rstrip(":") == text)
    assert str(Path(local.removeprefix("file://")).absolute()) in sent.arguments and local not in sent.arguments


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("export", [*EXPORT, "--where", "text LIKE '%24/7%'", "--push", "OWNER/NAME"]),
        ("train", [*TRAIN, "--set", "validation=a dog|night/day"]),
    ],
)
def test_a_text_with_a_slash_is_no_place(job: str, arguments: list[str], shared: bool) -> None:
    assert sorted(prepare(job, arguments, shared).arguments) == sorted(arguments)


def test_of_every_parameter_it_is_known_whether_it_is_a_place() -> None:
    mains = [main for job in job_names() if (main := getattr(import_module(f"darkroom.jobs.{job}"), "main", None))]
    texts = {name for main in mains for name, kind in get_type_hints(main).items() if "str" in str(kind)}
    assert texts == TEXTS | {*PATHS, *NAMES, *SIGNS, "manifest"}


def test_a_scorer_has_its_place_behind_a_colon(tmp_path: Path, toy_model: str) -> None:
    manifest = write_manifest(tmp_path, [RED])
    asked = [manifest, "--out", "s3://bucket/run", "--model", toy_model, "--scorer"]
    with pytest.raises(LocalPath, match="--scorer clip:nets/clip: on this machine"):
        prepare("generate", [*asked, "clip:nets/clip"], shared=False)
    for given, sent in (("clip:nets/clip", f"clip:{Path.cwd()}/nets/clip"), ("digits", "digits")):
        assert sent in prepare("generate", [*asked, given], shared=True).arguments


def test_folders_that_pictures_may_come_from_are_places_too(tmp_path: Path, toy_model: str) -> None:
    manifest = write_manifest(tmp_path, [RED])
    asked = [manifest, "--out", "s3://bucket/run", "--model", toy_model]
    roots = ["--inputs-root", "s3://pictures", "--inputs-root", "near"]
    with pytest.raises(LocalPath, match="--inputs-root near: on this machine"):
        prepare("generate", asked + roots, shared=False)
    sent = prepare("generate", asked + roots, shared=True).arguments
    assert sent[-4:] == ("--inputs-root", "s3://pictures", "--inputs-root", str(Path("near").absolute()))


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("audit", ["s3://AKIAKEY:verysecret@bucket/run"]),
        ("export", ["s3://bucket/run", "--format", "parquet", "--out=s3://AKIAKEY:verysecret@bucket/set"]),
        ("report", ["s3://bucket/run", "--against", "s3://bucket/other?X-Amz-Signature=verysecret"]),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_no_key_is_sent_where_everybody_may_read_it(job: str, arguments: list[str], shared: bool) -> None:
    with pytest.raises(ValueError, match="had a key, a password or a signature in it") as refused:
        prepare(job, arguments, shared)
    assert "verysecret" not in str(refused.value)


def test_a_name_is_the_jobs_and_its_runs() -> None:
    def name(job: str, run: str, *more: str) -> str:
        return prepare(job, [run, *more], shared=False).name

    one = name("report", "s3://bucket/runs/Night 7")
    assert one.startswith("report-night-7-")
    assert one == name("report", "s3://bucket/runs/Night 7", "--samples", "5"), "the same place is written to"
    assert len({one, name("audit", "s3://bucket/runs/Night 7"), name("report", "s3://other/runs/Night 7")}) == 3


def test_a_manifests_problems_are_told_before_anything_is_sent(tmp_path: Path, toy_model: str) -> None:
    manifest = write_manifest(tmp_path, [RED, {"task": "text_to_image", "promt": "x"}])
    for model in (toy_model, "s3://no-such-place/model", "/on/every/node"):
        with pytest.raises(ManifestError, match="jobs.jsonl line 2: unknown key 'promt'"):
            prepare("generate", [manifest, "--out", str(tmp_path / "run"), "--model", model], shared=True)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_here_is_said(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [RED])
    sent = prepare("generate", [manifest, "--out", str(tmp_path / "run"), "--model", "/on/every/node"], shared=True)
    assert "checked without the model" in sent.notes[0] and "/on/every/node must lie" in sent.notes[1]


def test_a_manifest_of_the_image_is_left_where_it_is() -> None:
    asked = ["/app/manifests/not-here.yaml", "--out", "s3://bucket/run"]
    sent = prepare("generate", asked, shared=False, image=True)
    assert list(sent.arguments) == asked and "must lie at that path on every node" in sent.notes[0]
    with pytest.raises(ManifestError, match="not-here.yaml"):
        prepare("generate", asked, shared=False)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_manifest_of_this_machine_goes_along(scheme: str, tmp_path: Path, toy_model: str, s3_env: str) -> None:
    manifest = scheme + write_manifest(tmp_path, [RED])
    sent = prepare("generate", [manifest, "--out", f"{s3_env}/run", "--model", toy_model], shared=False)
    there = sent.arguments[0]
    assert there.startswith(f"{s3_env}/run/inputs/") and there.endswith(".jsonl")
    assert json.dumps(sent.arguments) == json.dumps([there, "--out", f"{s3_env}/run", "--model", toy_model])


def test_a_file_uri_is_read_as_everywhere_else(tmp_path: Path, toy_model: str, s3_env: str) -> None:
    manifest = write_manifest(tmp_path / "my jobs", [RED])
    uri = Path(manifest).as_uri()
    assert "my%20jobs" in uri
    sent = prepare("generate", [uri, "--out", f"{s3_env}/run", "--model", toy_model], shared=False)
    assert sent.arguments[0].startswith(f"{s3_env}/run/inputs/")
    asked = [uri, "--out", (tmp_path / "my run").as_uri(), "--model", toy_model]
    assert prepare("generate", asked, shared=True).arguments[:3] == (manifest, "--out", str(tmp_path / "my run"))


@pytest.mark.parametrize("shared", [False, True])
def test_standard_input_is_not_sent(shared: bool) -> None:
    with pytest.raises(ValueError, match="standard input is read on this machine"):
        prepare("generate", ["-", "--out", "s3://bucket/run"], shared)


@pytest.mark.parametrize("several", ["home", "home/", "home/*.jsonl"])
def test_a_manifest_of_several_files_stays_here(several: str, tmp_path: Path, toy_model: str) -> None:
    write_manifest(tmp_path / "home", [RED])
    asked = [f"{tmp_path}/{several}", "--out", "s3://bucket/run", "--model", toy_model]
    with pytest.raises(ValueError, match=r"one file goes along with a job: give one file, or s3://bucket/prefix\. "):
        prepare("generate", asked, shared=False)
    assert prepare("generate", asked, shared=True).arguments[0] == str(Path(asked[0]))
