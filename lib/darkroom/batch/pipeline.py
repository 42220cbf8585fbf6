"""Ray Data, all of it: how units of work flow through tasks and actors, and how prompts are embedded before that.

Models are imported in the actors that hold them: every worker process imports this module, and diffusers would cost
each of them four seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from darkroom.cluster import ClusterError
from darkroom.metrics import StageMetrics, embedded
from darkroom.storage import StorageError

if TYPE_CHECKING:
    from darkroom.batch.develop import Developer
    from darkroom.batch.judge import Judge, Judging

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


@dataclass(frozen=True)
class Unencoded:
    """Prompts that a store lacks, and the text encoder that is to encode them."""

    encoder: str
    dtype: str
    store: EmbeddingStore
    prompts: list[str]


def embed(unencoded: list[Unencoded], model: str, watchdog: Watchdog) -> None:
    """Encodes the prompts, one encoder's after the other's. The actors are gone when this returns, so that a text model
    and a stage never share a GPU. Raises as `run`."""
    blocks = [
        pa.table({"encoder": [place], "prompts": [one.prompts[at : at + PROMPTS_PER_TASK]]})
        for place, one in enumerate(unencoded)
        for at in range(0, len(one.prompts), PROMPTS_PER_TASK)
    ]
    if not blocks:
        return
    pool = _encoders(len(blocks))
    # Blocks of our own, as in `build`.
    told = (model, [replace(one, prompts=[]) for one in unencoded], pool.threads)
    dataset = _with_actors(ray.data.from_blocks(blocks), _Encoder, told, pool, 1)
    for _ in watched(dataset, watchdog, "prompt was embedded"):
        pass


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
        def load() -> Developer:
            from darkroom.batch.develop import Developer

            told = (stage.capacity, pool.threads, stage.embeddings, stage.dtype, pool.gpus or 1.0)
            return Developer(model, stage.number, *told)

        self.loaded = _Loaded(stage.name, load)
        self.name, self.counter, self.metrics = stage.name, counter, StageMetrics(run, stage.name)
        self.reported = 0.0

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        developer = self.loaded.get()
        self.counter.enter.remote(self.name)
        self.metrics.enter(developer.waiting)
        parcels = await developer.develop(block.to_pylist())
        statistics = developer.statistics
        self.metrics.leave(developer.waiting, statistics)
        self.counter.leave.remote(self.name, statistics.total_seconds - self.reported)
        self.reported = statistics.total_seconds
        yield parcel.to_block(parcels)


class _JudgeActor:
    """`Judge` as Ray Data calls it, at one of its two places."""

    def __init__(self, name: str, how: Judging, threads: int, counter: Any) -> None:
        def load() -> Judge:
            from darkroom.batch.judge import Judge

            return Judge(how, threads)

        self.loaded = _Loaded(name, load)
        self.name, self.counter = name, counter

    def __call__(self, block: pa.Table) -> pa.Table:
        judge = self.loaded.get()
        with _counted(self.counter, self.name):
            act = judge.choose if self.name == CHOOSE else judge.finish
            return parcel.to_block(act(block.to_pylist()))


class _Loaded:
    """What an actor holds. Loaded at its start, but what goes wrong is raised by its first call: of an actor that dies
    at its start, Ray hands on the text alone."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        import torch

        self.value, self.error = None, None
        try:
            self.value = load()
        except torch.OutOfMemoryError as error:
            self.error = ClusterError(f"{name} does not fit its device: {error}")
        except (ValueError, StorageError, ClusterError) as error:
            self.error = error

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _Encoder:
    """Holds one text encoder at a time; blocks come sorted by theirs."""

    def __init__(self, model: str, whose: list[Unencoded], threads: int) -> None:
        import torch

        from darkroom.models.catalog import open_model

        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.whose = open_model(model), whose
        self.held: tuple[int, Any] | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        for row in block.to_pylist():
            one, prompts = self.whose[row["encoder"]], row["prompts"]
            one.store.put(prompts, self._hold(row["encoder"]).encode(prompts))
            embedded(one.store.root, one.encoder, len(prompts))
        return pa.table({"prompts": [len(block)]})

    def _hold(self, place: int) -> Any:
        if self.held is None or self.held[0] != place:
            self.held = None  # first: the two need not fit together
            one = self.whose[place]
            self.held = (place, self.model.text_encoder(one.encoder, self.device, one.dtype))
        return self.held[1]


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
