"""How many actors each stage has, and how much of the cluster each of them may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from darkroom.ray_cluster import ClusterError
from darkroom.ray_cluster.resources import ACTOR_CPUS, ACTORS_SHARE, ENCODERS, MARK_PART, Room, Wanted

JUDGE_GPUS = 0.05  # of a judge: its models are small, and it must not keep the stages from their GPU


@dataclass(frozen=True)
class Pool:
    """How a stage's actors are sized; see `size_pools`. cpus, gpus: what Ray keeps for each; mark: of the nodes that
    they run on, "" for any."""

    workers: int
    cpus: float
    gpus: float
    mark: str = ""
    threads: int = 1

    @property
    def resources(self) -> dict[str, float]:
        """What an actor asks Ray for besides processors and GPUs."""
        return {self.mark: MARK_PART} if self.mark else {}


def size_pools(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """Actors of each stage, by name. ClusterError if the cluster is too small, or its nodes are set apart for some of
    the stages and not for others."""
    pools: dict[str, Pool] = {}
    for mark, place, those in _places(wanted, room):
        sized = _on_gpus(those, place) if place.gpus else _on_processors(those, place)
        pools |= {name: replace(pool, mark=mark) for name, pool in sized.items()}
    return pools


def all_apart(room: Room, pools: Mapping[str, Pool]) -> bool:
    """Whether encoders and stages have nodes of their own, so that neither takes what the other waits for."""
    homes = room.homes(ENCODERS)
    return bool(homes) and all(marks == {ENCODERS} for marks, _ in homes) and all(one.mark for one in pools.values())


def encoder_pool(room: Room, chunks: int) -> Pool:
    """For the text encoders, which have left before the stages come: one per GPU, as far as there is work; without GPUs
    one with most of a node."""
    homes = room.homes(ENCODERS)
    mark, place = (ENCODERS, homes[0][1]) if homes else ("", room)
    if place.gpus:
        return Pool(max(1, min(int(place.gpus), chunks)), ACTOR_CPUS, min(1.0, place.gpus), mark)
    most = _hundredths(ACTORS_SHARE * min(place.cpus, place.largest))
    return Pool(1, max(ACTOR_CPUS, most), 0.0, mark, max(1, int(most)))


def _places(wanted: Sequence[Wanted], room: Room) -> list[tuple[str, Room, list[Wanted]]]:
    """Who shares which nodes, and a mark of those. All of them share all nodes, unless nodes are set apart for a stage:
    then each stage has its own, since any other could take the GPU that one waits for. Judges go with the last."""
    stages = [one for one in wanted if not one.judge]
    if not room.marks & {one.mark for one in stages}:
        return [("", room, list(wanted))]
    shared: dict[frozenset[str], tuple[str, Room, list[Wanted]]] = {}
    for one in stages:
        marks, place = _home(one, room)
        shared.setdefault(marks, (one.mark, place, []))[2].append(one)
    shared[marks][2].extend(one for one in wanted if one.judge)
    return list(shared.values())


def _home(one: Wanted, room: Room) -> tuple[frozenset[str], Room]:
    homes = room.homes(one.mark)
    if not homes:
        others = ", ".join(sorted(room.marks - {ENCODERS}))
        raise ClusterError(
            f"{one.name} has no node: nodes are set apart for {others}, and none has the resource {one.mark}"
        )
    if len(homes) > 1:
        ways = " and ".join("+".join(sorted(marks)) for marks, _ in homes)
        raise ClusterError(f"nodes with the resource {one.mark} are set apart in two ways, {ways}: make them alike")
    return homes[0]


def _on_processors(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """One actor per stage unless asked. They share ACTORS_SHARE of the processors, and none asks for more than a node
    has. What is kept for them is less where there are several nodes: all must find room when the largest is lost, as
    Ray lets the work of an actor wait until that one is back."""
    counts = {one.name: one.workers or 1 for one in wanted}
    total = sum(counts.values())
    each = _hundredths(ACTORS_SHARE * min(room.cpus / total, room.largest))
    if each < ACTOR_CPUS:
        asked = " + ".join(f"{count} for {name}" for name, count in counts.items())
        raise ClusterError(
            f"{total} workers ({asked}) want at least a quarter of a processor each, and reading and storing want some "
            f"too; the cluster has {room.cpus:g}: ask for fewer --workers"
        )
    others = max(1, int(room.cpus / room.largest) - 1)
    kept = min(each, _hundredths(ACTORS_SHARE * room.largest / math.ceil(total / others)))
    return {name: Pool(count, kept, 0.0, threads=max(1, int(each))) for name, count in counts.items()}


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
