"""Ray Data, all of it: how units of work flow through tasks and actors, and how prompts are embedded before that.

Models are imported in the actors that hold them: every worker process imports this module, and diffusers would cost
each of them four seconds.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from darkroom.batch import parcel
from darkroom.batch.deliver import Delivery, Receipt, deliver
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.errors import Stalled
from darkroom.batch.pool import ACTOR_CPUS, Pool
from darkroom.batch.prepare import Preparation, prepare
from darkroom.batch.watch import Counter, Watchdog
from darkroom.cluster import ClusterError
from darkroom.storage import StorageError

UNITS_IN_FLIGHT = 6  # per engine actor: enough that it never runs dry between units, few enough that memory stays flat
# Preparing and delivering mostly wait on storage. Not what any actor asks for: Ray would fuse a task into an actor that
# asks for the same, and the engine would wait for its pictures.
TASK_CPUS = 0.2
PROMPTS_PER_TASK = 256


@dataclass(frozen=True)
class Job:
    """A job as its pipeline needs it: numbers of the stages to run, units to do, and what each part is told.

    embeddings: of a text model's prompts; None for a model that takes none.
    """

    model: str
    stages: tuple[int, ...]
    capacity: int
    units: int
    preparation: Preparation
    delivery: Delivery
    embeddings: EmbeddingStore | None = None


def stage_names(stages: tuple[int, ...]) -> list[str]:
    return ["prepare", *(f"stage {number}" for number in stages), "deliver"]


def run(job: Job, pool: Pool, counter: Any, watchdog: Watchdog) -> Iterator[Receipt]:
    """Receipts of committed units as they come; Stalled when none comes for too long. `counter`: a `Counter` actor.

    Raises StorageError for an outage that a worker met, ClusterError when Ray itself gave up.
    """
    for row in _watched(build(job, pool, counter), watchdog, "unit was committed", counter):
        yield Receipt(**row)


class _Consumer(threading.Thread):
    """Reads a dataset into a queue. A daemon, because waiting for Ray cannot be given up from outside: an exit does not
    wait for it."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(name="consumer", daemon=True)
        self.dataset, self.rows = dataset, queue.Queue[dict[str, Any]]()
        self.error: ray.exceptions.RayError | None = None
        self.complete = False

    def run(self) -> None:
        try:
            for block in self.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in block.to_pylist():
                    self.rows.put(row)
            self.complete = True
        except ray.exceptions.RayError as error:
            self.error = error


def _watched(dataset: Dataset, watchdog: Watchdog, what: str, counter: Any | None = None) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come."""
    consumer = _Consumer(dataset)
    consumer.start()
    while consumer.is_alive() or not consumer.rows.empty():
        try:
            row = consumer.rows.get(timeout=0.5)
        except queue.Empty:
            if watchdog.expired:
                raise Stalled(_silence(watchdog, what, counter)) from None
            continue
        watchdog.beat()
        yield row
    if consumer.error is not None:
        raise _plain(consumer.error) from consumer.error
    if not consumer.complete:
        raise ClusterError("Ray Data ended before its time; its error is above")


def _plain(error: ray.exceptions.RayError) -> Exception:
    """What a worker's error was before Ray wrapped it; an error of Ray's own as a ClusterError; else as it is."""
    from darkroom.models.errors import ModelError

    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError):
        cause = cause.cause
    if isinstance(cause, (StorageError, ModelError)):
        cause.args = (str(cause).partition("\nFailed to ")[0],)  # Ray Data adds advice on its retries
        return cause
    if isinstance(cause, ray.exceptions.RayError):
        return ClusterError(f"Ray gave up: {type(cause).__name__}: {cause}")
    return error


def build(job: Job, pool: Pool, counter: Any) -> Dataset:
    """The dataset whose blocks are units, from their numbers to their receipts.

    `batch_size=None` hands over whole blocks, so a unit stays together from its file to its commit.
    """
    as_blocks = {"batch_size": None, "batch_format": "pyarrow"}
    # Blocks of our own, not `ray.data.range`: its read tasks want a whole processor each, which the actors may hold.
    dataset = ray.data.from_blocks([pa.table({"unit": [unit]}) for unit in range(job.units)])
    dataset = dataset.map_batches(
        _prepare, fn_args=(job.preparation, counter), num_cpus=TASK_CPUS, zero_copy_batch=True, **as_blocks
    )
    for number in job.stages:
        dataset = dataset.map_batches(
            _StageActor,
            fn_constructor_args=(job.model, number, job.capacity, pool.threads, job.embeddings, counter),
            compute=ActorPoolStrategy(
                size=pool.workers,
                max_tasks_in_flight_per_actor=2 * UNITS_IN_FLIGHT,
                max_concurrent_calls_per_actor=UNITS_IN_FLIGHT,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            **as_blocks,
        )
    return dataset.map_batches(_deliver, fn_args=(job.delivery, counter), num_cpus=TASK_CPUS, **as_blocks)


def start_counter(stages: tuple[int, ...]) -> Any:
    """The actor that stages report to."""
    return ray.remote(num_cpus=0)(Counter).remote(stage_names(stages))


def busy_seconds(counter: Any) -> dict[str, float]:
    """Seconds of work by stage; nothing if the counter was lost with its node, which is no reason to fail a job."""
    try:
        return ray.get(counter.busy.remote(), timeout=10)
    except (ray.exceptions.RayError, TimeoutError):
        return {}


def embed(prompts: list[str], model: str, store: EmbeddingStore, watchdog: Watchdog) -> None:
    """Encodes the prompts that the store lacks. The text encoder's actor is gone when this returns. Raises as `run`."""
    missing = store.missing(prompts)
    if not missing:
        return
    chunks = [missing[at : at + PROMPTS_PER_TASK] for at in range(0, len(missing), PROMPTS_PER_TASK)]
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0)) or None
    # Blocks of our own, as in `build`.
    dataset = ray.data.from_blocks([pa.table({"prompts": [chunk]}) for chunk in chunks]).map_batches(
        _Encoder,
        fn_constructor_args=(model, store),
        compute=ActorPoolStrategy(size=1),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=ACTOR_CPUS,
        num_gpus=gpus,
    )
    for _ in _watched(dataset, watchdog, "prompt was embedded"):
        pass


def _prepare(numbers: pa.Table, how: Preparation, counter: Any) -> pa.Table:
    with _counted(counter, "prepare"):
        units = numbers["unit"].to_pylist()
        assert len(units) == 1, f"a task was handed the units {units}"
        return parcel.to_block(prepare(units[0], how))


class _StageActor:
    """`Developer` as Ray Data calls it: an async generator, so that several units are under way at once."""

    def __init__(
        self, model: str, number: int, capacity: int, threads: int, embeddings: EmbeddingStore | None, counter: Any
    ) -> None:
        from darkroom.batch.develop import Developer

        self.developer = Developer(model, number, capacity, threads, embeddings)
        self.name, self.counter = f"stage {number}", counter
        self.reported = 0.0

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        self.counter.enter.remote(self.name)
        parcels = await self.developer.develop(block.to_pylist())
        busy = self.developer.engine.statistics.total_seconds
        self.counter.leave.remote(self.name, busy - self.reported)
        self.reported = busy
        yield parcel.to_block(parcels)


class _Encoder:
    def __init__(self, model: str, store: EmbeddingStore) -> None:
        import torch

        from darkroom.models.catalog import open_model

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder, self.store = open_model(model).text_encoder(device), store

    def __call__(self, block: pa.Table) -> pa.Table:
        for prompts in block["prompts"].to_pylist():
            self.store.put(prompts, self.encoder.encode(prompts))
        return pa.table({"prompts": [len(block)]})


def _deliver(block: pa.Table, how: Delivery, counter: Any) -> pa.Table:
    with _counted(counter, "deliver"):
        return pa.Table.from_pylist([asdict(deliver(block.to_pylist(), how))])


@contextmanager
def _counted(counter: Any, stage: str) -> Iterator[None]:
    """Tells the counter of a unit's time in a stage that is a plain task."""
    began = time.monotonic()
    counter.enter.remote(stage)
    yield
    counter.leave.remote(stage, time.monotonic() - began)


def _silence(watchdog: Watchdog, what: str, counter: Any | None) -> str:
    lines = [f"no {what} for {watchdog.silence:.0f} s, the limit is {watchdog.limit:.0f} s"]
    try:
        lines += ray.get(counter.lines.remote(), timeout=10) if counter else []
    except (ray.exceptions.RayError, TimeoutError) as error:
        lines.append(f"the stages' counter does not answer ({type(error).__name__})")
    have, free = ray.cluster_resources(), ray.available_resources()
    room = ", ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in have)
    return "\n  ".join([*lines, f"free in the cluster: {room}"])
