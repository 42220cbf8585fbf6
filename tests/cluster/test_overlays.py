"""What single overlays promise beside what holds for all of them."""

from __future__ import annotations

from pathlib import Path

from kustomize import Object, render

OVERLAYS = Path(__file__).parents[2] / "cluster" / "kubernetes" / "overlays"


def clusters(overlay: str) -> list[Object]:
    """The specs of its RayCluster and of its RayJobs' clusters."""
    found = [one["spec"] for one in render(OVERLAYS / overlay) if one["kind"] in ("RayCluster", "RayJob")]
    assert len(found) == 3
    return [spec.get("rayClusterSpec", spec) for spec in found]


def test_heads_stay_off_the_machines_that_may_be_taken_back() -> None:
    for cluster in clusters("spot"):
        (spot,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu-spot"]
        ((label, value),) = spot["template"]["spec"]["nodeSelector"].items()
        rule = cluster["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = rule["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term == {"matchExpressions": [{"key": label, "operator": "NotIn", "values": [value]}]}
