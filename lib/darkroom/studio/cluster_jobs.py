"""A cluster's jobs and nodes as the studio lists them: read through the job API, as `darkroom jobs` reads them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.phases import duration, redacted

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

TAIL = 20_000  # characters of a log that are looked through for its last line of progress
SHOWN_LINES, SHOWN = 400, 200_000  # lines of a log, and characters of it, that are shown at most
# What jobs say of how far they are: `96/480 rows committed, ...`, `epoch 1/2  step 50/60  ...`; before that a phase,
# `   4.1 s  starting Ray`.
_PROGRESS = re.compile(r"^\s*(?:[\d,]+/[\d,]+ rows committed.*|(?:\S+  )?epoch \d+/\d+ .*|[\d.]+ s  \S.*)$")
_SHARES = [
    re.compile(f"{before}([\\d,]+)/([\\d,]+){after}")
    for before, after in (("^", " rows"), ("step ", ""), ("epoch ", ""))
]
_OF_ALL = {"CPU", "GPU", "memory", "object_store_memory", "objectStoreMemory"}  # resources of every node
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Job:
    """A submitted job. began: seconds since the epoch, 0: not yet; seconds: that it took, or has taken so far; message:
    what Ray says of its end."""

    id: str
    kind: str
    status: str
    run: str
    priority: str
    began: float
    seconds: float
    over: bool
    command: str
    message: str = ""

    @property
    def line(self) -> dict[str, str]:
        """For a table."""
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.began)) if self.began else ""
        return {
            "job": self.id,
            "status": self.status,
            "begun, UTC": began,
            "time": duration(self.seconds) if self.began else "",
            "run": self.run,
        }


def job_of(details: JobDetails) -> Job:
    """What the job API says of a job, without anything secret that its command may name."""
    about: Mapping[str, str] = details.metadata or {}
    code = "" if details.driver_exit_code is None else f" ({details.driver_exit_code})"
    began, ended = (details.start_time or 0) / 1000, (details.end_time or time.time() * 1000) / 1000
    return Job(
        id=details.submission_id or "",
        kind=about.get("job", ""),
        status=f"{str(details.status.value).lower()}{code}",
        run=redacted(about.get("run", "")),
        priority=about.get("priority", "0"),
        began=began,
        seconds=max(0.0, ended - began) if began else 0.0,
        over=details.status.is_terminal(),
        command=redacted(details.entrypoint),
        message=redacted((details.message or "").partition(", last available logs")[0]),
    )


@dataclass(frozen=True)
class Progress:
    """What a job said last of how far it is. share: 0 to 1, None where it says none."""

    text: str = ""
    share: float | None = None


def progress(log: str) -> Progress:
    """By the last line of a log that tells; of a bar's redraws the last."""
    lines = clean(log[-TAIL:]).splitlines()
    text = next((line.strip() for line in reversed(lines) if _PROGRESS.match(line)), "")
    match = next((match for match in (share.search(text) for share in _SHARES) if match), None)
    if match is None:
        return Progress(text)
    done, of = (int(number.replace(",", "")) for number in match.groups())
    return Progress(text, min(1.0, done / of) if of else None)


def last_lines(log: str) -> tuple[str, int]:
    """The end of a log as it is shown, and how many of its lines are left out."""
    lines = clean(log).splitlines()
    shown = lines[-SHOWN_LINES:]
    return redacted("\n".join(shown)[-SHOWN:]), len(lines) - len(shown)


def clean(log: str) -> str:
    """A log without colours and cursor moves; what a carriage return overwrote is gone."""
    lines = log.replace("\r\n", "\n").split("\n")
    return "\n".join(_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)


def node_lines(nodes: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A line for each node, the head first, then by address; dead ones last."""
    return map(_node_line, sorted(nodes, key=_node_order))


def totals(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """What the living nodes have together, by resource."""
    found: dict[str, float] = {}
    for node in nodes:
        if _is_alive(node):
            for name, amount in _resources(node).items():
                found[name] = found.get(name, 0.0) + amount
    return found


def _node_order(node: dict[str, Any]) -> tuple[bool, bool, str]:
    raylet = node.get("raylet", {})
    return not _is_alive(node), not raylet.get("isHeadNode"), str(raylet.get("nodeManagerAddress", ""))


def _node_line(node: dict[str, Any]) -> dict[str, str]:
    raylet = node.get("raylet", {})
    has = _resources(node)
    own = {name: amount for name, amount in has.items() if name not in _OF_ALL}
    memory = node.get("mem") or [0, 0, 0]
    return {
        "node": str(raylet.get("nodeManagerAddress", node.get("ip", ""))),
        "host": str(node.get("hostname") or raylet.get("nodeManagerHostname", "")),
        "state": ("head" if raylet.get("isHeadNode") else "alive") if _is_alive(node) else "dead",
        "CPUs": f"{has.get('CPU', 0):g}",
        "GPUs": ", ".join(gpu.get("name", "GPU") for gpu in node.get("gpus") or ()) or f"{has.get('GPU', 0):g}",
        "in use": f"{node.get('cpu', 0):.0f} % of the processor, {_gib(memory[0] - memory[1])} of {_gib(memory[0])}"
        if _is_alive(node)
        else "",
        "set apart for": ", ".join(own),
    }


def _resources(node: dict[str, Any]) -> dict[str, float]:
    """By name; without those that Ray makes of the node's address, type and labels."""
    given = node.get("raylet", {}).get("resourcesTotal") or {}
    return {
        name: float(amount) for name, amount in given.items() if not name.startswith(("node:", "accelerator_type:"))
    }


def _is_alive(node: dict[str, Any]) -> bool:
    return node.get("raylet", {}).get("state") == "ALIVE"


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
