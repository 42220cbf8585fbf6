"""The RayJob of a tick, created at a server that answers as Kubernetes' API does, by its own certificate."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from darkroom.ray_cluster import ClusterError
from darkroom.retrain import rayjob
from darkroom.retrain.times import last_fire, tick_id

TOKEN = "a-token-of-the-pod"
JOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "nightly", "namespace": "darkroom"},
    "spec": {"entrypoint": "python -m darkroom.submit.entry retrain s3://darkroom/nightly.yaml --tick {tick}"},
}


class Kubernetes(BaseHTTPRequestHandler):
    """Keeps what it is given; a second object of a name, a wrong token or another path get the API's own answers."""

    kept: dict[str, dict[str, Any]]

    def do_POST(self) -> None:  # noqa: N802
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = given["metadata"]["name"]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Unauthorized"})
        elif self.path != "/apis/ray.io/v1/namespaces/darkroom/rayjobs":
            self._answer(403, {"message": f"rayjobs.ray.io is forbidden in {self.path.split('/')[5]}"})
        elif name in self.kept:
            self._answer(409, {"reason": "AlreadyExists", "message": f'rayjobs.ray.io "{name}" already exists'})
        else:
            self.kept[name] = given
            self._answer(201, given)

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *told: object) -> None:
        pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """One for 127.0.0.1 that signs itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = built.add_extension(address, critical=False).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "ca.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return folder / "ca.crt", folder / "key"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """What a pod sees: environment, account's folder; and `kept`, what the API was given."""
    handler = type("Handler", (Kubernetes,), {"kept": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "rayjob.yaml").write_text(yaml.safe_dump(JOB))
    where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.server_port)}
    environment = {**where, "JOB_NAME": "nightly-29400000", "JOB_UID": "5b4e"}
    yield SimpleNamespace(folder=tmp_path, environment=environment, kept=handler.kept)
    server.shutdown()
    server.server_close()
    thread.join()


def run(pod: SimpleNamespace) -> str:
    file = str(pod.folder / "rayjob.yaml")
    return rayjob.create_due(file, "0 2 * * *", "Europe/Zurich", pod.environment, pod.folder)


def test_a_tick_has_one_rayjob_however_often_it_is_begun(pod: SimpleNamespace) -> None:
    tick = tick_id(last_fire("0 2 * * *", "Europe/Zurich", datetime.now(UTC)))  # type: ignore[arg-type]
    assert run(pod) == f"created RayJob nightly-{tick.lower()}: {JOB['spec']['entrypoint'].format(tick=tick)}"
    assert run(pod) == f"RayJob nightly-{tick.lower()} is there already: the tick was begun before"
    (created,) = pod.kept.values()
    assert created["metadata"] == {
        "name": f"nightly-{tick.lower()}",
        "namespace": "darkroom",
        "annotations": {"darkroom/tick": tick},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29400000", "uid": "5b4e"}],
    }


def test_a_tick_is_named_where_the_entry_point_asks_for_it_and_its_day_is_the_clocks() -> None:
    """22:30 UTC is the next day in Zurich in summer."""
    moment = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
    words = "generate s3://b/{date}.yaml --out s3://b/runs/{date}/{tick}"
    for zone, day in (("UTC", "2026-07-01"), ("Europe/Zurich", "2026-07-02")):
        created = rayjob.of_tick({**JOB, "spec": {"entrypoint": words}}, moment, zone)
        assert created["spec"]["entrypoint"] == f"generate s3://b/{day}.yaml --out s3://b/runs/{day}/20260701T223000Z"
    bare = {**JOB, "spec": {"entrypoint": "retrain s3://b/p.yaml"}}
    assert rayjob.of_tick(bare, moment, "UTC")["spec"] == bare["spec"], "then it asks itself what is due"


def test_what_kubernetes_says_is_told(pod: SimpleNamespace) -> None:
    elsewhere = {**JOB, "metadata": {"name": "nightly", "namespace": "other"}}
    (pod.folder / "rayjob.yaml").write_text(yaml.safe_dump(elsewhere))
    with pytest.raises(ClusterError, match=r"refused the RayJob \(403\): rayjobs.ray.io is forbidden in other"):
        run(pod)
    (pod.folder / "token").write_text("stale")
    with pytest.raises(ClusterError, match=r"\(401\): Unauthorized"):
        run(pod)
    (pod.folder / "token").unlink()
    with pytest.raises(ClusterError, match="cannot ask Kubernetes at https://127.0.0.1.*No such file"):
        run(pod)
    assert pod.kept == {}


def test_another_servers_certificate_is_not_trusted(pod: SimpleNamespace) -> None:
    certificate(pod.folder)
    with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED"):
        run(pod)
    assert pod.kept == {}


def test_outside_a_pod_it_says_so(pod: SimpleNamespace) -> None:
    pod.environment.clear()
    with pytest.raises(ValueError, match="this is no pod of Kubernetes"):
        run(pod)


def test_it_fits_a_small_pod() -> None:
    """Whose memory is limited to less than torch takes."""
    asked = "import sys, darkroom.jobs.schedule, darkroom.retrain.rayjob; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], timeout=60).returncode == 0
