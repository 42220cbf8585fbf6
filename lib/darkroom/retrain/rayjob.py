"""A RayJob in a file, the RayJob of one tick, and creating it from inside a pod: what a CronJob's pod does.

By Kubernetes' own API and the pod's service account, with no client. No torch comes with it: the pod is small.
"""

from __future__ import annotations

import copy
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from darkroom.ray_cluster import ClusterError
from darkroom.retrain.times import check_cron, last_fire, read_zone, tick_id

Object = dict[str, Any]
BASES = "cluster/kubernetes/base of a checkout of darkroom's repository"
TICK = "darkroom/tick"
# What an entry point may say of the tick that its RayJob is created for: its id, and its day where its clock hangs.
TICK_WORD, DATE_WORD = "{tick}", "{date}"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 30


def read_rayjob(file: str, named: str = "train") -> Object:
    """The RayJob in a file (- is stdin), the one of that name if there are several. ValueError if there is none."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        found = [each for each in yaml.safe_load_all(text) if isinstance(each, dict) and each.get("kind") == "RayJob"]
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; wanted a file with a RayJob, such as lie in {BASES}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    chosen = found if len(found) == 1 else [each for each in found if each["metadata"]["name"] == named]
    if len(chosen) != 1:
        raise ValueError(f"{file} has {len(found)} RayJobs: wanted one, or one that is named {named}")
    return chosen[0]


def of_tick(job: Object, moment: datetime, time_zone: str) -> Object:
    """The RayJob of the tick at a moment: `job` with the tick in its name, its annotations and, where that asks for it,
    its entry point. Without it there a retraining finds out by itself what is due: this tick, and those missed before.
    """
    tick, day = tick_id(moment), moment.astimezone(read_zone(time_zone)).date().isoformat()
    found = copy.deepcopy(job)
    found["metadata"]["name"] = f"{job['metadata']['name']}-{tick.lower()}"
    found["metadata"]["annotations"] = {TICK: tick}
    entrypoint = found["spec"]["entrypoint"]
    found["spec"]["entrypoint"] = entrypoint.replace(TICK_WORD, tick).replace(DATE_WORD, day)
    return found


def create_due(file: str, cron: str, time_zone: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> str:
    """A sentence that says what was done. file: holds a RayJob, as `of_tick` takes it.

    Raises ValueError for the user's part, ClusterError.
    """
    check_cron(cron)
    due = last_fire(cron, time_zone, datetime.now(UTC))
    if due is None:
        raise ValueError(f"{cron!r} in {time_zone} was never due yet")
    job = of_tick(read_rayjob(file), due, time_zone)
    job = owned(job, environment.get("JOB_NAME"), environment.get("JOB_UID"))
    name = job["metadata"]["name"]
    if Api.of_this_pod(environment, account).create_rayjob(job):
        return f"created RayJob {name}: {job['spec']['entrypoint']}"
    return f"RayJob {name} is there already: the tick was begun before"


@dataclass(frozen=True)
class Api:
    """Where Kubernetes answers, and where the pod's token and the API's certificate authority lie."""

    url: str
    account: Path

    @classmethod
    def of_this_pod(cls, environment: Mapping[str, str], account: Path) -> Api:
        """ValueError outside a pod."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ValueError("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST and _PORT are not set")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", account)

    def create_rayjob(self, job: dict[str, Any]) -> bool:
        """False if there is one of that name. ClusterError if Kubernetes refuses, or does not answer."""
        path = f"/apis/{job['apiVersion']}/namespaces/{job['metadata']['namespace']}/rayjobs"
        try:
            token = (self.account / "token").read_text().strip()
            trusted = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            request = urllib.request.Request(self.url + path, json.dumps(job).encode(), headers, method="POST")
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trusted):
                return True
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return False
            raise ClusterError(f"Kubernetes refused the RayJob ({error.code}): {_message(error)}") from None
        except OSError as error:  # URLError is one
            raise ClusterError(f"cannot ask Kubernetes at {self.url}: {error}") from None


def owned(job: dict[str, Any], name: str | None, uid: str | None) -> dict[str, Any]:
    """The RayJob as one that goes when the Job that created it does; as it is where the Job is not known."""
    if not name or not uid:
        return job
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    return {**job, "metadata": {**job["metadata"], "ownerReferences": [owner]}}


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        return text[:500]
