"""What was asked of a job: opened, held against the run that lies there and against what the cluster has, and what
run.json says of it. A typing error must not take good rows away."""

from __future__ import annotations

import importlib.metadata
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from darkroom import __version__
from darkroom.batch import options as option
from darkroom.batch import pipeline, placement, prompts, stages
from darkroom.batch.input_files import input_roots, refuse_far
from darkroom.batch.load_inputs import LoadOptions
from darkroom.batch.options import Options, unit_size
from darkroom.batch.pipeline import Listener
from darkroom.batch.placement import Pool, all_apart, size_pools
from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.batch.planning import Work
from darkroom.batch.progress import Stalled
from darkroom.batch.row_filter import RowFilter
from darkroom.batch.scoring import JudgeOptions, offers
from darkroom.batch.summary import seconds_per_row
from darkroom.batch.write_results import WriteOptions
from darkroom.manifest import Manifest
from darkroom.models.catalog import abilities, address, open_model
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.errors import ModelError
from darkroom.models.scorers import open_scorer
from darkroom.phases import Say, phase, plural
from darkroom.ray_cluster import ClusterError, resources
from darkroom.ray_cluster.resources import ENCODERS, Wanted, find_room
from darkroom.runs import Ledger
from darkroom.runs.reading import NoRun, read_run_record
from darkroom.sampling.plans import SAMPLER_VERSION
from darkroom.storage import StorageError, Store, open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "numpy")
OF_ALL_ROWS = ("model", "watermark", "scorer", "sampler_version")  # what has a say in every row


@dataclass(frozen=True)
class Order:
    """What was asked, opened."""

    options: Options
    model: Model
    store: Store

    @classmethod
    def open(cls, options: Options) -> Order:
        """Raises ManifestError, ModelError or another ValueError for whatever can be known before Ray starts."""
        option.refuse_secrets(options)
        named = (option.parse_named("--adapter", options.adapter), option.parse_named("--control", options.control))
        model = open_model(options.model, *named, options.depth)
        option.stage_dtypes(model, options.dtype, on_gpu=False)
        option.parse_rerun(options.rerun)
        option.parse_max_failed(options.max_failed_rows, 0)
        order = cls(options, model, open_store(options.out))
        refuse_far(order.rows.far, order.manifest.base, order.input_roots)
        assert order.asked is None or order.asked.ids
        return order

    @cached_property
    def rows(self) -> ReadRows:
        """The manifest's, which are all good. ManifestError."""
        able = abilities(self.model, scorer=self.options.scorer is not None)
        return ReadRows(self.options.manifest, able, self.maker, self.store)

    @property
    def notes(self) -> list[str]:
        """What to know before anything is done: of rows, and of what is loaded beside the model."""
        nets = [f"the control network {net.name!r} is {net.address} ({net.digest[:12]})" for net in self.model.nets]
        depth = self.model.depth
        drawn = [f"depth is drawn by {depth.address} ({depth.digest[:12]})"] if depth else []
        return [*self.manifest.warnings, *nets, *drawn]

    @cached_property
    def asked(self) -> RowFilter | None:
        """The rows that may be made; None: all. StorageError, ValueError."""
        return None if self.options.ids is None else RowFilter.read(self.options.ids)

    @property
    def manifest(self) -> Manifest:
        return self.rows.manifest

    @cached_property
    def input_roots(self) -> tuple[str, ...]:
        """Where pictures may come from. ValueError."""
        return input_roots(self.options.inputs_root, self.manifest.base, self.store.root)

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
        safety = self.options.safety == "flag"
        return JudgeOptions(self.address, self.options.scorer, safety, marks, self.model.revision)

    @cached_property
    def maker(self) -> Maker:
        scorer = self.options.scorer
        return Maker.of(
            self.model,
            finish="watermark" if self.judging.watermark else "",
            judge=open_scorer(scorer).revision if scorer else "",
            too_long=prompts.too_long(self.model),
        )


class WrongRun(ValueError):
    """The folder asked for holds another run."""


def refuse_other_folder(order: Order) -> None:
    """Where there is no run nothing may look like one: its owner deletes shards that it does not know. WrongRun."""
    store = order.store
    if order.options.replace:
        return
    advice = "choose another --out, or say --replace: rows of this manifest that are there stay"
    try:
        if read_run_record(store).get("kind") == "training":
            raise WrongRun(f"{order.options.out} holds a training; choose another --out")
    except NoRun as error:
        # A job that died while it planned its first run has left records of nothing.
        if store.exists("run.json") or any(True for _ in store.list("metadata/")) or Ledger(store).read().shards:
            raise WrongRun(f"{error}; {advice}") from None


def refuse_to_empty(order: Order, work: Work) -> None:
    """Without --replace, good rows are neither made anew because of another model than the run's, nor replaced and
    withdrawn by another manifest than the run's, if that costs most of them: that is a typing error in --out."""
    options, out = order.options, order.options.out
    if options.replace or not work.before:
        return
    before, now = read_run_record(order.store), run_record(order, work)
    good, lost = f"of its {work.good_before:,} good rows", work.superseded + len(work.leavers)
    advice = "choose another --out, or say --replace"
    if work.done + work.changed + work.gone == 0:
        raise WrongRun(f"{out} holds {plural(work.before, 'row')}, none of them of this manifest; {advice}")
    differing = [name for name in OF_ALL_ROWS if _differs(before.get(name), now[name])]
    if differing and work.superseded:
        others = "; ".join(f"{name} {_short(before.get(name))}, not {_short(now[name])}" for name in differing)
        raise WrongRun(f"{out} was made with {others}: {work.superseded:,} {good} would be made anew; {advice}")
    if "scorer" in differing and work.done:
        scorers = f"scorer {_short(before.get('scorer'))}, not {_short(now['scorer'])}"
        raise WrongRun(f"{out} was made with {scorers}: {work.done:,} {good} would keep their scores; {advice}")
    same = before["manifest"]["uri"] == order.manifest.uri or before["manifest"]["sha256"] == order.manifest.digest
    if not same and 2 * lost > work.good_before:
        costs = f"replace {work.superseded:,} and withdraw {len(work.leavers):,} {good}"
        raise WrongRun(f"{out} is the run of {before['manifest']['uri']}: {order.manifest.uri} would {costs}; {advice}")


def _differs(was: Any, now: Any) -> bool:
    if isinstance(was, dict) and isinstance(now, dict):
        return was["revision"] != now["revision"]
    return was != now


def _short(value: Any) -> str:
    """What a run's record says of a model, a scorer or another thing, in a word or two."""
    if isinstance(value, dict):
        return f"{value.get('name') or value['address']} ({value['revision'][:12]})"
    return "none" if value is None else str(value)


def run_record(order: Order, work: Work) -> dict[str, Any]:
    options, model, manifest = order.options, order.model, order.manifest
    scorer = {"address": options.scorer, "revision": order.maker.judge} if options.scorer else None
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "plan": work.plan,
        "manifest": {"uri": manifest.uri, "sha256": manifest.digest, "rows": work.rows},
        "checked": order.rows.mark if options.limit is None else None,
        "model": {"name": model.name, "revision": model.revision, "address": order.address},
        "adapters": [asdict(adapter) for adapter in model.adapters],
        "control": [net.record() for net in model.nets],
        "depth": model.depth and asdict(model.depth),
        "sampler_version": SAMPLER_VERSION,
        "scorer": scorer,
        "safety": options.safety,
        "watermark": "on" if order.judging.watermark else "off",
        "options": asdict(options),
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


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
    for name, asked in work.prompts.items():
        left = sum(len(one.prompts) for one in missing if one.encoder == name)
        say(f"{plural(len(asked), 'prompt')} for {name}, {left:,} of them to encode")
    large = [one for one in missing if not prompts.is_small(model, one)]
    needs = placement.needs(model, numbers, dtypes, options.capacity, on_gpu, [one.encoder for one in large])
    hardware = resources.read_hardware(asked_hardware, say)
    sized = {need.name: need.on_gpu() for need in needs}
    wanted = [one.with_memory(sized.get(one.name, 0.0)) for one in wanted]
    beside = placement.beside_the_stages(needs, room, hardware) if large else None
    pools = size_pools(wanted if beside is None else [*wanted, beside], room)
    placement.check(needs, pools, hardware)
    say("\n".join([f"{plural(work.to_make, 'row')} to make by", placement.table(needs, pools)]))
    together = bool(large) and (beside is not None or all_apart(room, pools))
    return Setting(numbers, dtypes, stores, missing, pools, hardware, together)


def _wanted(order: Order, work: Work, numbers: list[int]) -> list[Wanted]:
    wanted = [
        Wanted(stages.stage_name(n), order.options.workers_of(n), option.COSTS.get(n, option.COSTS[3])) for n in numbers
    ]
    judges = [stages.CHOOSE] * bool(work.best_of) + [stages.FINISH] * order.judging.finishes
    return wanted + [Wanted(name, judge=True) for name in judges]


def job_of(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> pipeline.Job:
    options, model, root = order.options, order.model, order.store.root
    taken = tuple(stage.size for stage in model.stages if not stage.enlarges_latents)
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
        load=LoadOptions(
            root,
            work.plan,
            order.manifest.base,
            taken,
            first.channels,
            model.default_size,
            order.input_roots,
            any_size=first.step > 0,
            nets=order.maker.nets,
            depth=model.depth,
        ),
        write=WriteOptions(root, work.plan, model.name, model.revision, first.process.default_sampler, options.images),
        judge=order.judging,
        chooses=bool(work.best_of),
    )


def _unit_rows(order: Order, work: Work, setting: Setting, evaluations: dict[int, float]) -> int:
    pools = {number: setting.pools[stages.stage_name(number)] for number in setting.numbers}
    speeds = {number: pool.speed(setting.hardware) for number, pool in pools.items()}
    seconds = seconds_per_row(evaluations, order.model, speeds)
    return unit_size(work.to_make, work.largest, max(pool.workers for pool in pools.values()), seconds)


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
