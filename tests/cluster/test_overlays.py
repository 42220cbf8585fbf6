"""What single overlays promise beside what holds for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.retrain.cronjob import cron_job
from darkroom.retrain.schema import Schedule
from kustomize import Object, render

KUBERNETES = Path(__file__).parents[2] / "cluster" / "kubernetes"


def clusters(overlay: str) -> list[Object]:
    """The specs of its RayCluster and of its RayJobs' clusters."""
    objects = render(KUBERNETES / "overlays" / overlay)
    found = [one["spec"] for one in objects if one["kind"] in ("RayCluster", "RayJob")]
    assert len(found) == 3
    return [spec.get("rayClusterSpec", spec) for spec in found]


def test_heads_stay_off_the_machines_that_may_be_taken_back() -> None:
    for cluster in clusters("spot"):
        (spot,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu-spot"]
        ((label, value),) = spot["template"]["spec"]["nodeSelector"].items()
        rule = cluster["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = rule["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term == {"matchExpressions": [{"key": label, "operator": "NotIn", "values": [value]}]}


def test_a_training_has_the_secrets_that_a_run_has() -> None:
    """The base of an adapter comes from the hub as a run's model does."""
    for cluster in clusters("gpu"):
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
        named = [[source["secretRef"]["name"] for source in container["envFrom"]] for container in containers]
        assert named == [["darkroom-storage", "darkroom-hub"]] * len(groups)


def test_how_long_a_job_waits_for_its_pods_is_told() -> None:
    """KubeRay tries a job anew whose pods found no place in time, as any that failed but one beyond its deadline."""
    for one in render(KUBERNETES / "base"):
        if one["kind"] == "RayJob":
            assert (one["spec"]["backoffLimit"] + 1, one["spec"]["preRunningDeadlineSeconds"]) == (3, 30 * 60)
    for place in ("../README.md", "prometheusrule.yaml", "overlays/production/platform.yaml"):
        assert "three tries of half an hour" in (KUBERNETES / place).read_text(), place


@pytest.mark.parametrize("overlay", ["gpu", "deepfloyd", "spot", "kueue", "redis", "production"])
def test_gpus_are_let_go_soon_after_a_job(overlay: str) -> None:
    """A cluster stays up whole for its ttl."""
    jobs = [one["spec"] for one in render(KUBERNETES / "overlays" / overlay) if one["kind"] == "RayJob"]
    assert len(jobs) == 2 and all(job["ttlSecondsAfterFinished"] <= 600 for job in jobs)


def test_production_has_room_for_what_hourly_schedules_keep() -> None:
    """Beyond the quota a tick's RayJob is refused, and so is every later one: only a new success sweeps an old away."""
    found = {(one["kind"], one["metadata"]["name"]): one for one in render(KUBERNETES / "overlays" / "production")}
    most = int(found["ResourceQuota", "darkroom"]["spec"]["hard"]["count/rayjobs.ray.io"])
    schedule = cron_job("hourly", Schedule(cron="0 * * * *"), "image", found["RayJob", "train"]["spec"])["spec"]
    kept = schedule["successfulJobsHistoryLimit"] + schedule["failedJobsHistoryLimit"]
    assert kept == 76 and 2 * kept < most
