"""How much of the cluster each stage's actors may have, and waiting for a cluster that is still growing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ray

from darkroom.cluster import ClusterError

ACTOR_CPUS = 0.25  # at least
JUDGE_GPUS = 0.05  # of a judge: its models are small, and it must not keep the stages from their GPU
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Pool:
    """How a stage's actors are sized; see `size_pools`."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Wanted:
    """A stage that wants actors. workers: as the user says, None: as many as there is room for.

    cost: of one row, beside the other stages'; memory: bytes it needs, where several share a GPU.
    """

    name: str
    workers: int | None = None
    cost: float = 1.0
    memory: float = 1.0
    judge: bool = False

    def with_memory(self, size: float) -> Wanted:
        return replace(self, memory=size)


@dataclass(frozen=True)
class Room:
    """What a cluster has. largest: processors of its largest node."""

    cpus: float
    gpus: float
    largest: float


def read_room() -> Room:
    """What the cluster has now."""
    have = ray.cluster_resources()
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    return Room(have.get("CPU", 0.0), have.get("GPU", 0.0), largest)


def size_pools(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """Actors of each stage, by name. ClusterError if the cluster is too small."""
    return _on_gpus(wanted, room) if room.gpus else _on_processors(wanted, room)


def _on_processors(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """One actor per stage unless asked. They share three quarters of the processors, so that tasks always find room
    beside them, and none asks for more than a node has."""
    counts = {one.name: one.workers or 1 for one in wanted}
    total = sum(counts.values())
    each = int(75 * min(room.cpus / total, room.largest)) / 100
    if each < ACTOR_CPUS:
        asked = " + ".join(f"{count} for {name}" for name, count in counts.items())
        raise ClusterError(
            f"{total} workers ({asked}) want at least a quarter of a processor each, and reading and storing want some "
            f"too; the cluster has {room.cpus:g}: ask for fewer --workers"
        )
    return {name: Pool(count, each, 0.0) for name, count in counts.items()}


def _on_gpus(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """Whole GPUs where there are enough, shared out by cost; else several stages share one, by their memory."""
    judges = [one for one in wanted if one.judge]
    stages = [one for one in wanted if not one.judge]
    gpus = max(1, int(room.gpus))
    counts = _counts(stages, gpus)
    for_stages = 1.0 - JUDGE_GPUS * len(judges)
    crowd = math.ceil(sum(counts.values()) / gpus)
    shares = {one.name: for_stages / crowd for one in stages}
    if gpus == 1 and all(count == 1 for count in counts.values()):
        need = sum(one.memory for one in stages)
        shares = {one.name: for_stages * one.memory / need for one in stages}
    pools = {name: Pool(count, ACTOR_CPUS, _hundredths(shares[name])) for name, count in counts.items()}
    if any(not pool.gpus for pool in pools.values()):
        total = sum(counts.values())
        raise ClusterError(f"{total} workers on {gpus} GPUs leave less than a hundredth of one to some: ask for fewer")
    return pools | {one.name: Pool(one.workers or gpus, ACTOR_CPUS, JUDGE_GPUS) for one in judges}


def _counts(stages: Sequence[Wanted], gpus: int) -> dict[str, int]:
    """Actors per stage: as asked; of the GPUs that leaves, one each and the others where the work is."""
    counts = {one.name: one.workers or 1 for one in stages}
    free = [one for one in stages if one.workers is None]
    for _ in range(gpus - sum(counts.values()) if free else 0):
        neediest = max(free, key=lambda one: one.cost / counts[one.name])
        counts[neediest.name] += 1
    return counts


def _hundredths(share: float) -> float:
    return math.floor(100 * share + 1e-6) / 100


def find_room(wanted: Sequence[Wanted], seconds: float, say: Callable[[str], None]) -> Room:
    """What the cluster has, once it has what is wanted or all that can come; at the latest after so many seconds.

    A cluster that grows by need is asked for what is wanted, as it would not grow for those who only wait.
    """
    room, limit = read_room(), _limit()
    goal = _goal(wanted, room, limit)
    if seconds <= 0 or not _short(room, goal):
        return room
    say(f"the cluster has {_text(room)}, {_text(goal)} are wanted: waiting up to {seconds:.0f} s for them")
    deadline = time.monotonic() + seconds
    _request(goal)
    try:
        while _short(room, goal) and time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            room = read_room()
    finally:
        _request(None)
    say(f"the cluster has {_text(room)}")
    return room


def _goal(wanted: Sequence[Wanted], room: Room, limit: Room) -> Room:
    """What all actors want, as far as it can come: GPUs where there are any, now or later."""
    actors = sum(one.workers or 1 for one in wanted)
    gpus = min(sum(one.workers or 1 for one in wanted if not one.judge), max(limit.gpus, room.gpus))
    cpus = actors * ACTOR_CPUS / 0.75
    return Room(cpus if not limit.cpus else min(cpus, max(limit.cpus, room.cpus)), gpus, 0.0)


def _short(room: Room, goal: Room) -> bool:
    return room.cpus < goal.cpus or room.gpus < goal.gpus


def _limit() -> Room:
    """The most that an autoscaler may bring; zeros where there is none, or it does not say."""
    most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    return Room(float(most.get("CPU", 0)), float(most.get("GPU", 0)), 0.0)


def _request(goal: Room | None) -> None:
    from ray.autoscaler.sdk import request_resources

    bundles = [{"GPU": 1.0}] * int(goal.gpus) + [{"CPU": 1.0}] * math.ceil(goal.cpus) if goal else []
    request_resources(bundles=bundles)


def _text(room: Room) -> str:
    return f"{room.cpus:g} processors" + (f" and {room.gpus:g} GPUs" if room.gpus else "")
