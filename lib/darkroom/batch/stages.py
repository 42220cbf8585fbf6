"""What Ray's actors do with the blocks that they are handed."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import torch

from darkroom.batch.options import Capacity
from darkroom.batch.placement import Pool
from darkroom.batch.progress import PROMPTS, counted
from darkroom.batch.row_state import from_block, to_block
from darkroom.batch.stuck import Guard
from darkroom.metrics import StageMetrics, embedded
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.control import StoredNet
from darkroom.models.embeddings import EmbeddingStore
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.storage import StorageError

if TYPE_CHECKING:
    from darkroom.batch.sampler_worker import SamplerWorker
    from darkroom.batch.scoring import Judge, JudgeOptions
    from darkroom.models.compiled import Mode

CHOOSE, FINISH = "choose", "finish"
TELL_SECONDS = 1.0  # between two signs of life of a stage that is at work
HANGS_SECONDS = 60.0  # of one pass, after which it is told of
ENCODED_AT_ONCE = 16  # prompts between two signs of life of an encoder: its own batch


def stage_name(number: int) -> str:
    return f"stage {number}"


@dataclass(frozen=True)
class StageJob:
    """One stage of a model, as a job runs it. embeddings: of a text model's prompts; None for one that takes none.
    revision: of the model, which its workers must find; None for any. stall_seconds: without a sign of life, until the
    job gives up; a worker that hangs is replaced before. adapters, nets: that rows may ask for."""

    number: int
    dtype: str
    capacity: Capacity
    embeddings: EmbeddingStore | None = None
    compile: Mode = "off"
    revision: str | None = None
    stall_seconds: float | None = None
    adapters: tuple[StoredAdapter, ...] = ()
    nets: tuple[StoredNet, ...] = ()

    @property
    def name(self) -> str:
        return stage_name(self.number)

    def guard(self) -> Guard:
        limit = self.stall_seconds
        return Guard(None) if limit is None else Guard(0.5 * limit, 1.8 * limit)  # `prompts.watchdog`: 1 and 2


@dataclass(frozen=True)
class Unencoded:
    """Prompts that a store lacks, and the text encoder that is to encode them. run: that asks for them, "": none does,
    and the metrics name the store."""

    encoder: str
    dtype: str
    store: EmbeddingStore
    prompts: list[str]
    run: str = ""


class StageActor:
    """`SamplerWorker` as Ray Data calls it: an async generator, so that several units are under way at once."""

    def __init__(self, model: str, stage: StageJob, pool: Pool, run: str, counter: Any) -> None:
        def load(begin: Callable[[str], None]) -> SamplerWorker:
            from darkroom.batch.sampler_worker import SamplerWorker

            options = (stage.capacity, pool.threads, stage.embeddings, stage.dtype, pool.gpus or 1.0, stage.compile)
            more = {"run": run, "begin": begin, "revision": stage.revision, "guard": stage.guard()}
            more |= {"adapters": stage.adapters, "nets": stage.nets}
            return SamplerWorker(model, stage.number, *options, **more)

        if ray.get_runtime_context().was_current_actor_reconstructed:
            counter.begin.remote(stage.name, f"the worker that ended is replaced by {_process()}")
        self.loaded = _Loaded(stage.name, load, counter)
        self.name, self.counter, self.metrics = stage.name, counter, StageMetrics(run, stage.name)
        self.waits_for_prompts = stage.embeddings is not None
        self.teller: asyncio.Task[None] | None = None
        self.told_of = 0.0  # when the pass began that was said to hang

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        worker: SamplerWorker = self.loaded.get()
        await self._wait_for_prompts()
        self.counter.enter.remote(self.name)
        self.metrics.enter(worker.waiting)
        if self.teller is None or self.teller.done():
            self.teller = asyncio.create_task(self._keep_telling())
        try:
            rows = await worker.process(await asyncio.to_thread(from_block, block))
        finally:
            self.metrics.leave(worker.waiting)
            self._tell()
        self.counter.leave.remote(self.name)
        yield await asyncio.to_thread(to_block, rows)

    async def _wait_for_prompts(self) -> None:
        while self.waits_for_prompts:
            problem = await self.counter.prompts.remote()
            if problem:
                raise ClusterError(problem)
            self.waits_for_prompts = problem is None
            if self.waits_for_prompts:
                await asyncio.sleep(0.2)

    async def _keep_telling(self) -> None:
        while self.metrics.units:
            await asyncio.sleep(TELL_SECONDS)
            self._tell()

    def _tell(self) -> None:
        evaluations, seconds = self.metrics.count(self.loaded.get().statistics)
        if evaluations:
            self.counter.evaluated.remote(self.name, evaluations, seconds)
        guard = self.loaded.get().guard
        if guard.began != self.told_of and (sentence := guard.hangs(HANGS_SECONDS)):
            self.told_of = guard.began
            self.counter.begin.remote(self.name, f"{_process()} {sentence}")


def _process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


class JudgeActor:
    """`Judge` as Ray Data calls it, at one of its two places."""

    def __init__(self, name: str, options: JudgeOptions, threads: int, counter: Any) -> None:
        def load(begin: Callable[[str], None]) -> Judge:
            from darkroom.batch.scoring import Judge

            return Judge(options, threads)

        self.loaded = _Loaded(name, load, counter)
        self.name, self.counter = name, counter

    def __call__(self, block: pa.Table) -> pa.Table:
        judge = self.loaded.get()
        with counted(self.counter, self.name):
            act = judge.choose if self.name == CHOOSE else judge.finish
            return to_block(act(from_block(block)))


@contextmanager
def _fitting(name: str) -> Iterator[None]:
    """ClusterError where the device has no room for it."""
    try:
        with naming_out_of_memory():
            yield
    except torch.OutOfMemoryError as error:
        raise ClusterError(f"{name} does not fit its device: {error}") from None


class _Loaded:
    """What an actor holds. Loaded at its start, but what goes wrong is raised by its first call: of an actor that dies
    at its start, Ray hands on the text alone."""

    def __init__(self, name: str, load: Callable[[Callable[[str], None]], Any], counter: Any) -> None:
        counter.load.remote(name)
        begin = partial(counter.begin.remote, name)
        begin("importing the model's classes")
        began = time.monotonic()
        self.value, self.error = None, None
        try:
            with _fitting(name):
                self.value = load(begin)
        except (ValueError, StorageError, ClusterError) as error:
            self.error = error
        except (RuntimeError, OSError, ImportError) as error:  # of torch, CUDA or a library
            self.error = ClusterError(f"{name} could not be loaded: {type(error).__name__}: {error}")
        counter.ready.remote(name, f" in {time.monotonic() - began:.1f} s")

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class EncoderActor:
    """Holds one text encoder at a time; blocks come sorted by theirs."""

    def __init__(self, model: str, revision: str, whose: list[Unencoded], threads: int, counter: Any) -> None:
        def load(begin: Callable[[str], None]) -> Any:
            from darkroom.models.catalog import open_revision

            torch.set_num_threads(threads)
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            return open_revision(model, revision)

        self.model, self.whose, self.counter = _Loaded(PROMPTS, load, counter), whose, counter
        self.held: tuple[int, Any] | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        (row,) = block.to_pylist()
        one, prompts = self.whose[row["encoder"]], row["prompts"]
        encoder = self._hold(row["encoder"])
        parts = []
        for at in range(0, len(prompts), ENCODED_AT_ONCE):
            began = time.monotonic()
            with _fitting(one.encoder):
                parts.append(encoder.encode(prompts[at : at + ENCODED_AT_ONCE]))
            self.counter.evaluated.remote(PROMPTS, len(parts[-1]), time.monotonic() - began)
        one.store.put(prompts, torch.cat(parts))
        embedded(one.run or one.store.root, one.encoder, len(prompts))
        return pa.table({"prompts": [len(prompts)]})

    def _hold(self, place: int) -> Any:
        if self.held is None or self.held[0] != place:
            self.held = None  # first: the two need not fit together
            one = self.whose[place]
            self.counter.load.remote(PROMPTS)  # silence has longer then: T5's weights may have to be fetched
            self.counter.begin.remote(PROMPTS, f"loading {one.encoder}")
            with _fitting(one.encoder):
                self.held = (place, self.model.get().text_encoder(one.encoder, self.device, one.dtype))
            self.counter.ready.remote(PROMPTS, "")
        return self.held[1]
