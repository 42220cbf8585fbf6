"""The main job: a manifest and a model become a run of pictures. Again, it makes only what is missing or changed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from darkroom.batch import options as option
from darkroom.batch import pipeline, placement, prompts
from darkroom.batch.abilities import abilities
from darkroom.batch.capacity import ON_CPU
from darkroom.batch.commits import Commits
from darkroom.batch.duplicates import commit_duplicates
from darkroom.batch.estimate import Estimate, count_evaluations, estimate
from darkroom.batch.options import Options
from darkroom.batch.order import Order
from darkroom.batch.pipeline import Listener
from darkroom.batch.planning import WORK_PART, Work, cut
from darkroom.batch.progress import PROMPTS, News, Progress
from darkroom.batch.run_record import WrongRun, refuse_other_folder, refuse_to_empty, run_record
from darkroom.batch.setting import Encoding, job_of, set_up
from darkroom.batch.summary import Developed, Outcome, describe, describe_work, take_stock
from darkroom.batch.write_results import Receipt
from darkroom.metrics import RunMetrics
from darkroom.phases import Say, phase, phase_of_ray, to_stderr
from darkroom.ray_cluster import ClusterError, connect
from darkroom.runs import LEASE_SECONDS, Ledger, Writer, own
from darkroom.runs.maintenance import TEMPORARY
from darkroom.storage.lease import holder

__all__ = ["Options", "Outcome", "WrongRun", "abilities", "describe", "describe_work", "dry_run", "run"]

FOLDERS = ("manifest/", *TEMPORARY)
COMPACTED_BYTES = 2 * 2**30  # of small shards that a job merges at its end; where there are more, `darkroom compact`


def dry_run(options: Options) -> tuple[Work, Estimate, str]:
    """What a run would do and need, without writing anything or starting Ray."""
    order = Order.open(options)
    work = cut(order.rows, Ledger(order.store).read(), order.maker, options.limit, None)
    refuse_to_empty(order, work)
    capacity = ON_CPU if options.capacity == "auto" else options.capacity
    dtypes = option.stage_dtypes(order.model, options.dtype, on_gpu=True)
    found = placement.needs(order.model, sorted(work.stages), dtypes, options.capacity, True, list(work.prompts))
    return work, estimate(work, order.model, capacity), "on a GPU:\n" + placement.table(found) if found else ""


def run(options: Options, say: Say = to_stderr) -> Outcome:
    """The whole job. Raises ManifestError or another ValueError for the user's part (DoesNotFit: what was asked for
    wants more memory than the cluster has); StorageError, ClusterError, Stalled."""
    began = time.monotonic()
    phase(say, "reading the model and the manifest")
    order = Order.open(options)
    for warning in order.manifest.warnings:
        say(warning)
    phase(say, "holding it against the run")
    refuse_other_folder(order)
    with _owning(order, say) as writer:
        return _run_as_owner(order, writer, began, say)


def _run_as_owner(order: Order, writer: Writer, began: float, say: Say) -> Outcome:
    for shard in writer.open():
        say(f"{shard.name} is gone from metadata/: its {shard.rows:,} rows are to be made anew")
    work = _cut(order, writer)
    say(work.summary())
    developed = _develop(order, work, writer, say) if work.to_make else Developed()
    commit_duplicates(writer, work.plan)
    writer.withdraw(work.leavers)
    writer.compact(COMPACTED_BYTES)
    writer.close()
    outcome = take_stock(writer.log, work, developed, time.monotonic() - began)
    if outcome.rows < work.rows:
        raise ClusterError(f"every stage has ended, but only {outcome.rows:,} of {work.rows:,} rows are there")
    order.store.write("summary.json", _json(asdict(outcome)))
    order.store.delete(*(key for folder in TEMPORARY for key in order.store.list(folder)))
    return outcome


@contextmanager
def _owning(order: Order, say: Say) -> Iterator[Writer]:
    """The run's writer. Held where another job lives that owns the run; one that may live is looked at for a while."""
    store, out = order.store, order.options.out
    if present := holder(store):
        phase(say, f"{out} is held by {present}: looking for up to {LEASE_SECONDS:g} s whether it lives")
    with own(store, f"the job on {order.manifest.uri}") as writer:
        yield writer


def _cut(order: Order, writer: Writer) -> Work:
    options, store, maker = order.options, order.store, order.maker
    work = cut(order.rows, writer.log, maker, options.limit, store, options.unit_rows or WORK_PART)
    try:
        refuse_to_empty(order, work)
    except WrongRun:
        store.delete(*(key for folder in FOLDERS for key in store.list(f"{folder}{work.plan}/")))
        raise
    store.write("run.json", _json(run_record(order, work) | {"epoch": writer.epoch}))
    store.delete(*(key for key in store.list("manifest/") if not key.startswith(f"manifest/{work.plan}/")))
    return work


def _develop(order: Order, work: Work, writer: Writer, say: Say) -> Developed:
    options, model = order.options, order.model
    phase_of_ray(say, options.address)
    preloading = threading.Thread(target=prompts.preload, args=(model,), daemon=True)
    preloading.start()
    connect(options.address, options.verbose)
    phase(say, "looking at the cluster")
    setting = set_up(order, work, say)
    evaluations = count_evaluations(work, model)
    job = job_of(order, work, setting, evaluations)
    counter = pipeline.start_counter([PROMPTS, *job.names])
    progress = Progress(work.to_make, evaluations=round(sum(evaluations.values()) * work.to_make))
    commits = Commits(writer, partial(_committed, say, progress, RunMetrics(order.store.root, work.to_make)))
    encoding = Encoding(order, setting, counter, say)

    def check() -> None:
        encoding.check()
        commits.flush_if_due()

    listener = Listener(counter, partial(_hear, say, progress), check, partial(phase, say))
    if setting.together:
        encoding.start()
    else:
        encoding.encode(listener)
    encoding.check()
    phase(say, f"starting the workers, for {len(job.units):,} units of work")
    with commits:
        for receipt in pipeline.run(job, setting.pools, prompts.watchdog(options.stall_seconds), listener):
            commits.add(receipt)
    return Developed(commits.totals, pipeline.busy_seconds(counter), progress.rate())


def _committed(say: Say, progress: Progress, metrics: RunMetrics, receipt: Receipt) -> None:
    if not progress.ok + progress.failed:
        progress.give_way()
        phase(say, "the first rows are committed")
    progress.add(receipt.ok, receipt.failed)
    metrics.commit(receipt.ok, Counter(receipt.causes))


def _hear(say: Say, progress: Progress, news: News) -> None:
    """What workers said, as they said it, and how far they are."""
    for ago, line in news.lines:
        progress.give_way()
        phase(say, line, ago)
    progress.evaluated(news.evaluations)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode()
