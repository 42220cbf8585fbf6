"""`darkroom schedule render`: objects that Kubernetes and KubeRay take, like the RayJob they are made from."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from darkroom.jobs import schedule
from typer.testing import CliRunner

from cluster.test_kubernetes import KUBERNETES, LONGEST, problems, validators  # noqa: F401 - a fixture
from darkroom.retrain.cronjob import FILE
from darkroom.retrain.rayjob import of_tick, read_rayjob
from darkroom.retrain.render import read_scheduled, rendered
from darkroom.retrain.times import read_tick
from kustomize import Object

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
BASE = str(FOLDER / "base" / "rayjob-train.yaml")
AT = "s3://darkroom/manifests/pipelines/nightly.yaml"
TICK = "20261121T020000Z"
MOMENT = read_tick(TICK)
PIPELINE = """\
name: {name}
out: {out}
registry: ../registry
schedule: {{cron: "{cron}", time_zone: Europe/Zurich, missed: {missed}}}
data: {{kind: mnist}}
train: {{recipe: mnist-flow-class}}
gate: {{class_accuracy: {{at_least: 0.9}}}}
"""


def write(
    folder: Path, name: str = "nightly", out: str = "../runs", cron: str = "0 2 * * *", missed: str = "last"
) -> str:
    file = folder / "nightly.yaml"
    file.write_text(PIPELINE.format(name=name, out=out, cron=cron, missed=missed))
    return str(file)


def objects(kind: str, uri: str, base: str = BASE, image: str | None = None) -> dict[str, Object]:
    text = rendered(kind, read_scheduled(uri, AT, image), read_rayjob(base))  # type: ignore[arg-type]
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


def rayjob(found: dict[str, Object]) -> Object:
    return yaml.safe_load(found["ConfigMap"]["data"][FILE])


def creator(found: dict[str, Object]) -> Object:
    return found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def test_kuberay_takes_the_raycronjob(tmp_path: Path, validators: dict) -> None:  # noqa: F811
    found = objects("raycronjob", write(tmp_path))["RayCronJob"]
    assert problems(validators, found) == []
    assert problems(validators, {**found, "spec": {**found["spec"], "timezone": "UTC"}}) != []
    assert (found["spec"]["schedule"], found["spec"]["timeZone"]) == ("0 2 * * *", "Europe/Zurich")


def test_kubernetes_takes_the_cronjob_and_kuberay_what_it_creates(tmp_path: Path, validators: dict) -> None:  # noqa: F811
    found = objects("cronjob", write(tmp_path))
    assert list(found) == ["ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "ConfigMap", "CronJob"]
    for one in found.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        assert one["metadata"]["namespace"] == "darkroom"
        shared = one["kind"] not in ("ConfigMap", "CronJob")
        assert one["metadata"]["labels"]["app.kubernetes.io/component"] == ("schedule" if shared else "retrain")
    created = of_tick(rayjob(found), MOMENT, "UTC")
    assert problems(validators, created) == []
    assert created["metadata"]["name"] == "nightly-20261121t020000z"
    assert created["spec"]["entrypoint"] == f"python -m darkroom.submit.entry retrain {AT} --tick {TICK}"


def test_pods_are_those_of_the_training(tmp_path: Path) -> None:
    """Token, network policies' labels, secrets by reference, non-root: all of it, as the base's own tests see it."""
    base = read_rayjob(BASE)["spec"]
    for spec, tick in (
        (objects("raycronjob", write(tmp_path))["RayCronJob"]["spec"]["jobTemplate"], ""),
        (rayjob(objects("cronjob", write(tmp_path)))["spec"], " --tick {tick}"),
        (rayjob(objects("cronjob", write(tmp_path, missed="all")))["spec"], ""),  # it asks itself what is due
    ):
        assert spec.pop("entrypoint") == f"python -m darkroom.submit.entry retrain {AT}{tick}"
        assert spec == {key: value for key, value in base.items() if key != "entrypoint"}


def test_the_creator_may_create_rayjobs_and_nothing_else(tmp_path: Path) -> None:
    found = objects("cronjob", write(tmp_path))
    assert found["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    account = found["ServiceAccount"]["metadata"]["name"]
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert found["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "darkroom"}]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    pod = creator(found)
    assert pod["serviceAccountName"] == account and pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert "envFrom" not in container, "it needs no keys of the storage"
    template = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]
    assert (
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    )


def test_the_creators_command_is_one_that_exists(tmp_path: Path) -> None:
    python, script, *arguments = creator(objects("cronjob", write(tmp_path)))["containers"][0]["command"]
    assert python == "python" and (ROOT / script.removeprefix("/app/")).is_file()
    command = typer.main.get_command(schedule.app).commands[arguments[0]]  # type: ignore[attr-defined]
    given = command.make_context(script, arguments[1:]).params
    assert given == {"job": f"/etc/darkroom/{FILE}", "cron": "0 2 * * *", "time_zone": "Europe/Zurich"}


@pytest.mark.parametrize(
    ("cron", "missed", "deadline", "history"),
    [
        ("0 2 * * *", "last", 7 * 86400, 7),
        ("0 2 * * *", "none", 600, 7),
        ("0 * * * *", "last", 99 * 3600, 73),  # a job may last three days, tries included, and must not be swept away
        ("0 2 1 * *", "last", 28 * 86400, 7),  # from one tick to the next, at least
    ],
)
def test_how_late_a_tick_may_begin_and_how_many_are_kept(
    tmp_path: Path, cron: str, missed: str, deadline: int, history: int
) -> None:
    spec = objects("cronjob", write(tmp_path, cron=cron, missed=missed))["CronJob"]["spec"]
    assert (spec["startingDeadlineSeconds"], spec["successfulJobsHistoryLimit"]) == (deadline, history)
    assert spec["concurrencyPolicy"] == "Forbid"


def test_the_creators_pod_is_waited_for_as_a_jobs_pods_are(tmp_path: Path) -> None:
    """A tick that nobody created is lost: Kubernetes starts a Job beyond its deadline no second time."""
    found = objects("cronjob", write(tmp_path))
    patience = found["CronJob"]["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert patience == rayjob(found)["spec"]["preRunningDeadlineSeconds"]


def test_another_image_is_in_every_pod(tmp_path: Path) -> None:
    image = "registry.example.com/darkroom@sha256:" + "0" * 64
    for kind, pods in (("raycronjob", 3), ("cronjob", 4)):
        text = rendered(kind, read_scheduled(write(tmp_path), AT, image), read_rayjob(BASE))
        assert text.count(f"image: {image}\n") == pods and "darkroom:0.1.0" not in text


@pytest.mark.parametrize(("kind", "longest"), [("raycronjob", 36), ("cronjob", 30)])
def test_names_fit(tmp_path: Path, kind: str, longest: int) -> None:
    found = objects(kind, write(tmp_path, name="Aa._" + "b" * (longest - 3)))
    one = found.get("RayCronJob") or of_tick(rayjob(found), MOMENT, "UTC")
    assert len(one["metadata"]["name"]) == LONGEST[one["kind"]] and one["metadata"]["name"].startswith("aa-bbb")
    with pytest.raises(ValueError, match=f"a letter first, and {longest} characters at most"):
        objects(kind, write(tmp_path, name="a" * (longest + 1)))
    with pytest.raises(ValueError, match="a letter first"):
        objects(kind, write(tmp_path, name="2nd"))


@pytest.mark.parametrize(
    ("change", "at", "said"),
    [
        ({}, None, "need the pipeline in a bucket"),
        ({}, "s3://darkroom/my pipeline.yaml", "plain letters"),
        ({"out": "/var/runs"}, AT, "out: /var/runs is a folder of one machine"),
        (
            {"out": "../../runs"},
            "s3://b/nightly.yaml",
            "out: ../../runs counts .* climbs out of the bucket; keep as many",
        ),
    ],
)
def test_what_only_this_machine_has_is_refused(tmp_path: Path, change: dict, at: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_scheduled(write(tmp_path, **change), at)


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ("{kind: folder, source: /srv/pictures}", "", "data.source: /srv/pictures is a folder of one machine"),
        ("{kind: mnist}", "generate: {manifest: m.yaml, out: /srv/out}", "generate.out: /srv/out is a folder of one"),
        ("{kind: mnist}", "smoke: ../m.yaml", "smoke: ../m.yaml counts from where the file lies, .* climbs out of"),
    ],
)
def test_so_is_what_its_parts_name(tmp_path: Path, data: str, more: str, said: str) -> None:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "m.yaml").write_text("- {task: text_to_image, label: 7, id: one}\n")
    uri = write(folder, out="s3://b/runs")
    text = Path(uri).read_text().replace("../registry", "s3://b/registry").replace("{kind: mnist}", data)
    Path(uri).write_text(f"{text}{more}\n")
    with pytest.raises(ValueError, match=said):
        read_scheduled(uri, "s3://b/nightly.yaml")


def test_a_queue_needs_labels_that_a_raycronjob_does_not_give(tmp_path: Path) -> None:
    base = copy.deepcopy(read_rayjob(BASE))
    base["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "darkroom"
    queued = tmp_path / "queued.yaml"
    queued.write_text(yaml.safe_dump(base))
    with pytest.raises(ValueError, match="--kind cronjob"):
        objects("raycronjob", write(tmp_path), str(queued))
    created = rayjob(objects("cronjob", write(tmp_path), str(queued)))
    assert created["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "darkroom"


def test_a_raycronjobs_tick_must_still_be_in_time_when_its_cluster_stands(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may take 1800 seconds: with missed: none .* 1800 or more, was 600"):
        objects("raycronjob", write(tmp_path, missed="none"))


def test_the_readmes_command_renders_the_shipped_pipeline(validators: dict) -> None:  # noqa: F811
    """From the repository's root, as it is written there: the RayJob of the base is the only one there is."""
    pipeline = "manifests/pipelines/mnist-nightly.yaml"
    for kind in ("cronjob", "raycronjob"):
        command = ["darkroom.jobs.schedule", "render", pipeline, "--at", f"s3://darkroom/{pipeline}", "--kind", kind]
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
        made = of_tick(rayjob(found), MOMENT, "UTC") if kind == "cronjob" else found["RayCronJob"]
        assert problems(validators, made) == [] and made["metadata"]["name"].startswith("mnist-nightly")
        assert made["metadata"]["namespace"] == "darkroom"


def invoke(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(schedule.app, ["render", *arguments], **more)


def test_mistakes_are_told(tmp_path: Path) -> None:
    uri, notes = write(tmp_path), tmp_path / "notes.yaml"
    notes.write_text("kind: Service")
    for job, said in (("absent.yaml", "No such file or directory"), (str(notes), "has 0 RayJobs")):
        done = invoke(uri, "--at", AT, "--job", job)
        assert done.exit_code == 2 and said in done.stderr
    done = invoke(write(tmp_path, cron="61 2 * * *"), "--at", AT, "--job", BASE)
    assert done.exit_code == 2 and "nightly.yaml line 4: schedule.cron: " in done.stderr


def test_an_overlays_pods_are_taken(tmp_path: Path) -> None:
    """kubectl kustomize OVERLAY | darkroom schedule render PIPELINE --job -"""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, which renders the overlay")
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / "gpu")]
    overlay = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    done = invoke(write(tmp_path), "--at", AT, "--kind", "raycronjob", "--job", "-", input=overlay)
    (group,) = yaml.safe_load(done.stdout)["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
