"""The main job: a manifest and a model become a run of pictures. Again, it makes only what is missing or changed."""

from __future__ import annotations

import importlib.metadata
import json
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from darkroom import __version__
from darkroom.batch import options as option
from darkroom.batch import pipeline, preflight, prompts, stages
from darkroom.batch.abilities import abilities
from darkroom.batch.capacity import ON_CPU
from darkroom.batch.duplicates import commit_twins
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.estimate import Estimate, count_evaluations, estimate, seconds_per_row
from darkroom.batch.load_inputs import LoadOptions
from darkroom.batch.options import Options, unit_size
from darkroom.batch.pipeline import Listener
from darkroom.batch.placement import Pool, all_apart, size_pools
from darkroom.batch.planning import WORK_PART, Maker, Work, cut
from darkroom.batch.progress import PROMPTS, News, Progress, Stalled
from darkroom.batch.scoring import JudgeOptions, offers
from darkroom.batch.summary import Outcome, describe, describe_work, take_stock
from darkroom.batch.write_results import WriteOptions
from darkroom.manifest import Manifest, open_manifest
from darkroom.metrics import RunMetrics
from darkroom.models.catalog import address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.scorers import open_scorer
from darkroom.phases import Say, phase, phase_of_ray, to_stderr
from darkroom.ray_cluster import ClusterError, connect
from darkroom.ray_cluster.resources import ENCODERS, Wanted, find_room
from darkroom.runs import Ledger
from darkroom.sampling.plans import SAMPLER_VERSION
from darkroom.storage import StorageError, Store, open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

__all__ = ["Options", "Outcome", "WrongRun", "abilities", "describe", "describe_work", "dry_run", "run"]

PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "numpy")
TEMPORARY = ("work/", "twins/")
FOLDERS = ("manifest/", *TEMPORARY)


class WrongRun(ValueError):
    """The folder asked for holds another run."""


@dataclass(frozen=True)
class Order:
    """What was asked, opened."""

    options: Options
    model: Model
    manifest: Manifest
    store: Store

    @classmethod
    def open(cls, options: Options) -> Order:
        """Raises ManifestError, ModelError or another ValueError for whatever can be known before Ray starts."""
        model = open_model(options.model)
        option.stage_dtypes(model, options.dtype, on_gpu=False)
        manifest = open_manifest(options.manifest, abilities(model, scorer=options.scorer is not None))
        return cls(options, model, manifest, open_store(options.out))

    @cached_property
    def address(self) -> str:
        """What workers open: the very model that was opened here, though a champion may change while the run lasts."""
        return address(self.options.model, self.model)

    @cached_property
    def judging(self) -> JudgeOptions:
        """ModelError where the model lacks what is asked for."""
        has = {part: offers(self.model, part) for part in ("safety_checker", "watermarker")}
        marks = has["watermarker"] if self.options.watermark is None else self.options.watermark == "on"
        for asked, part in ((self.options.safety == "flag", "safety_checker"), (marks, "watermarker")):
            if asked and not has[part]:
                raise ModelError(f"the model {self.model.name!r} has no folder {part!r} in any of its stages")
        return JudgeOptions(self.address, self.options.scorer, self.options.safety == "flag", marks)

    @cached_property
    def maker(self) -> Maker:
        model, scorer = self.model, self.options.scorer
        encoders = [model.encoder_of(stage.number) if model.encoders else "" for stage in model.stages]
        return Maker(
            revision=model.revision,
            stages=model.stages,
            default_size=model.default_size,
            encoders=tuple(encoders),
            finish="watermark" if self.judging.watermark else "",
            judge=open_scorer(scorer).revision if scorer else "",
            too_long=prompts.too_long(model),
        )


def dry_run(options: Options) -> tuple[Work, Estimate, str]:
    """What a run would do and need, without writing anything or starting Ray."""
    order = Order.open(options)
    work = cut(order.manifest, Ledger(order.store), order.maker, options.limit, None)
    _refuse_strangers(options, work)
    capacity = ON_CPU if options.capacity == "auto" else options.capacity
    dtypes = option.stage_dtypes(order.model, options.dtype, on_gpu=True)
    found = preflight.needs(order.model, sorted(work.stages), dtypes, options.capacity, True, list(work.prompts))
    return work, estimate(work, order.model, capacity), "on a GPU:\n" + preflight.table(found) if found else ""


def run(options: Options, say: Say = to_stderr) -> Outcome:
    """The whole job. Raises ManifestError or another ValueError for the user's part (DoesNotFit: what was asked for
    wants more memory than the cluster has); StorageError, ClusterError, Stalled."""
    began = time.monotonic()
    phase(say, "reading the model and the manifest")
    order = Order.open(options)
    for warning in order.manifest.warnings:
        say(warning)
    phase(say, "holding it against the run")
    ledger = _ledger(order)
    work = _cut(order, ledger)
    say(work.summary())
    busy: dict[str, float] = {}
    receipts = Counter[str]()
    if work.to_make:
        busy, receipts = _develop(order, work, say)
    commit_twins(order.store, ledger, work.plan)
    outcome = take_stock(ledger, work, receipts, busy, time.monotonic() - began)
    if outcome.rows < work.rows:
        raise ClusterError(f"every stage has ended, but only {outcome.rows:,} of {work.rows:,} rows are there")
    order.store.write("summary.json", _json(asdict(outcome)))
    order.store.delete(*(key for folder in TEMPORARY for key in order.store.list(folder)))
    return outcome


def _ledger(order: Order) -> Ledger:
    """The run's ledger, mended after a crash. Not where there is no run: mending deletes shards it does not know."""
    ledger, store = Ledger(order.store), order.store
    if store.exists("run.json"):
        ledger.recover()
    elif any(True for folder in ("metadata/", "commits/") for _ in store.list(folder)):
        out = order.options.out
        raise WrongRun(f"{out} holds a metadata or commits folder but no run.json; choose another --out")
    return ledger


def _cut(order: Order, ledger: Ledger) -> Work:
    options, store, maker = order.options, order.store, order.maker
    work = cut(order.manifest, ledger, maker, options.limit, store, options.unit_rows or WORK_PART)
    try:
        _refuse_strangers(options, work)
    except WrongRun:
        store.delete(*(key for folder in FOLDERS for key in store.list(f"{folder}{work.plan}/")))
        raise
    ledger.retire(work.retired)
    store.write("run.json", _json(_run_record(order, work)))
    store.delete(*(key for key in store.list("manifest/") if not key.startswith(f"manifest/{work.plan}/")))
    return work


def _refuse_strangers(options: Options, work: Work) -> None:
    """A typing error in --out must not retire another manifest's rows."""
    if work.before and work.done + work.changed == 0:
        raise WrongRun(f"{options.out} holds {work.before:,} rows, none of them of this manifest; choose another --out")


def _develop(order: Order, work: Work, say: Say) -> tuple[dict[str, float], Counter[str]]:
    options, model = order.options, order.model
    phase_of_ray(say, options.address)
    preloading = threading.Thread(target=prompts.preload, args=(model,), daemon=True)
    preloading.start()
    connect(options.address, options.verbose)
    phase(say, "looking at the cluster")
    setting = _set_up(order, work, say)
    evaluations = count_evaluations(work, model)
    job = _job(order, work, setting, evaluations)
    counter = pipeline.start_counter([PROMPTS, *job.names])
    progress = Progress(work.to_make, evaluations=round(sum(evaluations.values()) * work.to_make))
    metrics, receipts = RunMetrics(order.store.root, work.to_make), Counter[str]()
    encoding = _Encoding(order, setting, counter, say)
    listener = Listener(counter, partial(_hear, say, progress), encoding.check, partial(phase, say))
    if setting.together:
        encoding.start()
    else:
        encoding.encode(listener)
    encoding.check()
    phase(say, f"starting the workers, for {len(job.units):,} units of work")
    for receipt in pipeline.run(job, setting.pools, prompts.watchdog(options.stall_seconds), listener):
        if not receipts:
            progress.give_way()
            phase(say, "the first rows are committed")
        progress.add(receipt.ok, receipt.failed)
        metrics.commit(receipt.ok, Counter(receipt.causes))
        receipts.update(ok=receipt.ok, failed=receipt.failed, evaluations=receipt.evaluations)
    receipts["rate_milli"] = int(progress.rate() * 1000)
    return pipeline.busy_seconds(counter), receipts


def _hear(say: Say, progress: Progress, news: News) -> None:
    """What workers said, as they said it, and how far they are."""
    for ago, line in news.lines:
        progress.give_way()
        phase(say, line, ago)
    progress.evaluated(news.evaluations)


@dataclass(frozen=True)
class Setting:
    """A job held against what the cluster has. numbers: of the stages to run; missing: prompts without embeddings;
    together: these are encoded while the stages load, on `pools[ENCODERS]` if that is there."""

    numbers: list[int]
    dtypes: dict[int, str]
    stores: dict[str, EmbeddingStore]
    missing: list[stages.Unencoded]
    pools: dict[str, Pool]
    hardware: preflight.Hardware
    together: bool


def _set_up(order: Order, work: Work, say: Say) -> Setting:
    options, model = order.options, order.model
    numbers = sorted(work.stages)
    wanted = _wanted(order, work, numbers)
    room = find_room(wanted, options.patience, say)
    on_gpu = room.gpus > 0
    dtypes = option.stage_dtypes(model, options.dtype, on_gpu)
    stores = prompts.find_stores(model, work.prompts, dtypes, open_store(options.embeddings or options.out).root)
    missing = prompts.find_missing(model, work.prompts, dtypes, stores)
    for name, asked in work.prompts.items():
        left = sum(len(one.prompts) for one in missing if one.encoder == name)
        say(f"{len(asked):,} prompts for {name}, {left:,} of them to encode")
    large = [one for one in missing if not prompts.is_small(model, one)]
    needs = preflight.needs(model, numbers, dtypes, options.capacity, on_gpu, [one.encoder for one in large])
    hardware = preflight.read_hardware(say)
    sized = {need.name: need.on_gpu() for need in needs}
    wanted = [one.with_memory(sized.get(one.name, 0.0)) for one in wanted]
    beside = preflight.beside_the_stages(needs, room, hardware) if large else None
    pools = size_pools(wanted if beside is None else [*wanted, beside], room)
    preflight.check(needs, pools, hardware)
    say("\n".join([f"{work.to_make:,} rows to make by", preflight.table(needs, pools)]))
    together = bool(large) and (beside is not None or all_apart(room, pools))
    return Setting(numbers, dtypes, stores, missing, pools, hardware, together)


class _Encoding(threading.Thread):
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
            phase(self.say, f"encoding {len(one.prompts):,} prompts by {one.encoder}")
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


def _wanted(order: Order, work: Work, numbers: list[int]) -> list[Wanted]:
    wanted = [
        Wanted(stages.stage_name(n), order.options.workers_of(n), option.COSTS.get(n, option.COSTS[3])) for n in numbers
    ]
    judges = [stages.CHOOSE] * bool(work.best_of) + [stages.FINISH] * order.judging.finishes
    return wanted + [Wanted(name, judge=True) for name in judges]


def _job(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> pipeline.Job:
    options, model, root = order.options, order.model, order.store.root
    in_pixels = tuple(stage.size for stage in model.stages if stage.factor == 1)
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
            )
            for n in setting.numbers
        ),
        units=work.units(options.unit_rows or _unit_rows(order, work, setting, evaluations)),
        load=LoadOptions(root, work.plan, order.manifest.base, in_pixels, first.channels, model.default_size),
        write=WriteOptions(root, work.plan, model.name, model.revision, first.process.default_sampler, options.images),
        judge=order.judging,
        chooses=bool(work.best_of),
    )


def _unit_rows(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> int:
    pools = {number: setting.pools[stages.stage_name(number)] for number in setting.numbers}
    speeds = {number: setting.hardware.speed(pool) for number, pool in pools.items()}
    seconds = seconds_per_row(evaluations, order.model, speeds)
    return unit_size(work.to_make, work.largest, max(pool.workers for pool in pools.values()), seconds)


def _run_record(order: Order, work: Work) -> dict[str, Any]:
    options, model, manifest = order.options, order.model, order.manifest
    scorer = {"address": options.scorer, "revision": order.maker.judge} if options.scorer else None
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "plan": work.plan,
        "manifest": {"uri": manifest.uri, "sha256": manifest.digest, "rows": work.rows},
        "model": {"name": model.name, "revision": model.revision, "address": order.address},
        "sampler_version": SAMPLER_VERSION,
        "scorer": scorer,
        "safety": options.safety,
        "watermark": "on" if order.judging.watermark else "off",
        "options": asdict(options),
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode()
