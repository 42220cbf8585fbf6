"""The main job: a manifest and a model become a run of pictures. Again, it makes only what is missing or changed."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from darkroom import __version__
from darkroom.batch import pipeline
from darkroom.batch.deliver import Delivery, Images
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.estimate import Estimate, estimate
from darkroom.batch.pool import size_pool
from darkroom.batch.prepare import Preparation
from darkroom.batch.twins import commit_twins
from darkroom.batch.watch import Progress, Watchdog, duration
from darkroom.batch.work import Work, cut
from darkroom.cluster import ClusterError, connect
from darkroom.manifest import Abilities, Manifest, open_manifest
from darkroom.models.catalog import address, open_model
from darkroom.sampling.plans import SAMPLER_VERSION
from darkroom.storage import Ledger, Store, open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "numpy")
TEMPORARY = ("work/", "twins/")
FOLDERS = ("manifest/", *TEMPORARY)


class WrongRun(ValueError):
    """The folder asked for holds another run."""


@dataclass(frozen=True)
class Options:
    """What `darkroom generate` was asked. capacity: evaluations per pass; unit_rows: rows committed together."""

    manifest: str
    out: str
    model: str = "if-xs"
    workers: int | None = None
    capacity: int = 32
    unit_rows: int | None = None
    limit: int | None = None
    images: Images = "objects"
    stall_seconds: float = 300.0
    address: str | None = None
    verbose: bool = False


@dataclass
class Outcome:
    """How a run stands after a job."""

    rows: int
    counts: dict[str, dict[str, int]]
    made: int
    failed: int
    done_before: int
    seconds: float
    evaluations: int
    images_per_second: float
    slowest_stage: str = ""
    busy_seconds: dict[str, float] = field(default_factory=dict)


def dry_run(options: Options) -> tuple[Work, Estimate]:
    """What a run would do, without writing anything or starting Ray."""
    model, manifest, store = _open(options)
    work = cut(manifest, Ledger(store), model.revision, model.default_size, 1, options.limit, None)
    _refuse_strangers(options, work)
    return work, estimate(work, model, options.capacity)


def run(options: Options, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Outcome:
    """The whole job. Raises ManifestError or ValueError for the user's part; StorageError, ClusterError, Stalled."""
    began = time.monotonic()
    options = replace(options, model=address(options.model))  # once: a champion may be replaced while the run lasts
    model, manifest, store = _open(options)
    ledger = _ledger(options, store)
    work = _cut(options, model, manifest, ledger, store)
    say(work.summary())
    busy: dict[str, float] = {}
    receipts = Counter[str]()
    if work.units:
        busy, receipts = _develop(options, model, manifest, store, work, say)
    commit_twins(store, ledger, work.plan)
    outcome = _outcome(ledger, store, work, receipts, busy, time.monotonic() - began)
    if outcome.rows < work.rows:
        raise ClusterError(f"every stage has ended, but only {outcome.rows:,} of {work.rows:,} rows are there")
    store.write("summary.json", _json(asdict(outcome)))
    store.delete(*(key for folder in TEMPORARY for key in store.list(folder)))
    return outcome


def _open(options: Options) -> tuple[Model, Manifest, Store]:
    model = open_model(options.model)
    return model, open_manifest(options.manifest, abilities(model)), open_store(options.out)


def abilities(model: Model) -> Abilities:
    """What a manifest may ask of this model."""
    process = model.stages[0].process
    return Abilities(
        name=model.name,
        sizes=model.sizes,
        default_size=model.default_size,
        conditioning=model.conditioning,
        process=process.kind,
        num_timesteps=process.num_timesteps,
        num_classes=model.num_classes,
        upscale=len(model.stages) > 1,
    )


def _ledger(options: Options, store: Store) -> Ledger:
    """The run's ledger, mended after a crash. Not where there is no run: mending deletes shards it does not know."""
    ledger = Ledger(store)
    if store.exists("run.json"):
        ledger.recover()
    elif any(True for folder in ("metadata/", "commits/") for _ in store.list(folder)):
        raise WrongRun(f"{options.out} holds a metadata or commits folder but no run.json; choose another --out")
    return ledger


def _cut(options: Options, model: Model, manifest: Manifest, ledger: Ledger, store: Store) -> Work:
    rows = manifest.rows if options.limit is None else min(manifest.rows, options.limit)
    unit_rows = options.unit_rows or unit_size(rows)
    work = cut(manifest, ledger, model.revision, model.default_size, unit_rows, options.limit, store)
    try:
        _refuse_strangers(options, work)
    except WrongRun:
        store.delete(*(key for folder in FOLDERS for key in store.list(f"{folder}{work.plan}/")))
        raise
    ledger.retire(work.retired)
    store.write("run.json", _json(_run_record(options, model, manifest, work)))
    store.delete(*(key for key in store.list("manifest/") if not key.startswith(f"manifest/{work.plan}/")))
    return work


def _refuse_strangers(options: Options, work: Work) -> None:
    """A typing error in --out must not retire another manifest's rows."""
    if work.before and work.done + work.changed == 0:
        raise WrongRun(f"{options.out} holds {work.before:,} rows, none of them of this manifest; choose another --out")


def unit_size(rows: int) -> int:
    """Rows per unit: small enough that a short job fills its actors and a crash costs little, large enough that a
    long one is not spent on Ray's tenths of a second per block."""
    return max(8, min(256, rows // 32))


def _develop(
    options: Options, model: Model, manifest: Manifest, store: Store, work: Work, say: Callable[[str], None]
) -> tuple[dict[str, float], Counter[str]]:
    say("starting Ray ...")
    connect(options.address, options.verbose)
    stages = _stages(model, work)
    pool = size_pool(len(stages), options.workers)
    embeddings = _embed(options, model, store, work, say)
    say(f"{pool.workers} worker(s) for each of stages {list(stages)}")
    job = pipeline.Job(
        model=address(options.model),
        stages=stages,
        capacity=options.capacity,
        units=work.units,
        preparation=Preparation(store.root, work.plan, manifest.base, model.sizes, model.stages[0].channels),
        delivery=Delivery(
            store.root, work.plan, model.name, model.revision, model.stages[0].process.default_sampler, options.images
        ),
        embeddings=embeddings,
    )
    counter = pipeline.start_counter(stages)
    progress = Progress(work.to_make)
    receipts = Counter[str]()
    for receipt in pipeline.run(job, pool, counter, _watchdog(options)):
        progress.add(receipt.ok, receipt.failed)
        receipts.update(ok=receipt.ok, failed=receipt.failed, evaluations=receipt.evaluations)
    receipts["rate_milli"] = int(progress.rate() * 1000)
    return pipeline.busy_seconds(counter), receipts


def _embed(
    options: Options, model: Model, store: Store, work: Work, say: Callable[[str], None]
) -> EmbeddingStore | None:
    """The work's prompts as a text model takes them; None where labels, or nothing, stand in their place."""
    if model.conditioning != "text":
        return None
    embeddings = EmbeddingStore(store.root, model.revision)
    pipeline.embed(list(work.prompts), address(options.model), embeddings, _watchdog(options))
    say(f"{len(work.prompts):,} prompts embedded")
    return embeddings


def _watchdog(options: Options) -> Watchdog:
    return Watchdog(options.stall_seconds, 2 * options.stall_seconds)


def _stages(model: Model, work: Work) -> tuple[int, ...]:
    """The stages some row of this work goes through."""
    wanted = max(work.sizes)
    only_upscale = set(work.todo) == {"upscale"}
    return tuple(s.number for s in model.stages if s.size <= wanted and not (only_upscale and s.number == 1))


def _run_record(options: Options, model: Model, manifest: Manifest, work: Work) -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "plan": work.plan,
        "manifest": {"uri": manifest.uri, "sha256": manifest.digest, "rows": work.rows},
        "model": {"name": model.name, "revision": model.revision},
        "sampler_version": SAMPLER_VERSION,
        "options": asdict(options),
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _outcome(
    ledger: Ledger, store: Store, work: Work, receipts: Counter[str], busy: dict[str, float], seconds: float
) -> Outcome:
    """Counts from the ledger, so that they say what is there and not what this job believes it did."""
    statuses: dict[str, Counter[str]] = {}
    rows = 0
    for record in ledger.records():
        for row in ledger.table(record).select(["task", "status"]).to_pylist():
            statuses.setdefault(row["task"], Counter())[row["status"]] += 1
            rows += 1
    failed = sum(counts["failed"] for counts in statuses.values())
    return Outcome(
        rows=rows,
        counts={task: dict(counts) for task, counts in sorted(statuses.items())},
        made=receipts["ok"],
        failed=failed,
        done_before=work.done,
        seconds=round(seconds, 2),
        evaluations=receipts["evaluations"],
        images_per_second=receipts["rate_milli"] / 1000,
        slowest_stage=max(busy, key=lambda name: busy[name]) if busy else "",
        busy_seconds={name: round(value, 2) for name, value in busy.items()},
    )


def describe(outcome: Outcome, out: str) -> str:
    """What the user reads at the end."""
    lines = [f"{outcome.rows:,} rows in {out}"]
    for task, counts in outcome.counts.items():
        lines.append(f"  {task:<16}" + ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())))
    lines.append(f"made {outcome.made:,} in {duration(outcome.seconds)}, {outcome.evaluations:,} model evaluations")
    if outcome.slowest_stage:
        lines.append(
            f"slowest stage: {outcome.slowest_stage}, busy {duration(outcome.busy_seconds[outcome.slowest_stage])}"
        )
    return "\n".join(lines)


def describe_work(work: Work, estimated: Estimate) -> str:
    """What a dry run prints."""
    lines = [work.summary()]
    lines += [f"  {task:<16}{count:>10,} to make" for task, count in sorted(work.todo.items())]
    for number, evaluations in estimated.evaluations.items():
        if evaluations:
            seconds = duration(estimated.seconds[number])
            lines.append(f"stage {number}: {evaluations:,} model evaluations, about {seconds} on this machine")
    return "\n".join(lines)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode()
