"""A Ray cluster of several nodes for tests, and what is done to it."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conftest import S3Server
from darkroom.submit import nodes
from darkroom.submit.nodes import LocalCluster, Node
from darkroom.submit.request import prepare
from darkroom.submit.submission import Cluster

ROOT = Path(__file__).parent.parent


def exported(said: str) -> dict[str, str]:
    """What a shell takes from the lines that `darkroom cluster up` prints for it."""
    words = re.findall(r"^export (.*)$", said, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(" ".join(words)))


@dataclass
class Field:
    """A cluster under test: its job API, and the nodes as they come and go."""

    local: LocalCluster
    api: Cluster
    said: dict[str, str] = field(default_factory=dict)

    def submit(self, job: str, *arguments: str, shared: bool = False, priority: int = 0) -> str:
        """Submits this code's job; its id."""
        return self.api.submit(prepare(job, list(arguments), shared), None, priority, image_code=False).id

    def follow(self, name: str) -> int:
        """To the job's end; its exit code. What it said is in `said`."""
        parts: list[str] = []
        code = self.api.follow(name, parts.append)
        self.said[name] = "".join(parts)
        return code

    def wait_for(self, name: str, condition: Callable[[], Any], seconds: float, what: str) -> None:
        """Until something holds of a job that is under way; what the job said, if it does not come to that."""
        deadline = time.monotonic() + seconds
        while not condition():
            over = time.monotonic() > deadline or self.api.job(name).status.is_terminal()
            assert not over or condition(), f"waited in vain for {what}; {name} said:\n{self.api.log(name)[-4000:]}"
            time.sleep(0.2)

    def stage_actors(self, living: bool = True) -> list[tuple[str, set[str]]]:
        """Of all actors that hold a model, or did: their nodes' addresses, and what they asked for."""
        summary = nodes.ask(self.local, "/nodes?view=summary")["data"]["summary"]
        address = {node["raylet"]["nodeId"]: node["raylet"]["nodeManagerAddress"] for node in summary}
        listed = nodes.ask(self.local, "/api/v0/actors?limit=1000&detail=1")["data"]["result"]["result"]
        found = [actor for actor in listed if "(stage " in actor["class_name"]]
        return [
            (address[actor["node_id"]], set(actor["required_resources"]))
            for actor in found
            if actor["node_id"] in address and (actor["state"] == "ALIVE" or not living)  # else it never had a node
        ]

    def workers(self) -> list[Node]:
        return [node for node in self.local.nodes[1:] if node.alive]

    def lose(self, node: Node) -> None:
        nodes.kill_node(node)

    def gain(self, cpus: int, *stages: str) -> None:
        self.local = nodes.add_node(self.local, cpus, stages)


@contextmanager
def field_of(folder: Path, s3: S3Server, workers: int, cpus: int) -> Iterator[Field]:
    """A head and workers that reach the S3 server, which this process reaches too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_"))]:
            patch.delenv(name)
        for name, value in {**s3.env, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        local = nodes.up(str(folder / "cluster"), workers, cpus)
        try:
            # Not by the environment: Ray looks once in a process which token it has, and other tests had it look.
            yield Field(local, Cluster(local.dashboard, Path(local.folder, "token").read_text()))
        finally:
            nodes.down(local.folder)


def planted(patch: pytest.MonkeyPatch) -> dict[str, str]:
    """Secrets in this process' environment that no job has any business with."""
    secret = {name: secrets.token_hex(20) for name in ("AWS_SESSION_TOKEN_OF_OURS", "HF_TOKEN", "MY_PASSWORD")}
    for name, value in secret.items():
        patch.setenv(name, value)
    return secret


def python(program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A Python program in a process of its own, with this environment and no other RAY_ variable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    given = {**kept, "PYTHONPATH": str(ROOT / "lib"), **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=given, cwd=ROOT, **pipes)
