"""A job held against what the cluster has: stages, actors and their places, units of work."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import Any

from darkroom.batch import options as option
from darkroom.batch import pipeline, placement, prompts, stages
from darkroom.batch.load_inputs import LoadOptions
from darkroom.batch.options import unit_size
from darkroom.batch.order import Order
from darkroom.batch.pipeline import Listener
from darkroom.batch.placement import Pool, all_apart, size_pools
from darkroom.batch.planning import Work
from darkroom.batch.progress import Stalled
from darkroom.batch.summary import seconds_per_row
from darkroom.batch.write_results import WriteOptions
from darkroom.models.embeddings import EmbeddingStore
from darkroom.phases import Say, phase, plural
from darkroom.ray_cluster import ClusterError, resources
from darkroom.ray_cluster.resources import ENCODERS, Wanted, find_room
from darkroom.sampling.stage import Row, Stage, at_size
from darkroom.storage import StorageError, open_store


@dataclass(frozen=True)
class Setting:
    """A job held against what the cluster has. numbers: of the stages to run; missing: prompts without embeddings;
    together: these are encoded while the stages load, on `pools[ENCODERS]` if that is there."""

    numbers: list[int]
    dtypes: dict[int, str]
    stores: dict[str, EmbeddingStore]
    missing: list[stages.Unencoded]
    pools: dict[str, Pool]
    hardware: resources.Hardware
    together: bool


def set_up(order: Order, work: Work, say: Say) -> Setting:
    options, model = order.options, order.model
    numbers = sorted(work.stages)
    wanted = _wanted(order, work, numbers)
    room = find_room(wanted, options.patience, say)
    asked_hardware = resources.ask_hardware()
    on_gpu = room.gpus > 0
    dtypes = option.stage_dtypes(model, options.dtype, on_gpu)
    stores = prompts.find_stores(model, work.prompts, dtypes, open_store(options.embeddings or options.out).root)
    missing = prompts.find_missing(model, work.prompts, dtypes, stores)
    missing = [replace(one, run=order.store.root) for one in missing]
    for name, asked in work.prompts.items():
        left = sum(len(one.prompts) for one in missing if one.encoder == name)
        state = f"{left:,} of them to encode" if left else "encoded before"
        say(f"{plural(len(asked), 'prompt')} for {name}, {state}")
    large = [one for one in missing if not prompts.is_small(model, one)]
    encoders = [one.encoder for one in large]
    needs = placement.needs(model, numbers, dtypes, options.capacity, on_gpu, encoders, work.sample)
    hardware = resources.read_hardware(asked_hardware, say)
    sized = {need.name: need.on_gpu() for need in needs}
    wanted = [one.with_memory(sized.get(one.name, 0.0)) for one in wanted]
    beside = placement.beside_the_stages(needs, room, hardware) if large else None
    pools = size_pools(wanted if beside is None else [*wanted, beside], room)
    placement.refuse_dtypes(needs, pools, hardware, options.dtype)
    placement.check(needs, pools, hardware)
    say("\n".join([f"{plural(work.to_make, 'row')} to make by", placement.table(needs, pools)]))
    together = bool(large) and (beside is not None or all_apart(room, pools))
    return Setting(numbers, dtypes, stores, missing, pools, hardware, together)


def _wanted(order: Order, work: Work, numbers: list[int]) -> list[Wanted]:
    wanted = [
        Wanted(stages.stage_name(n), order.options.workers_of(n), option.COSTS.get(n, option.COSTS[3])) for n in numbers
    ]
    choose = [Wanted(stages.CHOOSE, judge=True, early=len(numbers) > 1)] * bool(work.best_of)
    return wanted + choose + [Wanted(stages.FINISH, judge=True)] * order.judging.finishes


def job_of(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> pipeline.Job:
    options, model, root = order.options, order.model, order.store.root
    first = model.stages[0]
    return pipeline.Job(
        model=order.address,
        stages=tuple(
            stages.StageJob(
                n,
                setting.dtypes[n],
                options.capacity,
                setting.stores.get(order.maker.encoders[n - 1]),
                options.compile,
                model.revision,
                options.stall_seconds,
                model.adapters,
                model.nets,
            )
            for n in setting.numbers
        ),
        units=work.units(options.unit_rows or _unit_rows(order, work, setting, evaluations)),
        load=LoadOptions.of(model, order.manifest.base, order.input_roots, order.maker.nets, root, work.plan),
        write=WriteOptions(root, work.plan, model.name, model.revision, first.process.default_sampler, options.images),
        judge=order.judging,
        chooses=bool(work.best_of),
    )


def _unit_rows(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> int:
    pools = {number: setting.pools[stages.stage_name(number)] for number in setting.numbers}
    speeds = {number: pool.speed(setting.hardware) for number, pool in pools.items()}
    seconds = seconds_per_row(evaluations, order.model, speeds)
    workers = max(pool.workers for pool in pools.values())
    drawn = max((_drawn(row, order.model.stages[0]) for row in work.sample), default=0)
    return unit_size(work.to_make, work.largest, workers, seconds, drawn)


def _drawn(row: Row, first: Stage) -> int:
    """Bytes of a row's candidates as stage I hands them on, float32 [N, 3, H, W]; 0 where it has none."""
    count = row.get("best_of") or 1
    return 4 * count * 3 * math.prod(at_size(row, first).pixels) if count > 1 else 0


class Encoding(threading.Thread):
    """Encodes the prompts that have no embedding yet, and then lets the stages ask for them. As a thread, while they
    load; `check` raises what went wrong."""

    def __init__(self, order: Order, setting: Setting, counter: Any, say: Say) -> None:
        super().__init__(name="encoding", daemon=True)
        self.order, self.setting, self.counter, self.say = order, setting, counter, say
        self.error: Exception | None = None

    def run(self) -> None:
        self.encode(Listener(self.counter))  # a silent one: the stages' says what is heard

    def encode(self, listener: Listener) -> None:
        """All of it, in the thread that calls."""
        order, setting = self.order, self.setting
        for one in setting.missing:
            phase(self.say, f"encoding {plural(len(one.prompts), 'prompt')} by {one.encoder}")
        dog, pool = prompts.watchdog(order.options.stall_seconds), setting.pools.get(ENCODERS)
        try:
            prompts.encode(order.model, order.address, setting.missing, pool, dog, listener)
            self.counter.end_prompts.remote()
        except (ValueError, StorageError, ClusterError, Stalled) as error:
            self.error = error
            self.counter.end_prompts.remote(str(error))

    def check(self) -> None:
        if self.error is not None:
            raise self.error
