"""What a cluster has, which of its nodes are set apart for which stages, and waiting for one that is still growing.

A node is set apart by custom resources of Ray that are named after stages: `stage1`, `stage2`, `stage3`, and `encoders`
for text encoders. A stage that has such nodes runs on them and nowhere else.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import ray

from darkroom.ray_cluster import node_resources

ACTOR_CPUS = 0.25  # at least
ACTORS_SHARE = 0.75  # of the processors, so that tasks always find room beside actors
# Loading and writing mostly wait on storage. Not what any actor asks for: Ray would fuse a task into an actor that
# asks for the same, and the engine would wait for its pictures.
TASK_CPUS = 0.2
POLL_SECONDS = 2.0
ANSWER_SECONDS = 120.0
# Of a large network, to a factor of two or three: an A100's 108 multiprocessors make 120 TFLOP/s of IF-I-M in bfloat16
# (diffusers' published speeds).
GPU_FLOPS = 1.1e12
ENCODERS = "encoders"
MARK_PART = 0.001  # of a node's mark, whatever its amount: an actor says where it belongs, and does not use it up
_MARK = re.compile(rf"stage[1-3]|{ENCODERS}")


@dataclass(frozen=True)
class Wanted:
    """A stage that wants actors. workers: as the user says, None: as many as there is room for.

    cost: of one row, beside the other stages'; memory: bytes it needs, where several share a GPU. judge: it looks at
    pictures; early: before another stage has them.
    """

    name: str
    workers: int | None = None
    cost: float = 1.0
    memory: float = 1.0
    judge: bool = False
    early: bool = False

    @property
    def mark(self) -> str:
        """What nodes that are set apart for it have as a resource."""
        return self.name.replace(" ", "")

    def with_memory(self, size: float) -> Wanted:
        return replace(self, memory=size)


@dataclass(frozen=True)
class Room:
    """Processors and GPUs of some nodes; largest: processors of the largest; aside: those of nodes without GPUs. apart:
    of those of them that are set apart, by what for."""

    cpus: float
    gpus: float
    largest: float
    apart: tuple[tuple[frozenset[str], Room], ...] = ()
    aside: float = 0.0

    @property
    def beside_gpus(self) -> float:
        """Processors of the nodes with GPUs."""
        return self.cpus - self.aside

    @property
    def marks(self) -> frozenset[str]:
        return frozenset().union(*(marks for marks, _ in self.apart))

    def homes(self, mark: str) -> list[tuple[frozenset[str], Room]]:
        """Where a stage with this mark may run, if nodes are set apart for it."""
        return [(marks, room) for marks, room in self.apart if mark in marks]


@dataclass(frozen=True)
class Goal:
    """What a job would have of a cluster. marked: actors that belong on nodes with a mark, by mark."""

    cpus: float
    gpus: float
    marked: tuple[tuple[str, int], ...] = ()


def marks_of(resources: Mapping[str, Any]) -> frozenset[str]:
    """What a node with these resources is set apart for."""
    return frozenset(name for name in resources if _MARK.fullmatch(name))


def read_room() -> Room:
    """What the cluster has now."""
    alive = node_resources()
    kinds = sorted({marks_of(has) for has in alive} - {frozenset()}, key=sorted)
    apart = tuple((kind, _sum([has for has in alive if marks_of(has) == kind])) for kind in kinds)
    return replace(_sum(alive), apart=apart)


def _sum(members: Sequence[Mapping[str, float]]) -> Room:
    cpus = [node.get("CPU", 0.0) for node in members]
    aside = sum(node.get("CPU", 0.0) for node in members if not node.get("GPU"))
    return Room(sum(cpus), sum(node.get("GPU", 0.0) for node in members), max(cpus, default=0.0), aside=aside)


def find_room(wanted: Sequence[Wanted], seconds: float, say: Callable[[str], None]) -> Room:
    """What the cluster has, once it has what is wanted or all that can come; at the latest after so many seconds.

    A cluster that grows by need is asked for what is wanted, as it would not grow for those who only wait.
    """
    room, most = read_room(), _most()
    goal = _goal(wanted, room, most)
    if seconds <= 0 or not _short(room, goal):
        return room
    say(f"the cluster has {_text(room)}, {_text(goal)} are wanted: waiting up to {seconds:.0f} s for them")
    deadline = time.monotonic() + seconds
    _request(_bundles(goal))
    try:
        while _short(room, goal) and time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            room = read_room()
    finally:
        _request([])
    say(f"the cluster has {_text(room)}")
    return room


def _goal(wanted: Sequence[Wanted], room: Room, most: Mapping[str, float]) -> Goal:
    """What all actors want, as far as it can come: GPUs where there are any, now or later."""
    cpus = sum(one.workers or 1 for one in wanted) * ACTOR_CPUS / ACTORS_SHARE
    stages = {one.mark: one.workers or 1 for one in wanted if not one.judge}
    gpus = min(sum(stages.values()), max(most.get("GPU", 0), room.gpus))
    known = marks_of(most) | room.marks
    marked = tuple((mark, count) for mark, count in stages.items() if mark in known)
    return Goal(cpus if not most.get("CPU") else min(cpus, max(most["CPU"], room.cpus)), gpus, marked)


def _short(room: Room, goal: Goal) -> bool:
    return room.cpus < goal.cpus or room.gpus < goal.gpus or not {mark for mark, _ in goal.marked} <= room.marks


def _most() -> Mapping[str, float]:
    """The most that an autoscaler may bring, by resource; empty where there is none, or it does not say."""
    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def _bundles(goal: Goal) -> list[dict[str, float]]:
    """What an autoscaler is asked to have room for."""
    device = {"GPU": 1.0} if goal.gpus else {"CPU": 1.0}
    marked = [device | {mark: MARK_PART} for mark, count in goal.marked for _ in range(count)]
    others = int(goal.gpus) - len(marked)
    return marked + [{"GPU": 1.0}] * others + [{"CPU": 1.0}] * math.ceil(goal.cpus)


def _request(bundles: list[dict[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def _text(room: Room | Goal) -> str:
    return f"{room.cpus:g} processors" + (f" and {room.gpus:g} GPUs" if room.gpus else "")


@dataclass(frozen=True)
class Hardware:
    """Bytes: of the smallest GPU (0: there is none), of the largest node's memory and of all nodes' together.
    marked: of the smallest GPU of the nodes that are set apart, by what for (0: these have none); gpu_flops: about, a
    second, of the slowest GPU on a large network in half precision (0: not known); no_bfloat16: the name of a GPU that
    does not compute in it, by what its node is set apart for, and of any node under ""."""

    gpu: float = 0.0
    node: float = 0.0
    nodes: float = 0.0
    marked: Mapping[str, float] = field(default_factory=dict)
    gpu_flops: float = 0.0
    no_bfloat16: Mapping[str, str] = field(default_factory=dict)


class Gpu(NamedTuple):
    """Of a node: bytes, multiprocessors, name, and whether it computes in bfloat16."""

    size: float
    processors: int
    name: str
    bfloat16: bool


@dataclass(frozen=True)
class AskedHardware:
    """The nodes that are alive, as Ray has them, and the answers that those with GPUs will give."""

    alive: list[dict[str, Any]]
    with_gpus: list[dict[str, Any]]
    answers: list[Any]


def ask_hardware() -> AskedHardware:
    """Asks each node with GPUs by a task of its own, and waits for none: their processes start, and import torch."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in alive if node["Resources"].get("GPU", 0)]
    return AskedHardware(alive, with_gpus, [_ask(node["NodeID"]) for node in with_gpus])


def read_hardware(asked: AskedHardware, say: Callable[[str], None]) -> Hardware:
    """What the cluster's nodes have."""
    answers = asked.answers
    try:
        gpus: list[Gpu] = ray.get(answers, timeout=ANSWER_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        for answer in ray.wait(answers, num_returns=len(answers), timeout=0)[1]:
            ray.cancel(answer)  # not one that has ended: Ray's core may crash of that
        why = "no answer" if isinstance(error, TimeoutError) else str(error).strip().rpartition("\n")[2]
        say(f"no node said how much memory its GPUs have, going on unchecked ({why})")
        return Hardware()
    own = [node["Resources"] for node in asked.with_gpus]
    return hardware_of([node["Resources"] for node in asked.alive], list(zip(own, gpus, strict=True)))


def hardware_of(nodes: Sequence[Mapping[str, Any]], gpus: Sequence[tuple[Mapping[str, Any], Gpu]]) -> Hardware:
    """nodes: what each has, as Ray says it; gpus: of each node that has some, that and one of them."""
    memory = [has.get("memory", 0.0) for has in nodes]
    marked: dict[str, float] = {}
    lacking: dict[str, str] = {}
    for has, gpu in gpus:
        for mark in marks_of(has):
            marked[mark] = min(gpu.size, marked.get(mark, gpu.size))
        if not gpu.bfloat16:
            lacking |= dict.fromkeys(["", *marks_of(has)], gpu.name)
    without = frozenset().union(*map(marks_of, nodes)) - marked.keys()
    speed = GPU_FLOPS * min((gpu.processors for _, gpu in gpus), default=0)
    size = min((gpu.size for _, gpu in gpus), default=0.0)
    marked |= dict.fromkeys(without, 0.0)
    return Hardware(size, max(memory, default=0.0), sum(memory), marked, speed, lacking)


def _ask(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, num_gpus=0.01, scheduling_strategy=there)(_gpu_of_node).remote()


def _gpu_of_node() -> Gpu:
    import torch

    from darkroom.sampling.device import computes_in_bfloat16

    found = torch.cuda.get_device_properties(0)
    able = computes_in_bfloat16(torch.device("cuda", 0))
    return Gpu(float(found.total_memory), found.multi_processor_count, found.name, able)
