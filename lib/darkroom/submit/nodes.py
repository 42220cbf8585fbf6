"""A real Ray cluster of processes on this machine: a head that does no work, and workers. For trying things, and tests.

    FOLDER/cluster.json    what was started: addresses, processes
    FOLDER/token           the shared secret that every request must bring, readable by its owner alone
    FOLDER/*.log           what each node said when it started

Every node has an address of its own, 127.0.0.2 for the head and 127.0.0.3, 127.0.0.4, ... for the workers, so that
nothing works here merely because two nodes have one address. That protects nothing: Ray listens on every interface
whatever address it is told, so the token is always on. Nodes get this process' environment: what workers need to
reach storage must be in it.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from darkroom.ray_cluster.connection import SHORT_FOLDER, ClusterError
from darkroom.ray_cluster.processes import kill_trees, start_time

LOOPBACK, HEAD_ADDRESS = "127.0.0.1", "127.0.0.2"  # Ray takes the first for the machine's address on its network
OBJECT_STORE_BYTES = 150 * 2**20
START_SECONDS = 120.0
# Worth another try: another process took a port meanwhile, or the machine was too busy for Ray's 30 seconds.
PASSING = ("ddress already in use", "Failed to bind to address", "timed out during startup")
PORTS = range(20_000, 32_000)  # below those that systems give out by themselves, to any process at any moment


@dataclass(frozen=True)
class Node:
    """A node: the process that keeps it up, when that began (see `processes.start_time`), its address and CPUs, and the
    stages it is set apart for, none: any."""

    name: str
    pid: int
    began: int
    address: str
    cpus: int
    stages: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.began


@dataclass(frozen=True)
class LocalCluster:
    """What cluster.json holds. address: of Ray's control plane; dashboard: of the job API; client: of Ray Client."""

    folder: str
    address: str
    dashboard: str
    client: str
    temporary: str
    nodes: tuple[Node, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to come in."""
        token = str(Path(self.folder, "token"))
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}


def default_folder() -> str:
    return os.path.expanduser("~/.darkroom/cluster")


def up(folder: str, workers: int, cpus_per_node: int) -> LocalCluster:
    """Starts a head and the workers, one after the other: two at once may choose the same port. ValueError if the
    folder holds a cluster that is up, ClusterError if a node does not come up."""
    place = Path(folder).absolute()
    if (place / "cluster.json").exists():
        if any(node.alive for node in read(folder).nodes):
            raise ValueError(f"a cluster is up in {folder}: see `darkroom cluster status`, or end it by `down`")
        down(folder)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_token(place / "token")
    cluster = _start_head(place)
    try:
        for _ in range(workers):
            cluster = add_node(cluster, cpus_per_node)
    except BaseException:
        down(folder)
        raise
    return cluster


def add_node(cluster: LocalCluster, cpus: int, stages: tuple[str, ...] = ()) -> LocalCluster:
    """One more worker; returns when the head counts it in. stages: what it is set apart for."""
    number = len(cluster.nodes)
    flags = (f"--address={cluster.address}", f"--resources={json.dumps(dict.fromkeys(stages, 1))}")
    node = _start(cluster, f"worker-{number}", f"127.0.0.{number + 2}", cpus, flags)
    return _record(replace(cluster, nodes=(*cluster.nodes, replace(node, stages=stages))))


def kill_node(node: Node) -> None:
    """Ends a node as a power cut would: its processes and all that runs on it, at once."""
    if node.alive:
        kill_trees([node.pid])


def down(folder: str) -> int:
    """Ends what `up` started, by its own processes, and forgets it; how many nodes there were. Never `ray stop`, which
    ends every Ray of the user."""
    cluster = read(folder)
    # Workers first: a head that is gone has them wait for it.
    kill_trees(node.pid for node in reversed(cluster.nodes) if node.alive)
    for _ in range(10):  # a worker process whose node is gone ends by itself, and may write a last line before
        shutil.rmtree(cluster.temporary, ignore_errors=True)
        if not Path(cluster.temporary).exists():
            break
        time.sleep(0.5)
    for name in ("cluster.json", "token"):
        Path(folder, name).unlink(missing_ok=True)
    return len(cluster.nodes)


def read(folder: str) -> LocalCluster:
    """The cluster in a folder; ValueError if there is none."""
    try:
        fields = json.loads(Path(folder, "cluster.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"no cluster was started in {folder}: `darkroom cluster up` starts one") from None
    return LocalCluster(**{**fields, "nodes": tuple(_node(node) for node in fields["nodes"])})


def _node(fields: dict[str, Any]) -> Node:
    return Node(**{**fields, "stages": tuple(fields["stages"])})


def ask(cluster: LocalCluster, path: str) -> Any:
    """The dashboard's answer, from JSON. OSError if it does not answer."""
    token = Path(cluster.folder, "token").read_text()
    request = urllib.request.Request(cluster.dashboard + path, headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    with direct.open(request, timeout=10) as answer:
        return json.load(answer)


def members(cluster: LocalCluster) -> list[str]:
    """Addresses of the nodes that the head counts as alive; none while it does not answer."""
    try:
        summary = ask(cluster, "/nodes?view=summary")["data"]["summary"]
    except (OSError, KeyError, ValueError):
        return []
    return [node["raylet"]["nodeManagerAddress"] for node in summary if node["raylet"].get("state") == "ALIVE"]


def _start_head(place: Path) -> LocalCluster:
    control, dashboard, client = _free_ports(3)
    cluster = LocalCluster(
        folder=str(place),
        address=f"{HEAD_ADDRESS}:{control}",
        dashboard=f"http://{LOOPBACK}:{dashboard}",
        client=f"ray://{HEAD_ADDRESS}:{client}",
        temporary=_short_folder(),
        nodes=(),
    )
    flags = (
        "--head",
        f"--port={control}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        "--disable-usage-stats",
    )
    try:
        node = _start(cluster, "head", HEAD_ADDRESS, 0, flags)
    except BaseException:
        shutil.rmtree(cluster.temporary, ignore_errors=True)
        raise
    return _record(replace(cluster, nodes=(node,)))


def _short_folder() -> str:
    """Not in the cluster's, nor in a long one of a batch system: the paths of Ray's sockets must be short."""
    given = tempfile.gettempdir()
    is_long = len(f"{given}/darkroom-12345678/worker-12") > SHORT_FOLDER
    return tempfile.mkdtemp(prefix="darkroom-", dir="/tmp" if is_long else given)


def _start(cluster: LocalCluster, name: str, address: str, cpus: int, flags: tuple[str, ...]) -> Node:
    """Starts a node and waits until the head counts it in; once more where that may help."""
    common = (
        f"--node-ip-address={address}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--dashboard-agent-listen-port=0",  # its default is one port, and the nodes share this machine's
        f"--temp-dir={cluster.temporary}/{name}",  # else one node deletes the code that another's jobs stand in
    )
    log = Path(cluster.folder, f"{name}.log")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *flags, *common]
    for attempt in (1, 2):
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_environment(cluster),
                start_new_session=True,  # an interrupt at the terminal is not for the cluster
            )
        began = start_time(process.pid)
        if began is not None and _joins(cluster, process, address):
            return Node(name, process.pid, began, address, cpus)
        kill_trees([process.pid])
        said = log.read_text(errors="replace")
        if attempt == 1 and not any(reason in said for reason in PASSING):
            break
    raise ClusterError(f"the node {name} did not come up; the end of {log}:\n{said[-1500:]}")


def _joins(cluster: LocalCluster, process: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if address in members(cluster) and _listens(cluster.client):
            return True
        time.sleep(0.25)
    return False


def _listens(uri: str) -> bool:
    """Of Ray Client's, which the head starts last."""
    host, _, port = uri.rpartition("/")[2].partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _environment(cluster: LocalCluster) -> dict[str, str]:
    """This process', with the token; a job's entry point finds this Python first, wherever it was called from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    token = {name: value for name, value in cluster.environment.items() if name != "RAY_ADDRESS"}
    return {**kept, **token, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}


def _write_token(path: Path) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def _record(cluster: LocalCluster) -> LocalCluster:
    Path(cluster.folder, "cluster.json").write_text(json.dumps(asdict(cluster), indent=2))
    return cluster


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"no {count} free ports from {PORTS.start} to {PORTS.stop - 1} on this machine")
