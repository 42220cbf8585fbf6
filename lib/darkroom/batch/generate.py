"""The main job: a manifest and a model become a run of pictures. Again, it makes only what is missing or changed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from darkroom.batch import options as option
from darkroom.batch import pipeline, placement, prompts
from darkroom.batch.capacity import ON_CPU
from darkroom.batch.options import Options
from darkroom.batch.order import (
    Encoding,
    Order,
    WrongRun,
    job_of,
    refuse_other_folder,
    refuse_to_empty,
    run_record,
    set_up,
)
from darkroom.batch.pipeline import Listener
from darkroom.batch.planned_rows import read_lines
from darkroom.batch.planning import WORK_PART, Work, cut
from darkroom.batch.progress import PROMPTS, News, Progress, TooManyFailed
from darkroom.batch.summary import (
    Developed,
    Estimate,
    Outcome,
    count_evaluations,
    describe,
    describe_work,
    estimate,
    take_stock,
)
from darkroom.batch.write_results import Receipt
from darkroom.metrics import RunMetrics
from darkroom.phases import Say, phase, phase_of_ray, plural, to_stderr
from darkroom.ray_cluster import ClusterError, connect
from darkroom.runs import LEASE_SECONDS, Ledger, Log, Shard, Writer, own, stage, to_table
from darkroom.runs.audit import broken_rows
from darkroom.runs.failures import Failures
from darkroom.runs.maintenance import TEMPORARY
from darkroom.runs.pictures import Pictures
from darkroom.runs.reading import read_run_record
from darkroom.storage import StorageError, Store
from darkroom.storage.doctor import at_start
from darkroom.storage.hashing import hashed, hashes
from darkroom.storage.lease import holder

__all__ = ["Options", "Outcome", "WrongRun", "describe", "describe_work", "dry_run", "run"]

COMMIT_ROWS, COMMIT_SECONDS = 2_000, 1.0
REPAIRS = 3  # times that a job goes over a run in which something is damaged
FOLDERS = ("manifest/", *TEMPORARY)
COMPACTED_BYTES = 2 * 2**30  # of small shards that a job merges at its end; where there are more, `darkroom compact`


def dry_run(options: Options, say: Say = to_stderr) -> tuple[Work, Estimate, str]:
    """What a run would do and need, without writing anything or starting Ray."""
    order = Order.open(options)
    refuse_other_folder(order)
    for note in order.notes:
        say(note)
    log = Ledger(order.store).read()
    work = _planned(order, log, None)
    _refuse(order, work)
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
    for note in order.notes:
        say(note)
    phase(say, "holding it against the run")
    refuse_other_folder(order)
    with _owning(order, say) as writer:
        return _run_as_owner(order, writer, began, say)


def _run_as_owner(order: Order, writer: Writer, began: float, say: Say) -> Outcome:
    for finding in at_start(order.store.root):
        say(str(finding))
    for shard in writer.open():
        say(f"{shard.name} is gone from metadata/: {plural(shard.rows, 'row is', 'rows are')} to be made anew")
    for key in writer.foreign:
        say(f"{order.store.uri(key)} is no file of the run, and is left alone")
    with _what_is_kept(order, writer):
        work, developed = _make_all(order, writer, say)
    writer.close()
    outcome = take_stock(writer.log, work, developed, time.monotonic() - began)
    if outcome.rows < work.rows - work.left_absent:
        raise ClusterError(f"every stage has ended, but only {outcome.rows:,} of {work.rows:,} rows are there")
    if work.to_make or not order.store.exists("summary.json"):  # else it says still how fast its rows were made
        order.store.write("summary.json", _json(asdict(outcome)))
    order.store.delete(*(key for folder in TEMPORARY for key in order.store.list(folder)))
    return outcome


def _make_all(order: Order, writer: Writer, say: Say) -> tuple[Work, Developed]:
    """What is to be made, and then what of the run proved damaged on the way."""
    developed = Developed()
    for _ in range(REPAIRS):
        work = _cut(order, writer)
        say(work.summary())
        if work.to_make:
            developed += _develop(order, work, writer, say)
        commit_duplicates(writer, work.plan)
        writer.withdraw(work.leavers)
        writer.compact(COMPACTED_BYTES)
        if not writer.damaged:
            return work, developed
        for error in writer.damaged.values():
            say(f"{error}: its rows are to be made anew")
        writer.drop_damaged()
    raise StorageError(f"{order.options.out}: what is written there is damaged again and again")


@contextmanager
def _what_is_kept(order: Order, writer: Writer) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        kept, rows = writer.log.index.good, order.manifest.rows
        error.args = (f"{kept:,} of {rows:,} rows are kept; run the same command again to go on",)
        raise


def _planned(order: Order, log: Log, store: Store | None) -> Work:
    """The manifest held against the log, see `planning.cut`."""
    options = order.options
    known = (_pictures(order, log), Failures(order.store, option.parse_rerun(options.rerun)), order.asked)
    return cut(order.rows, log, order.maker, options.limit, store, options.unit_rows or WORK_PART, *known)


def _pictures(order: Order, log: Log) -> Pictures | None:
    """Those that are there, where some should be. Of rows that hold their pictures none need be."""
    options = order.options
    if options.verify:
        return Pictures(order.store, log.rows, broken_rows(order.store, log))
    inline = log.rows and read_run_record(order.store)["options"].get("images") == "inline"
    return Pictures(order.store, log.rows) if log.rows and not inline else None


@contextmanager
def _owning(order: Order, say: Say) -> Iterator[Writer]:
    """The run's writer. Held where another job lives that owns the run; one that may live is looked at for a while."""
    store, out = order.store, order.options.out
    if present := holder(store):
        phase(say, f"{out} is held by {present}: looking for up to {LEASE_SECONDS:g} s whether it lives")
    with own(store, f"the job on {order.manifest.uri}") as writer:
        yield writer


def _cut(order: Order, writer: Writer) -> Work:
    store = order.store
    work = _planned(order, writer.log, store)
    try:
        _refuse(order, work)
    except ValueError:
        store.delete(*(key for folder in FOLDERS for key in store.list(f"{folder}{work.plan}/")))
        raise
    store.write("run.json", _json(run_record(order, work) | {"epoch": writer.epoch}))
    store.delete(*(key for key in store.list("manifest/") if not key.startswith(f"manifest/{work.plan}/")))
    return work


def _refuse(order: Order, work: Work) -> None:
    """ValueError, before the run is touched."""
    if order.asked is not None:
        order.asked.check()
    refuse_to_empty(order, work)


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
    most_failed = option.parse_max_failed(options.max_failed_rows, work.to_make)
    heard = partial(_committed, say, progress, RunMetrics(order.store.root, work.to_make))
    commits = Commits(writer, heard, most_failed)
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
    phase(say, f"starting the workers, for {plural(len(job.units), 'unit')} of work")
    with progress, commits:
        for receipt in pipeline.run(job, setting.pools, prompts.watchdog(options.stall_seconds), listener):
            commits.add(receipt)
    return Developed(commits.totals, pipeline.busy_seconds(counter), progress.rate())


def _committed(say: Say, progress: Progress, metrics: RunMetrics, receipt: Receipt) -> None:
    if not progress.ok + progress.failed:
        phase(say, "the first rows are committed")
    progress.add(receipt.ok, receipt.failed)
    metrics.commit(receipt.ok, Counter(receipt.causes))


def _hear(say: Say, progress: Progress, news: News) -> None:
    """What workers said, as they said it, and how far they are."""
    for ago, line in news.lines:
        phase(say, line, ago)
    progress.evaluated(news.evaluations)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode()


class Commits:
    """Commits the units' shards as they come: the first at once, then about once a second, several by one record.
    totals: of what is committed. heard: told of each unit, once its rows count. most_failed: rows; TooManyFailed where
    there are more."""

    def __init__(self, writer: Writer, heard: Callable[[Receipt], None], most_failed: float = float("inf")) -> None:
        self.writer, self.heard, self.most_failed = writer, heard, most_failed
        self.totals = Counter[str]()
        self._waiting: list[Receipt] = []
        self._flushed = float("-inf")

    def add(self, receipt: Receipt) -> None:
        self._waiting.append(receipt)
        if sum(waiting.ok + waiting.failed for waiting in self._waiting) >= COMMIT_ROWS:
            self.flush()
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """To be called about once a second."""
        if self._waiting and time.monotonic() - self._flushed >= COMMIT_SECONDS:
            self.flush()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Commits what waits; also where the job ends before its time, as those rows are made."""
        if kind is None:
            self.flush()
        else:
            with suppress(StorageError):  # the other error is the one to tell of
                self._commit()

    def flush(self) -> None:
        self._commit()
        if self.totals["failed"] > self.most_failed:
            counts = f"{self.totals['failed']:,} of {self.totals['ok'] + self.totals['failed']:,} rows failed"
            raise TooManyFailed(f"{counts}, --max-failed-rows allows {self.most_failed:,.0f} in all")

    def _commit(self) -> None:
        receipts, self._waiting = self._waiting, []
        self.writer.commit([Shard.from_json(receipt.shard) for receipt in receipts])
        self._flushed = time.monotonic()
        for receipt in receipts:
            self.totals.update(ok=receipt.ok, failed=receipt.failed, evaluations=receipt.evaluations)
            self.heard(receipt)


def commit_duplicates(writer: Writer, plan: str) -> int:
    """Commits a result row for every duplicate of this plan, a copy of the row that was made; how many. Those whose
    picture was never made are left for the next run."""
    lines = read_lines(writer.store, f"duplicates/{plan}")
    count = number = 0
    while batch := list(islice(lines, COMMIT_ROWS)):
        rows = list(_copies(writer, batch))
        if rows:
            writer.commit([stage(writer.store, f"{plan}-duplicates-{number:06d}", to_table(rows))])
        count, number = count + len(rows), number + 1
    return count


def _copies(writer: Writer, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    originals: dict[int, dict[str, Any]] = {}
    for shard, places in writer.log.index.with_keys(hashes(line["key"] for line in lines)):
        table = writer.table(shard)
        rows = [] if table is None else table.take(places).to_pylist()
        originals |= {hashed(row["key"]): row for row in rows}
    for line in lines:
        row = originals.get(hashed(line["key"]))
        if row is None or row["key"] != line["key"]:
            continue
        copy = {name: value for name, value in row.items() if name != "schema_version"}
        # It cost nothing: sums over evaluations and seconds stay true.
        yield copy | {"id": line["id"], "evaluations": 0, "seconds": 0.0, "created_at": datetime.now(UTC)}
