"""Creating a RayJob from inside a pod, by Kubernetes' own API and the pod's service account. No client is needed."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.ray_cluster import ClusterError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 30


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
