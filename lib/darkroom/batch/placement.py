"""How many actors each stage has, how much of the cluster each may take, and whether that fits their devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from darkroom.batch.capacity import usual
from darkroom.batch.options import Capacity, encoder_dtype
from darkroom.models import EIGHT_BITS
from darkroom.models.memory import size_text
from darkroom.ray_cluster import ClusterError
from darkroom.ray_cluster.resources import (
    ACTOR_CPUS,
    ACTORS_SHARE,
    ENCODERS,
    MARK_PART,
    TASK_CPUS,
    Hardware,
    Room,
    Wanted,
)
from darkroom.sampling.stage import at_size

if TYPE_CHECKING:
    from darkroom.models.catalog import Model
    from darkroom.sampling.stage import Row

GB = 1e9
SPARE = 0.5  # of a GPU: what an encoder takes beside the stages is theirs no more when it has left
# CUDA itself, and the gaps that its allocator leaves between tensors.
CUDA_BYTES, GAPS = 0.5 * GB, 1.1
THREAD_FLOPS = 4e10  # a core makes about half of the 90 GFLOP/s that it makes of a large matrix product
EPSILON = 1e-6  # that sums of quarters and tenths may be off by
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

    def speed(self, hardware: Hardware) -> float:
        """About how many FLOP/s one of these actors makes of a network."""
        return self.gpus * hardware.gpu_flops if self.gpus and hardware.gpu_flops else self.threads * THREAD_FLOPS


class DoesNotFit(ValueError):
    """The stages, as they are to be run, want more memory than there is."""


@dataclass(frozen=True)
class Need:
    """One stage or text encoder. weights, activations: bytes, of the model and of the most that a pass holds besides;
    tries: the capacity is the least that is tried. alone: it has left before the stages come."""

    name: str
    dtype: str
    capacity: int
    weights: int
    activations: int
    tries: bool = False
    alone: bool = False

    def on_gpu(self) -> float:
        """Bytes on a GPU."""
        return GAPS * (self.weights + self.activations) + CUDA_BYTES

    def on_cpu(self) -> float:
        """Bytes of a processor's memory, besides the worker's own few hundred megabytes."""
        return float(self.weights + self.activations)


def size_pools(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """Actors of each stage, by name. ClusterError if the cluster is too small, or its nodes are set apart for some of
    the stages and not for others."""
    pools: dict[str, Pool] = {}
    left = room.cpus
    for mark, place, those in _places(wanted, room):
        sized = _on_gpus(those, place) if place.gpus else _on_processors(those, place)
        held = sum(pool.workers * pool.cpus for pool in sized.values())
        left -= min(held, place.beside_gpus) if place.gpus else held
        pools |= {name: replace(pool, mark=mark) for name, pool in sized.items()}
    if left < TASK_CPUS - EPSILON:
        raise _too_few_processors(pools, f"the cluster has {room.cpus:g}")
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
        raise _too_few_processors(
            {name: Pool(count, 0.0, 0.0) for name, count in counts.items()}, f"the cluster has {room.cpus:g}"
        )
    others = max(1, int(room.cpus / room.largest) - 1)
    kept = min(each, _hundredths(ACTORS_SHARE * room.largest / math.ceil(total / others)))
    return {name: Pool(count, kept, 0.0, threads=max(1, int(each))) for name, count in counts.items()}


def _on_gpus(wanted: Sequence[Wanted], room: Room) -> dict[str, Pool]:
    """Whole GPUs where there are enough, shared out by cost; else several stages share one, by their memory.

    Each GPU has a part left that judges may take. Ray may give all of one kind the same GPU: of those that it places
    before a stage's actors there are no more than that part holds, or one of these would find no place."""
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
    total = sum(counts.values())
    if any(not pool.gpus for pool in pools.values()):
        raise ClusterError(f"{total} workers on {gpus} GPUs leave less than a hundredth of one to some: ask for fewer")
    most = max(1, (int((room.beside_gpus - TASK_CPUS) / ACTOR_CPUS) - total) // max(1, len(judges)))
    workers = {one.name: min(most, gpus, len(judges) if one.early else gpus) for one in judges}
    pools |= {name: Pool(count, ACTOR_CPUS, JUDGE_GPUS) for name, count in workers.items()}
    # Fewer actors than asked for do the work too, but not none: Ray would let the work of the last wait without end.
    *before, _ = (pool.workers for pool in pools.values())
    if ACTOR_CPUS * (sum(before) + 1) > room.beside_gpus + EPSILON:
        raise _too_few_processors(pools, f"the nodes with GPUs have {room.beside_gpus:g}")
    return pools


def _too_few_processors(pools: Mapping[str, Pool], have: str) -> ClusterError:
    asked = " + ".join(f"{pool.workers} for {name}" for name, pool in pools.items())
    return ClusterError(
        f"{sum(pool.workers for pool in pools.values())} workers ({asked}) want a quarter of a processor each, and "
        f"reading and storing want some too; {have}: ask for fewer --workers, or give the nodes more"
    )


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


def needs(
    model: Model,
    numbers: Sequence[int],
    dtypes: Mapping[int, str],
    capacity: Capacity,
    on_gpu: bool,
    encoders: Sequence[str],
    rows: Sequence[Row] = (),
) -> list[Need]:
    """Of the stages with these numbers, and of these text encoders. rows: some that are to be made, of which the one
    whose video is largest counts."""
    first = model.stages[0]
    largest = max(rows, key=lambda row: math.prod(at_size(row, first).shape), default=None) if first.video else None
    own = () if largest is None else (largest,)
    found = [encoder_need(model, name, dtypes) for name in encoders]
    for number in numbers:
        places = usual(model.stages[number - 1], on_gpu) if capacity == "auto" else capacity
        memory = model.memory(number, dtypes[number], places, *own)
        found.append(Need(f"stage {number}", dtypes[number], places, *memory, tries=capacity == "auto" and on_gpu))
    return found


def encoder_need(model: Model, name: str, dtypes: Mapping[int, str]) -> Need:
    """What a text encoder needs: for one prompt at least, as it reads prompts in small batches."""
    dtype = encoder_dtype(model, name, dict(dtypes))
    return Need(name, dtype, 1, *model.encoder_memory(name, dtype), alone=True)


def beside_the_stages(found: Sequence[Need], room: Room, hardware: Hardware) -> Wanted | None:
    """An encoder's share of the one GPU there is, where the stages fit beside it with room to spare; else None, and it
    has left before they come."""
    encoders = max((need.on_gpu() for need in found if need.alone), default=0.0)
    stages = sum(need.on_gpu() for need in found if not need.alone)
    if room.gpus != 1 or room.marks or not encoders or encoders + stages > SPARE * hardware.gpu:
        return None
    return Wanted(ENCODERS, workers=1, memory=encoders)


def table(found: Sequence[Need], pools: Mapping[str, Pool] | None = None) -> str:
    """A line for each, e.g. `stage 1  bfloat16  capacity 32  1 worker  8.6 GB + 3.2 GB`."""
    lines = [f"  {'':<14}{'dtype':<10}{'capacity':>9}{'workers':>9}{'weights':>11}{'a pass':>11}"]
    for need in found:
        workers = str(pools[need.name].workers) if pools and need.name in pools else "-"
        capacity = f"{need.capacity}{'+' * need.tries}"
        sizes = f"{size_text(need.weights):>11}{size_text(need.activations):>11}"
        lines.append(f"  {need.name:<14}{need.dtype:<10}{capacity:>9}{workers:>9}{sizes}")
    return "\n".join(lines)


def check(found: Sequence[Need], pools: Mapping[str, Pool], hardware: Hardware) -> None:
    """DoesNotFit, with all numbers, where a stage wants more than its share of a GPU, or all those that run on
    processors more than the memory of the cluster's nodes."""
    apart = [need for need in found if not hardware.gpu or not _place_of(need, pools, hardware)[1]]
    problems = _gpu_problems([need for need in found if need not in apart], pools, hardware)
    problems += _cpu_problems(apart, pools, hardware)
    if problems:
        advice = "ask for a smaller --capacity, another --dtype, a smaller model, or more and larger devices"
        raise DoesNotFit("\n".join(["this does not fit:", *problems, table(found, pools), advice]))


def refuse_dtypes(found: Sequence[Need], pools: Mapping[str, Pool], hardware: Hardware, given: str | None) -> None:
    """ValueError where a stage or an encoder would compute in what its device lacks. given: by --dtype; None: the
    model's own."""
    whose: dict[tuple[str, str, str], list[str]] = {}
    for need in found:
        dtype = EIGHT_BITS.get(need.dtype, need.dtype)
        mark, share = _place_of(need, pools, hardware)
        if share and dtype == "bfloat16" and mark in hardware.no_bfloat16:
            device, others = f"a {hardware.no_bfloat16[mark]}", "float16 or float32"
        elif not share and dtype == "float16" and hardware.nodes:
            device, others = "a processor", "bfloat16 or float32"
        else:
            continue
        whose.setdefault((dtype, device, others), []).append(need.name)
    asked = "the model's own on GPUs, as no --dtype is given" if given is None else f"--dtype {given}"
    lines = [
        f"{', '.join(names)} would compute in {dtype} ({asked}), which {device} lacks: give --dtype {others}, or one "
        "for each stage, joined by commas"
        for (dtype, device, others), names in whose.items()
    ]
    if lines:
        raise ValueError("\n".join(lines))


def _place_of(need: Need, pools: Mapping[str, Pool], hardware: Hardware) -> tuple[str, float]:
    """What the nodes are set apart for on which it runs, "" for any, and its share of a GPU there."""
    if not need.alone:
        return pools[need.name].mark, pools[need.name].gpus
    mark = ENCODERS if ENCODERS in hardware.marked else ""
    return mark, 1.0 if hardware.marked.get(mark, hardware.gpu) else 0.0


def _gpu_problems(found: Sequence[Need], pools: Mapping[str, Pool], hardware: Hardware) -> list[str]:
    problems = []
    for need in found:
        mark, share = _place_of(need, pools, hardware)
        gpu = hardware.marked.get(mark, hardware.gpu)
        there = share * gpu
        if need.on_gpu() > there:
            of = "of a GPU" if share == 1 else f"of a GPU of {size_text(gpu)}, as its share is {share:g}"
            problems.append(f"  {need.name} wants {size_text(need.on_gpu())} and gets {size_text(there)} {of}")
    return problems


def _cpu_problems(found: Sequence[Need], pools: Mapping[str, Pool], hardware: Hardware) -> list[str]:
    if not hardware.nodes:
        return []  # Ray does not say
    problems = [
        f"  {need.name} wants {size_text(need.on_cpu())}, the largest node has {size_text(hardware.node)}"
        for need in found
        if need.on_cpu() > hardware.node
    ]
    total = sum(need.on_cpu() * pools[need.name].workers for need in found if not need.alone)
    if total > hardware.nodes:
        problems.append(f"  all stages want {size_text(total)}, all nodes have {size_text(hardware.nodes)}")
    return problems
