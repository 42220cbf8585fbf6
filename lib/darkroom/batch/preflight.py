"""Before anything starts: what each stage needs on its device, held against what the cluster has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.batch.capacity import LEAST, ON_CPU
from darkroom.batch.options import Capacity, encoder_dtype
from darkroom.batch.placement import Pool
from darkroom.models.memory import size_text
from darkroom.ray_cluster.resources import ENCODERS, Room, Wanted, marks_of

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

GB = 1e9
SPARE = 0.5  # of a GPU: what an encoder takes beside the stages is theirs no more when it has left
# CUDA itself, and the gaps that its allocator leaves between tensors.
CUDA_BYTES, GAPS = 0.5 * GB, 1.1
ANSWER_SECONDS = 120.0
# Of a large network, to a factor of two or three: an A100's 108 multiprocessors make 120 TFLOP/s of IF-I-M in bfloat16
# (diffusers' published speeds), a core about half of the 90 GFLOP/s that it makes of a large matrix product.
GPU_FLOPS, THREAD_FLOPS = 1.1e12, 4e10


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


@dataclass(frozen=True)
class Hardware:
    """Bytes: of the smallest GPU (0: there is none), of the largest node's memory and of all nodes' together.
    marked: of the smallest GPU of the nodes that are set apart, by what for; gpu_flops: about, a second, of the
    slowest GPU on a large network in half precision (0: not known)."""

    gpu: float = 0.0
    node: float = 0.0
    nodes: float = 0.0
    marked: Mapping[str, float] = field(default_factory=dict)
    gpu_flops: float = 0.0

    def speed(self, pool: Pool) -> float:
        """About how many FLOP/s one of the pool's actors makes of a network."""
        return pool.gpus * self.gpu_flops if pool.gpus and self.gpu_flops else pool.threads * THREAD_FLOPS


def needs(
    model: Model,
    numbers: Sequence[int],
    dtypes: Mapping[int, str],
    capacity: Capacity,
    on_gpu: bool,
    encoders: Sequence[str],
) -> list[Need]:
    """Of the stages with these numbers, and of these text encoders."""
    found = [encoder_need(model, name, dtypes) for name in encoders]
    places = (LEAST if on_gpu else ON_CPU) if capacity == "auto" else capacity
    for number in numbers:
        memory = model.memory(number, dtypes[number], places)
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
    """DoesNotFit, with all numbers, where a stage wants more than its share of a GPU, or all of them more than the
    memory of the cluster's nodes."""
    problems = _gpu_problems(found, pools, hardware) if hardware.gpu else _cpu_problems(found, pools, hardware)
    if problems:
        advice = "ask for a smaller --capacity, another --dtype, a smaller model, or more and larger devices"
        raise DoesNotFit("\n".join(["this does not fit:", *problems, table(found, pools), advice]))


def _gpu_problems(found: Sequence[Need], pools: Mapping[str, Pool], hardware: Hardware) -> list[str]:
    problems = []
    for need in found:
        mark, share = (ENCODERS, 1.0) if need.alone else (pools[need.name].mark, pools[need.name].gpus)
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


def read_hardware(say: Callable[[str], None]) -> Hardware:
    """What the cluster's nodes have. Each node with GPUs is asked by a task of its own."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    memory = [node["Resources"].get("memory", 0.0) for node in alive]
    with_gpus = [node for node in alive if node["Resources"].get("GPU", 0)]
    answers = [_ask(node["NodeID"]) for node in with_gpus]
    try:
        gpus: list[tuple[float, int]] = ray.get(answers, timeout=ANSWER_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        for answer in ray.wait(answers, num_returns=len(answers), timeout=0)[1]:
            ray.cancel(answer)  # not one that has ended: Ray's core may crash of that
        why = "no answer" if isinstance(error, TimeoutError) else str(error).strip().rpartition("\n")[2]
        say(f"no node said how much memory its GPUs have, going on unchecked ({why})")
        return Hardware()
    sizes = [size for size, _ in gpus]
    marked: dict[str, float] = {}
    for node, size in zip(with_gpus, sizes, strict=True):
        for mark in marks_of(node["Resources"]):
            marked[mark] = min(size, marked.get(mark, size))
    speed = GPU_FLOPS * min((processors for _, processors in gpus), default=0)
    return Hardware(min(sizes, default=0.0), max(memory, default=0.0), sum(memory), marked, speed)


def _ask(node: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, num_gpus=0.01, scheduling_strategy=there)(_gpu_of_node).remote()


def _gpu_of_node() -> tuple[float, int]:
    """Bytes and multiprocessors."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return float(found.total_memory), found.multi_processor_count
