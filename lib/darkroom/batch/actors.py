"""What Ray's tasks and actors do with the blocks that they are handed.

Models are imported in the actors that hold them: every worker process imports this module, and diffusers would cost
each of them four seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from darkroom.batch import parcel
from darkroom.batch.deliver import Delivery, deliver
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.options import Capacity
from darkroom.batch.pool import Pool
from darkroom.batch.prepare import Preparation, prepare
from darkroom.cluster import ClusterError
from darkroom.metrics import StageMetrics, embedded
from darkroom.storage import StorageError

if TYPE_CHECKING:
    from darkroom.batch.develop import Developer
    from darkroom.batch.judge import Judge, Judging
    from darkroom.models.compiled import Mode

CHOOSE, FINISH = "choose", "finish"


def stage_name(number: int) -> str:
    return f"stage {number}"


@dataclass(frozen=True)
class StageJob:
    """One stage of a model, as a job runs it. embeddings: of a text model's prompts; None for one that takes none."""

    number: int
    dtype: str
    capacity: Capacity
    embeddings: EmbeddingStore | None = None
    compile: Mode = "off"

    @property
    def name(self) -> str:
        return stage_name(self.number)


@dataclass(frozen=True)
class Unencoded:
    """Prompts that a store lacks, and the text encoder that is to encode them."""

    encoder: str
    dtype: str
    store: EmbeddingStore
    prompts: list[str]


def prepare_unit(numbers: pa.Table, how: Preparation, counter: Any) -> pa.Table:
    with _counted(counter, "prepare"):
        (unit,) = numbers["unit"].to_pylist()
        return parcel.to_block(prepare(unit, how))


class StageActor:
    """`Developer` as Ray Data calls it: an async generator, so that several units are under way at once."""

    def __init__(self, model: str, stage: StageJob, pool: Pool, run: str, counter: Any) -> None:
        def load() -> Developer:
            from darkroom.batch.develop import Developer

            told = (stage.capacity, pool.threads, stage.embeddings, stage.dtype, pool.gpus or 1.0, stage.compile)
            return Developer(model, stage.number, *told)

        self.loaded = _Loaded(stage.name, load)
        self.name, self.counter, self.metrics = stage.name, counter, StageMetrics(run, stage.name)
        self.reported = 0.0

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        developer = self.loaded.get()
        self.counter.enter.remote(self.name)
        self.metrics.enter(developer.waiting)
        parcels = await developer.develop(parcel.from_block(block))
        statistics = developer.statistics
        self.metrics.leave(developer.waiting, statistics)
        self.counter.leave.remote(self.name, statistics.total_seconds - self.reported)
        self.reported = statistics.total_seconds
        yield parcel.to_block(parcels)


class JudgeActor:
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
            return parcel.to_block(act(parcel.from_block(block)))


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


class EncoderActor:
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


def deliver_unit(block: pa.Table, how: Delivery, counter: Any) -> pa.Table:
    with _counted(counter, "deliver"):
        return pa.Table.from_pylist([asdict(deliver(parcel.from_block(block), how))])


@contextmanager
def _counted(counter: Any, stage: str) -> Iterator[None]:
    """Tells the counter of a unit's time in a stage that does one unit after the other."""
    began = time.monotonic()
    counter.enter.remote(stage)
    yield
    counter.leave.remote(stage, time.monotonic() - began)
