"""`darkroom schedule render --generate`: a data set made each night, on the pods of the RayJob that generates."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from darkroom.jobs import schedule
from typer.testing import CliRunner

from cluster.test_kubernetes import KUBERNETES, problems, validators  # noqa: F401 - a fixture
from darkroom.retrain.cronjob import FILE
from darkroom.retrain.rayjob import of_tick, read_rayjob
from darkroom.retrain.times import read_tick
from darkroom.submit.request import run_of
from kustomize import Object, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
BASE = FOLDER / "base" / "rayjob-generate.yaml"
MANIFEST, OUT = "s3://darkroom/manifests/digits.yaml", "s3://darkroom/digits/{date}"
USUAL = ("--generate", MANIFEST, "--out", OUT, "--cron", "0 4 * * *", "--time-zone", "Asia/Tokyo")
MOMENT = read_tick("20261120T190000Z")  # four o'clock of the 21st in Tokyo


def invoke(*arguments: str, **more: Any) -> Any:
    job = () if "--job" in arguments else ("--job", str(BASE))
    return CliRunner().invoke(schedule.app, ["render", *arguments, *job], **more)


def objects(*arguments: str) -> dict[str, Object]:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}


def created(found: dict[str, Object]) -> Object:
    return of_tick(yaml.safe_load(found["ConfigMap"]["data"][FILE]), MOMENT, "Asia/Tokyo")


def test_each_night_has_a_run_of_its_own_day(validators: dict) -> None:  # noqa: F811
    found = objects(*USUAL, "--model", "registry://s3://darkroom/registry/digits", "--capacity", "64", "--workers", "3")
    assert list(found) == ["ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "ConfigMap", "CronJob"]
    for one in found.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    spec = found["CronJob"]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("0 4 * * *", "Asia/Tokyo", "Forbid")
    job = created(found)
    assert problems(validators, job) == [] and job["metadata"]["name"] == "generate-digits-20261120t190000z"
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "generate"
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:5] == ["python", "-m", "darkroom.submit.entry", "generate", MANIFEST]
    assert run_of("generate", words[4:]) == "s3://darkroom/digits/2026-11-21", "where its log is kept, too"
    assert words[words.index("--model") + 1] == "registry://s3://darkroom/registry/digits"
    assert words[words.index("--capacity") + 1] == "64" and not set(job["spec"]["entrypoint"]) & set("{}'\"$;&|")


def test_its_pods_are_those_of_the_generating_job() -> None:
    """Token, network policies' labels, secrets, deadlines: all of it but how many nodes there are."""
    base = read_rayjob(str(BASE), "generate")["spec"]
    for asked, count in (((), 2), (("--workers", "5"), 5)):
        spec = created(objects(*USUAL, *asked))["spec"]
        assert f"--workers {count}" in spec.pop("entrypoint"), "on processors one for each node"
        (group,), (given,) = spec["rayClusterSpec"]["workerGroupSpecs"], base["rayClusterSpec"]["workerGroupSpecs"]
        assert [group.pop(key) for key in ("replicas", "minReplicas", "maxReplicas")] == [count] * 3
        spec["rayClusterSpec"]["workerGroupSpecs"] = [{**given, **group}]
        assert spec == {key: value for key, value in base.items() if key != "entrypoint"}


def test_groups_by_stage_stay_as_they_are(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump_all(render(FOLDER / "overlays" / "deepfloyd")))
    job = created(objects(*USUAL, "--model", "deepfloyd-xl", "--stage1-workers", "2", "--job", str(overlay)))
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(group["groupName"], group["replicas"]) for group in groups] == [
        ("stage1", 2),
        ("stage2", 2),
        ("encoders", 1),
    ]
    assert "--stage1-workers 2" in job["spec"]["entrypoint"] and "--workers" not in job["spec"]["entrypoint"]


def test_a_head_that_works_alone_stays_alone(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump_all(render(FOLDER / "overlays" / "laptop")))
    job = created(objects(*USUAL, "--model", "sd-xs", "--workers", "1", "--job", str(overlay)))
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"] == [] and "--workers 1" in job["spec"]["entrypoint"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rayClusterSpec": None, "clusterSelector": {"ray.io/cluster": "ours"}}, "has no rayClusterSpec: it is sent"),
        ({"replicas": None}, "the RayJob's group workers has no replicas: say by --workers how many"),
        ({"workerGroupSpecs": None}, ""),
    ],
)
def test_a_rayjob_of_ones_own_need_not_have_all_that_ours_have(change: dict, said: str, tmp_path: Path) -> None:
    base = read_rayjob(str(BASE), "generate")
    cluster = base["spec"]["rayClusterSpec"]
    for part in (base["spec"], cluster, cluster["workerGroupSpecs"][0]):
        for key in part.keys() & change.keys():
            del part[key]
    base["spec"] |= {key: value for key, value in change.items() if value}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(base))
    done = invoke(*USUAL, "--job", str(file))
    assert (done.exit_code, said in done.stderr) == (2 if said else 0, True), done.output


def test_where_the_cluster_finds_it_may_be_there_here_too(tmp_path: Path) -> None:
    """As where this is typed in the image: then --at says that the path is the nodes' own."""
    manifest = tmp_path / "nightly.yaml"
    manifest.write_text("matrix:\n  - {task: text_to_image, prompt: a red seven on white, id: one}\n")
    usual = ("--generate", str(manifest), "--out", OUT, "--cron", "0 4 * * *")
    assert str(manifest) in created(objects(*usual, "--at", str(manifest)))["spec"]["entrypoint"]
    assert "do not see this machine's files" in invoke(*usual).stderr


def test_a_manifest_that_lies_here_is_checked_here(tmp_path: Path) -> None:
    manifest = tmp_path / "nightly.yaml"
    manifest.write_text("matrix:\n  - {task: text_to_image, prompt: a red seven on white, id: one}\n")
    usual = ("--generate", str(manifest), "--at", MANIFEST, "--out", OUT, "--cron", "0 4 * * *")
    found = objects(*usual, "--name", "seven")
    assert (
        created(found)["metadata"]["name"].startswith("seven-2026") and MANIFEST in created(found)["spec"]["entrypoint"]
    )
    manifest.write_text("matrix:\n  - {task: text_to_image, promt: a red seven on white}\n")
    done = invoke(*usual)
    assert done.exit_code == 2 and "did you mean 'prompt'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--generate", MANIFEST, "--out", OUT), "--generate wants to know when it is due"),
        ((*USUAL[:-4], "--cron", "61 4 * * *"), "is no cron line: minute '61'"),
        (("--generate", "nightly.yaml", *USUAL[2:]), "nightly.yaml: a cluster's nodes do not see this machine's files"),
        (("--generate", MANIFEST, "--out", "runs/{date}", *USUAL[4:]), "--out runs/{date}: wanted s3://"),
        ((*USUAL, "--model", "runs/flow"), "--model runs/flow: on this machine, and the cluster's nodes see others"),
        ((*USUAL, "--embeddings", "s3://KEYID:secret@bucket/embeddings"), "had a key, a password or a signature in it"),
        ((*USUAL, "--capacty", "3"), "--capacty"),
        ((*USUAL, "--model", "s3://darkroom/$(id)"), "plain letters, digits and"),
        ((*USUAL, "--kind", "raycronjob"), "so nothing fills {date} in: --kind cronjob"),
        ((*USUAL, "--name", "a" * 31), "30 characters at most"),
        (("a.yaml", "b.yaml"), "wanted one pipeline file, or --generate"),
        (("a.yaml", "--workers", "3"), "wanted one pipeline file, or --generate"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], said: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output


def test_the_readmes_command_renders(validators: dict) -> None:  # noqa: F811
    text = (ROOT / "cluster" / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^darkroom schedule render (--generate .*) \| kubectl apply -f -$", text, re.MULTILINE)
    job = created(objects(*shlex.split(line)))
    assert problems(validators, job) == [] and "--out s3://darkroom/digits/2026-11-21 " in job["spec"]["entrypoint"]
