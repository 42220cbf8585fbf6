"""Ray Data, all of it: how units of work flow through tasks and actors, and how prompts are embedded before that.

What the tasks and actors do is in `actors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from darkroom.batch.consume import Listener, watched
from darkroom.batch.load_inputs import Preparation
from darkroom.batch.placement import Pool, encoder_pool
from darkroom.batch.progress import Counter, Watchdog
from darkroom.batch.stages import (
    CHOOSE,
    FINISH,
    EncoderActor,
    JudgeActor,
    StageActor,
    StageJob,
    Unencoded,
)
from darkroom.batch.tasks import deliver_unit, prepare_unit
from darkroom.batch.units import Unit
from darkroom.batch.write_results import Delivery, Receipt
from darkroom.ray_cluster import beside
from darkroom.ray_cluster.resources import read_room

if TYPE_CHECKING:
    from darkroom.batch.scoring import Judging

UNITS_IN_FLIGHT = 6  # per engine actor: enough that it never runs dry between units, few enough that memory stays flat
# Preparing and delivering mostly wait on storage. Not what any actor asks for: Ray would fuse a task into an actor that
# asks for the same, and the engine would wait for its pictures.
TASK_CPUS = 0.2
PROMPTS_PER_TASK = 256
# A block has one row, which is a unit, or a chunk of prompts. Ray Data refuses whole blocks (`batch_size=None`) to
# those that ask for a GPU, and what it makes of blocks of several rows is its own affair.
_ONE_ROW = {"batch_size": 1, "batch_format": "pyarrow"}


@dataclass(frozen=True)
class Job:
    """A job as its pipeline needs it: stages to run, units to do, and what each part is told.

    chooses: some rows have candidates, of which the best goes on after stage I.
    """

    model: str
    stages: tuple[StageJob, ...]
    units: list[Unit]
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


def run(job: Job, pools: dict[str, Pool], watchdog: Watchdog, listener: Listener) -> Iterator[Receipt]:
    """Receipts of committed units as they come; Stalled when nobody shows for too long that it is at work.

    Raises StorageError for an outage that a worker met, ClusterError when one crashed or Ray itself gave up.
    """
    for row in watched(build(job, pools, listener.counter), watchdog, "unit was committed", listener):
        yield Receipt(**row)


def build(job: Job, pools: dict[str, Pool], counter: Any) -> Dataset:
    """The dataset whose rows are units, from their numbers to their receipts."""
    # Blocks of our own, not `ray.data.range`: its read tasks want a whole processor each, which the actors may hold.
    dataset = ray.data.from_blocks([pa.Table.from_pylist([asdict(unit)]) for unit in job.units])
    dataset = dataset.map_batches(
        prepare_unit, fn_args=(job.preparation, counter), num_cpus=TASK_CPUS, zero_copy_batch=True, **_ONE_ROW
    )
    stages = {stage.name: stage for stage in job.stages}
    for name in job.names[1:-1]:
        if name in stages:
            told = (job.model, stages[name], pools[name], job.delivery.run, counter)
            dataset = _with_actors(dataset, StageActor, told, pools[name], UNITS_IN_FLIGHT)
        else:
            told = (name, job.judging, pools[name].threads, counter)
            dataset = _with_actors(dataset, JudgeActor, told, pools[name], 1)
    return dataset.map_batches(deliver_unit, fn_args=(job.delivery, counter), num_cpus=TASK_CPUS, **_ONE_ROW)


def _with_actors(dataset: Dataset, actor: type, told: tuple[Any, ...], pool: Pool, at_once: int) -> Dataset:
    more = {"max_concurrent_calls_per_actor": at_once} if at_once > 1 else {}
    return dataset.map_batches(
        actor,
        fn_constructor_args=told,
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2 * at_once, **more),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        resources=pool.resources or None,
        **_ONE_ROW,
    )


def start_counter(names: list[str]) -> Any:
    """The actor that stages report to."""
    return ray.remote(**beside())(Counter).remote(names)


def busy_seconds(counter: Any) -> dict[str, float]:
    """Seconds of work by stage; nothing if the counter was lost, which is no reason to fail a job."""
    try:
        return ray.get(counter.busy.remote(), timeout=10)
    except (ray.exceptions.RayError, TimeoutError):
        return {}


def embed(missing: list[Unencoded], model: str, pool: Pool | None, watchdog: Watchdog, listener: Listener) -> None:
    """Encodes the prompts, one encoder's after the other's. The actors are gone when this returns. Raises as `run`."""
    blocks = [
        pa.table({"encoder": [place], "prompts": [one.prompts[at : at + PROMPTS_PER_TASK]]})
        for place, one in enumerate(missing)
        for at in range(0, len(one.prompts), PROMPTS_PER_TASK)
    ]
    if not blocks:
        return
    pool = pool or encoder_pool(read_room(), len(blocks))
    # Blocks of our own, as in `build`.
    told = (model, [replace(one, prompts=[]) for one in missing], pool.threads, listener.counter)
    dataset = _with_actors(ray.data.from_blocks(blocks), EncoderActor, told, pool, 1)
    for _ in watched(dataset, watchdog, "prompt was embedded", listener):
        pass
