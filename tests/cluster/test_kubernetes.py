"""cluster/kubernetes: every overlay renders, and every object in it is one that Kubernetes and KubeRay take.

KubeRay's schemas are not shipped here. The tests look for them in the folder KUBERAY_SCHEMAS; see `SCHEMAS`.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from kustomize import Object, apply, read_yaml, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
OVERLAYS = ["base", *sorted(f"overlays/{path.parent.name}" for path in FOLDER.glob("overlays/*/kustomization.yaml"))]
SCHEMAS = Path(os.environ.get("KUBERAY_SCHEMAS", ROOT.parent / "shared" / "schemas"))
HOW_TO_GET_THEM = (
    "no KubeRay schemas: set KUBERAY_SCHEMAS to a folder of *.json.gz, each {group, version, kind, openAPIV3Schema} of "
    "one file in helm-chart/kuberay-operator/crds of github.com/ray-project/kuberay"
)
KUBERNETES = "1.33"
# The longest names that leave room for what KubeRay appends; the API server has no rule on it.
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36}
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
# Newer than KubeRay 1.6, or off unless a feature gate is set.
TOO_NEW = {"networkPolicy", "tlsOptions", "historyServerOptions", "priority", "ingressOptions", "backend", "storage"}


def files() -> list[Path]:
    """All objects as they are written, patched or not; patches are lists of operations."""
    return [
        path
        for path in sorted(FOLDER.rglob("*.yaml"))
        if path.name != "kustomization.yaml" and all(isinstance(document, dict) for document in read_yaml(path))
    ]


def identity(found: Object) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def of_kuberay(objects: list[Object]) -> list[Object]:
    return [found for found in objects if found["apiVersion"].startswith("ray.io/")]


def cluster_spec(found: Object) -> Object:
    spec = found["spec"].get("jobTemplate", found["spec"])
    return spec if found["kind"] == "RayCluster" else spec["rayClusterSpec"]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    return {name: render(FOLDER / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def validators() -> dict[tuple[str, str], tuple[Object, Draft202012Validator]]:
    """KubeRay's schemas by (apiVersion, kind), as they are and with unknown fields refused."""
    found = {}
    for path in sorted(SCHEMAS.glob("*.json.gz")):
        crd = json.loads(gzip.decompress(path.read_bytes()))
        schema = crd["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own; looked at below
        found[f"{crd['group']}/{crd['version']}", crd["kind"]] = schema, Draft202012Validator(strict(schema))
    if not found:
        pytest.skip(HOW_TO_GET_THEM)
    return found


def strict(node: Any) -> Any:
    """The schema, with fields that it does not name refused, as `kubectl apply` refuses them."""
    if isinstance(node, list):
        return [strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    tight = {key: value if key in ("default", "enum", "required") else strict(value) for key, value in node.items()}
    if tight.get("type") == "object" and isinstance(tight.get("properties"), dict):
        tight.setdefault("additionalProperties", False)
    return tight


def with_defaults(schema: Object, value: Any) -> Any:
    """What the API server validates: the object, its defaults filled in."""
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), part) for part in value]
    if not isinstance(value, dict):
        return value
    inside, others = schema.get("properties", {}), schema.get("additionalProperties")
    others = others if isinstance(others, dict) else {}
    filled = {key: with_defaults(inside.get(key, others), part) for key, part in value.items()}
    absent = {key: copy.deepcopy(part["default"]) for key, part in inside.items() if "default" in part}
    return {**absent, **filled}


def problems(validators: dict[tuple[str, str], tuple[Object, Draft202012Validator]], found: Object) -> list[str]:
    schema, validator = validators[found["apiVersion"], found["kind"]]
    errors = validator.iter_errors(with_defaults(schema, found))
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


@pytest.mark.parametrize("name", OVERLAYS)
def test_custom_resources_fit_kuberays_schemas(name: str, rendered: dict, validators: dict) -> None:
    found = of_kuberay(rendered[name])
    assert {identity(one) for one in found} == {("RayCluster", "darkroom"), ("RayJob", "generate"), ("RayJob", "train")}
    for one in found:
        assert problems(validators, one) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/imagePullPolice", "Always"),
        ("/spec/rayClusterSpec/workerGroupSpecs/0/minReplica", 1),
        ("/spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0),
        ("/spec/activeDeadlineSecond", 5),
        ("/spec/rayClusterSpec/authOptions/mode", "password"),
    ],
)
def test_a_mistake_is_found(path: str, value: Any, rendered: dict, validators: dict) -> None:
    job = copy.deepcopy(next(one for one in rendered["overlays/gpu"] if one["kind"] == "RayJob"))
    apply(job, {"op": "add", "path": path, "value": value})
    assert len(problems(validators, job)) == 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_the_schemas_do_not_say(name: str, rendered: dict) -> None:
    """Rules of KubeRay's operator, which would refuse the object only once it is applied."""
    for one in of_kuberay(rendered[name]):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
        assert len(one["metadata"]["name"]) <= LONGEST[one["kind"]]
        spec, cluster = one["spec"], cluster_spec(one)
        for group in cluster["workerGroupSpecs"]:
            assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], group["groupName"]
            if not cluster.get("enableInTreeAutoscaling"):
                assert group["minReplicas"] == group["maxReplicas"], "nothing would make it larger"
        if cluster.get("enableInTreeAutoscaling"):
            assert cluster["autoscalerOptions"]["version"] == "v2"
            templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            assert all("restartPolicy" not in part["template"]["spec"] for part in templates)
        for container in containers(one):
            names = [variable["name"] for variable in container.get("env", ())]
            assert len(names) == len(set(names)), "a variable is set twice"
        if one["kind"] == "RayJob":
            assert spec["submissionMode"] in SUBMISSION_MODES
            assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] >= 0
            assert spec["backoffLimit"] >= 0 and "clusterSelector" not in spec and "deletionStrategy" not in spec
            assert not set(spec["entrypoint"]) & set("'\"$`;&|<>(){}\n"), "it is pasted into a shell's line as it is"


def containers(node: Any) -> list[Object]:
    """All containers in an object, wherever they are."""
    if isinstance(node, list):
        return [found for part in node for found in containers(part)]
    if not isinstance(node, dict):
        return []
    own = [found for key in ("containers", "initContainers") for found in node.get(key, ())]
    return own + [found for part in node.values() for found in containers(part)]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_new_fields_are_marked(path: Path) -> None:
    """A field that KubeRay 1.6 brought says so on its line; nothing newer is used."""
    for line in path.read_text().splitlines():
        if "preRunningDeadlineSeconds:" in line or "secretName: darkroom-ray-token" in line:
            assert "new in 1.6" in line
    for one in of_kuberay(read_yaml(path)):
        cluster = cluster_spec(one)
        used = {*cluster, *cluster["headGroupSpec"], *(key for group in cluster["workerGroupSpecs"] for key in group)}
        assert not used & TOO_NEW


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_own_kinds(name: str, rendered: dict) -> None:
    for one in [*rendered[name], *read_yaml(FOLDER / "secret.example.yaml")]:
        if not one["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_of_kuberay_are_pods(name: str, rendered: dict) -> None:
    """KubeRay's schema knows the fields of a pod, but Kubernetes' own says more about their values."""
    for one in of_kuberay(rendered[name]):
        cluster = cluster_spec(one)
        templates = [part["template"] for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
        templates += [one["spec"]["submitterPodTemplate"]] if one["kind"] == "RayJob" else []
        for template in templates:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
            mounted = {volume["name"] for volume in template["spec"]["volumes"]}
            for container in template["spec"]["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= mounted


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_belongs_to_a_part(name: str, rendered: dict) -> None:
    """`kubectl apply -l app.kubernetes.io/component=...` must leave nothing out."""
    for one in rendered[name]:
        assert one["metadata"]["labels"]["app.kubernetes.io/component"] in {"platform", "cluster", "generate", "train"}
        assert one["kind"] in ("Namespace", "PriorityClass") or one["metadata"]["namespace"] == "darkroom"
    assert len({identity(one) for one in rendered[name]}) == len(rendered[name])


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_says_the_same(name: str, rendered: dict) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl: the overlays were rendered by tests/kustomize.py alone")
    command = ["kubectl", "kustomize", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = {identity(one): one for one in yaml.safe_load_all(done.stdout)}
    assert printed == {identity(one): one for one in rendered[name]}


def test_patches_go_where_they_say() -> None:
    document = {"list": [{"a": 1}], "with/slash": 0}
    apply(document, {"op": "copy", "from": "/list/0", "path": "/list/0"})
    apply(document, {"op": "replace", "path": "/list/0/a", "value": 4})
    assert document["list"] == [{"a": 4}, {"a": 1}]
    del document["list"][0]
    apply(document, {"op": "add", "path": "/list/-", "value": 2})
    apply(document, {"op": "add", "path": "/list/0", "value": 0})
    apply(document, {"op": "replace", "path": "/list/1/a", "value": 5})
    apply(document, {"op": "replace", "path": "/with~1slash", "value": 1})
    assert document == {"list": [0, {"a": 5}, 2], "with/slash": 1}
    for path in ("/absent", "/list/9/a"):
        with pytest.raises((KeyError, IndexError)):
            apply(document, {"op": "replace", "path": path, "value": 0})
