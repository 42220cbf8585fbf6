"""Ray Data, all of it: how units of work flow through tasks and actors, and how prompts are embedded before that.

Models are imported in the actors that hold them: every worker process imports this module, and diffusers would cost
each of them four seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from darkroom.batch import parcel
from darkroom.batch.consume import watched
from darkroom.batch.deliver import Delivery, Receipt, deliver
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.options import Capacity
from darkroom.batch.pool import ACTOR_CPUS, Pool, read_room
from darkroom.batch.prepare import Preparation, prepare
from darkroom.batch.watch import Counter, Watchdog
from darkroom.metrics import StageMetrics, embedded

if TYPE_CHECKING:
    from darkroom.batch.judge import Judging

UNITS_IN_FLIGHT = 6  # per engine actor: enough that it never runs dry between units, few enough that memory stays flat
# Preparing and delivering mostly wait on storage. Not what any actor asks for: Ray would fuse a task into an actor that
# asks for the same, and the engine would wait for its pictures.
TASK_CPUS = 0.2
PROMPTS_PER_TASK = 256
CHOOSE, FINISH = "choose", "finish"
_WHOLE_BLOCKS = {"batch_size": None, "batch_format": "pyarrow"}


@dataclass(frozen=True)
class StageJob:
    """One stage of a model, as a job runs it. embeddings: of a text model's prompts; None for one that takes none."""

    number: int
    dtype: str
    capacity: Capacity
    embeddings: EmbeddingStore | None = None

    @property
    def name(self) -> str:
        return stage_name(self.number)


@dataclass(frozen=True)
class Job:
    """A job as its pipeline needs it: stages to run, units to do, and what each part is told.

    chooses: some rows have candidates, of which the best goes on after stage I.
    """

    model: str
    stages: tuple[StageJob, ...]
    units: int
    preparation: Preparation
    delivery: Delivery
    judging: Judging
    chooses: bool = False

    @property
    def names(self) -> list[str]:
        """All that units go through, in order."""
        stages = [stage.name for stage in self.stages]
        if self.chooses:
            stages.insert(1, CHOOSE)
        return ["prepare", *stages, *[FINISH] * self.judging.finishes, "deliver"]


def stage_name(number: int) -> str:
    return f"stage {number}"


def run(job: Job, pools: dict[str, Pool], counter: Any, watchdog: Watchdog) -> Iterator[Receipt]:
    """Receipts of committed units as they come; Stalled when none comes for too long. `counter`: a `Counter` actor.

    What engines have done is told by each stage's actor with every unit, see `_StageActor`.
    Raises StorageError for an outage that a worker met, ClusterError when Ray itself gave up.
    """
    for row in watched(build(job, pools, counter), watchdog, "unit was committed", counter):
        yield Receipt(**row)


def build(job: Job, pools: dict[str, Pool], counter: Any) -> Dataset:
    """The dataset whose blocks are units, from their numbers to their receipts.

    `batch_size=None` hands over whole blocks, so a unit stays together from its file to its commit.
    """
    # Blocks of our own, not `ray.data.range`: its read tasks want a whole processor each, which the actors may hold.
    dataset = ray.data.from_blocks([pa.table({"unit": [unit]}) for unit in range(job.units)])
    dataset = dataset.map_batches(
        _prepare, fn_args=(job.preparation, counter), num_cpus=TASK_CPUS, zero_copy_batch=True, **_WHOLE_BLOCKS
    )
    stages = {stage.name: stage for stage in job.stages}
    for name in job.names[1:-1]:
        if name in stages:
            told = (job.model, stages[name], pools[name], job.delivery.run, counter)
            dataset = _with_actors(dataset, _StageActor, told, pools[name], UNITS_IN_FLIGHT)
        else:
            told = (name, job.judging, pools[name].threads, counter)
            dataset = _with_actors(dataset, _JudgeActor, told, pools[name], 1)
    return dataset.map_batches(_deliver, fn_args=(job.delivery, counter), num_cpus=TASK_CPUS, **_WHOLE_BLOCKS)


def _with_actors(dataset: Dataset, actor: type, told: tuple[Any, ...], pool: Pool, at_once: int) -> Dataset:
    more = {"max_concurrent_calls_per_actor": at_once} if at_once > 1 else {}
    return dataset.map_batches(
        actor,
        fn_constructor_args=told,
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2 * at_once, **more),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        **_WHOLE_BLOCKS,
    )


def start_counter(names: list[str]) -> Any:
    """The actor that stages report to."""
    return ray.remote(num_cpus=0)(Counter).remote(names)


def busy_seconds(counter: Any) -> dict[str, float]:
    """Seconds of work by stage; nothing if the counter was lost with its node, which is no reason to fail a job."""
    try:
        return ray.get(counter.busy.remote(), timeout=10)
    except (ray.exceptions.RayError, TimeoutError):
        return {}


def embed(prompts: list[str], model: str, encoder: str, dtype: str, store: EmbeddingStore, watchdog: Watchdog) -> int:
    """Encodes the prompts that the store lacks, and says how many; the encoders' actors are gone when this returns, so
    that a text model and a stage never share a GPU. Raises as `run`."""
    missing = store.missing(prompts)
    if not missing:
        return 0
    chunks = [missing[at : at + PROMPTS_PER_TASK] for at in range(0, len(missing), PROMPTS_PER_TASK)]
    pool = _encoders(len(chunks))
    # Blocks of our own, as in `build`.
    dataset = ray.data.from_blocks([pa.table({"prompts": [chunk]}) for chunk in chunks])
    told = (model, encoder, dtype, store, pool.threads)
    for _ in watched(_with_actors(dataset, _Encoder, told, pool, 1), watchdog, "prompt was embedded"):
        pass
    return len(missing)


def _encoders(chunks: int) -> Pool:
    """One per GPU, as far as there is work; without GPUs one with most of a node."""
    room = read_room()
    if room.gpus:
        return Pool(max(1, min(int(room.gpus), chunks)), ACTOR_CPUS, min(1.0, room.gpus))
    return Pool(1, max(ACTOR_CPUS, int(75 * min(room.cpus, room.largest)) / 100), 0.0)


def _prepare(numbers: pa.Table, how: Preparation, counter: Any) -> pa.Table:
    with _counted(counter, "prepare"):
        units = numbers["unit"].to_pylist()
        assert len(units) == 1, f"a task was handed the units {units}"
        return parcel.to_block(prepare(units[0], how))


class _StageActor:
    """`Developer` as Ray Data calls it: an async generator, so that several units are under way at once."""

    def __init__(self, model: str, stage: StageJob, pool: Pool, run: str, counter: Any) -> None:
        from darkroom.batch.develop import Developer

        self.developer = Developer(
            model, stage.number, stage.capacity, pool.threads, stage.embeddings, stage.dtype, pool.gpus or 1.0
        )
        self.name, self.counter, self.metrics = stage.name, counter, StageMetrics(run, stage.name)
        self.reported = 0.0

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        self.counter.enter.remote(self.name)
        self.metrics.enter(self.developer.waiting)
        parcels = await self.developer.develop(block.to_pylist())
        statistics = self.developer.statistics
        self.metrics.leave(self.developer.waiting, statistics)
        self.counter.leave.remote(self.name, statistics.total_seconds - self.reported)
        self.reported = statistics.total_seconds
        yield parcel.to_block(parcels)


class _JudgeActor:
    """`Judge` as Ray Data calls it, at one of its two places."""

    def __init__(self, name: str, how: Judging, threads: int, counter: Any) -> None:
        from darkroom.batch.judge import Judge

        judge = Judge(how, threads)
        self.act = {CHOOSE: judge.choose, FINISH: judge.finish}[name]
        self.name, self.counter = name, counter

    def __call__(self, block: pa.Table) -> pa.Table:
        with _counted(self.counter, self.name):
            return parcel.to_block(self.act(block.to_pylist()))


class _Encoder:
    def __init__(self, model: str, encoder: str, dtype: str, store: EmbeddingStore, threads: int) -> None:
        import torch

        from darkroom.models.catalog import open_model

        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder, self.store, self.name = open_model(model).text_encoder(encoder, device, dtype), store, encoder

    def __call__(self, block: pa.Table) -> pa.Table:
        for prompts in block["prompts"].to_pylist():
            self.store.put(prompts, self.encoder.encode(prompts))
            embedded(self.store.root, self.name, len(prompts))
        return pa.table({"prompts": [len(block)]})


def _deliver(block: pa.Table, how: Delivery, counter: Any) -> pa.Table:
    with _counted(counter, "deliver"):
        return pa.Table.from_pylist([asdict(deliver(block.to_pylist(), how))])


@contextmanager
def _counted(counter: Any, stage: str) -> Iterator[None]:
    """Tells the counter of a unit's time in a stage that does one unit after the other."""
    began = time.monotonic()
    counter.enter.remote(stage)
    yield
    counter.leave.remote(stage, time.monotonic() - began)
