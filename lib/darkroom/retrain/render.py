"""A schedule as Kubernetes objects: a RayCronJob of KubeRay's, or a plain CronJob that creates RayJobs.

Both hold the spec of a RayJob that is there already, with another entry point: one place says what a training's pods
look like. Neither object can tell the job its tick. A RayCronJob's job asks the schedule itself which tick is due; a
CronJob's pod asks before it creates the RayJob and names it after the tick, so that a tick has one RayJob however often
it is started.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from darkroom.retrain import cronjob
from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.rayjob import BASES, DATE_WORD, TICK_WORD, Object
from darkroom.retrain.schema import Schedule
from darkroom.storage import join, read_uri

Kind = Literal["raycronjob", "cronjob"]
LONGEST = {"raycronjob": 36, "cronjob": 30}  # KubeRay's limits: 36, and 47 for a RayJob, whose tick takes 17
PATHS = ("out", "registry", "source", "smoke", "classifier", "manifest")
OF_ALL_NODES = ("out", "registry", "data.source", "generate.out")  # the others may be files of the image
QUEUE, PART = "kueue.x-k8s.io/queue-name", "app.kubernetes.io/component"
_RAYCRONJOB = """\
# For KubeRay 1.6 and later, alpha: the operator must have been started with --feature-gates=RayCronJob=true. Else
# nothing starts, and nothing says so; a plain CronJob (--kind cronjob) needs no gate. The job finds out by itself which
# tick is due. A night whose hour is missing, where clocks go forward, is left out by the operator; what it starts a
# second time in a doubled hour is the same tick, and does nothing. No history is kept in bounds: its RayJobs stay until
# somebody deletes them, or this, which deletes them all.
"""


@dataclass(frozen=True)
class Scheduled:
    """What is to run and when. entrypoint: without a tick; one that retrains takes it, or finds out what is due. image:
    for every pod that has the base's, None: keep it. workers: how many a base with one group of them is to have, None:
    as many as it has."""

    name: str
    schedule: Schedule
    entrypoint: str
    image: str | None = None
    part: Literal["retrain", "generate"] = "retrain"
    workers: int | None = None


def read_scheduled(uri: str, at: str | None = None, image: str | None = None) -> Scheduled:
    """What a pipeline file wants run, and when. at: where a cluster finds it; None: at `uri`.

    ValueError, StorageError.
    """
    at, pipeline = at or uri, read_pipeline(uri)
    if pipeline.schedule is None:
        raise ValueError(f"{uri} has no 'schedule', which says when it is due")
    if not re.fullmatch(r"s3://[A-Za-z0-9._/-]+", at):
        raise ValueError(
            f"{at}: a cluster's nodes need the pipeline in a bucket, at s3://bucket/ and plain letters; copy it there, "
            "and what it names, and say where by --at. Its relative paths then count from there"
        )
    for key, path in _paths(yaml.safe_load(read_uri(uri))).items():
        try:
            place = join(at.rpartition("/")[0], path)
        except ValueError:
            raise ValueError(
                f"{uri}: {key}: {path} counts from where the file lies, and from {at} it climbs out of the bucket; "
                "keep as many folders above the file there as it has here: s3://bucket/manifests/pipelines/"
            ) from None
        if key in OF_ALL_NODES and not place.startswith("s3://"):
            raise ValueError(
                f"{uri}: {key}: {place} is a folder of one machine; wanted one in a bucket, or a relative path"
            )
    return Scheduled(pipeline.name, pipeline.schedule, f"python -m darkroom.submit.entry retrain {at}", image)


def _paths(document: Object) -> dict[str, str]:
    """What a pipeline file names, by key: "out", "data.source", ..."""
    parts = {"": document, "data.": document["data"], "generate.": document.get("generate") or {}}
    return {f"{name}{key}": part[key] for name, part in parts.items() for key in PATHS if part.get(key) is not None}


def rendered(kind: Kind, scheduled: Scheduled, base: Object) -> str:
    """YAML that `kubectl apply -f -` takes. base: a RayJob.

    ValueError where the name does not fit, or the base asks for what this kind cannot do.
    """
    name = _kubernetes_name(scheduled.name, LONGEST[kind])
    entrypoint = scheduled.entrypoint
    if scheduled.part == "retrain" and kind == "cronjob" and scheduled.schedule.missed != "all":
        entrypoint += f" --tick {TICK_WORD}"
    job = _like(base, scheduled, name, entrypoint)
    if kind == "raycronjob":
        head, objects = _RAYCRONJOB, [_ray_cron_job(scheduled, job)]
    else:
        config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {cronjob.FILE: _dump(job)}}
        cron_job = cronjob.cron_job(name, scheduled.schedule, _image(job), job["spec"])
        head, objects = cronjob.HEAD, [*cronjob.rights(), config, cron_job]
    what = f"the pipeline {scheduled.name}: change that" if scheduled.part == "retrain" else "--generate: do that anew"
    heading = f"# Made by `darkroom schedule render` from {what}, not this.\n#\n"
    return heading + head + "---\n".join(_dump(_placed(each, job)) for each in objects)


def _kubernetes_name(name: str, longest: int) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.match(r"[a-z]", found) or len(found) > longest:
        wanted = f"a letter first, and {longest} characters at most"
        raise ValueError(f"the name {name!r} would be {found!r} in Kubernetes; wanted {wanted}")
    return found


def _like(base: Object, scheduled: Scheduled, name: str, entrypoint: str) -> Object:
    """A RayJob like the base that runs it."""
    metadata = base["metadata"]
    labels = {**metadata.get("labels", {}), PART: scheduled.part}
    spec = copy.deepcopy(base["spec"]) | {"entrypoint": entrypoint}
    if scheduled.workers is not None:
        (group,) = worker_groups(spec)
        group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), scheduled.workers)
    if scheduled.image is not None:
        _replace_image(spec, _image(base), scheduled.image)
    placed = {"name": name, "namespace": metadata.get("namespace", "default"), "labels": labels}
    return {"apiVersion": base["apiVersion"], "kind": "RayJob", "metadata": placed, "spec": spec}


def worker_groups(spec: Object) -> list[Object]:
    """The groups of worker nodes in the spec of a RayJob. ValueError for one without a cluster of its own."""
    return _cluster(spec).get("workerGroupSpecs") or []


def _image(job: Object) -> str:
    return _cluster(job["spec"])["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]


def _cluster(spec: Object) -> Object:
    if "rayClusterSpec" not in spec:
        raise ValueError(
            "the RayJob to do it like has no rayClusterSpec: it is sent to a cluster that is there; wanted one with a "
            f"cluster of its own, such as lie in {BASES}"
        )
    return spec["rayClusterSpec"]


def _replace_image(node: Any, old: str, new: str) -> None:
    if isinstance(node, dict) and node.get("image") == old:
        node["image"] = new
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _replace_image(child, old, new)


def _ray_cron_job(scheduled: Scheduled, job: Object) -> Object:
    if QUEUE in job["metadata"]["labels"] or job["spec"].get("suspend"):
        raise ValueError("a RayCronJob gives its jobs no labels, so Kueue would never let them begin: --kind cronjob")
    if DATE_WORD in job["spec"]["entrypoint"] or TICK_WORD in job["spec"]["entrypoint"]:
        raise ValueError(
            f"a RayCronJob does not tell its job which tick it is for, so nothing fills {DATE_WORD} in: --kind cronjob"
        )
    begins = job["spec"].get("preRunningDeadlineSeconds", 0)
    if scheduled.schedule.missed == "none" and scheduled.schedule.deadline_seconds < begins:
        raise ValueError(
            f"a RayCronJob's job asks what is due when its cluster stands, which may take {begins} seconds: with "
            f"missed: none it wants a deadline_seconds of {begins} or more, was {scheduled.schedule.deadline_seconds}"
        )
    spec = {"schedule": scheduled.schedule.cron, "timeZone": scheduled.schedule.time_zone, "jobTemplate": job["spec"]}
    return {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "spec": spec}


def _placed(found: Object, job: Object) -> Object:
    """With the job's namespace, this part's labels, and the job's name where it has none."""
    part = "schedule" if found.get("metadata") else job["metadata"]["labels"][PART]  # one account creates all RayJobs
    labels = {"app.kubernetes.io/part-of": "darkroom", PART: part}
    name = found.get("metadata", {}).get("name", job["metadata"]["name"])
    metadata = {"name": name, "namespace": job["metadata"]["namespace"], "labels": labels}
    for subject in found.get("subjects", ()):
        subject["namespace"] = metadata["namespace"]
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata} | {
        key: value for key, value in found.items() if key != "metadata"
    }


class _Dumper(yaml.SafeDumper):
    """Lists indented, texts of several lines as they are, no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(found: Object) -> str:
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=110)
