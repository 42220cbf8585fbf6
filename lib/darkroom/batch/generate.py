"""The main job: a manifest and a model become a run of pictures. Again, it makes only what is missing or changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from darkroom.batch import options as option
from darkroom.batch.capacity import usual
from darkroom.batch.commits import commit_duplicates
from darkroom.batch.options import Options
from darkroom.batch.order import Order, WrongRun, refuse_other_folder, refuse_to_empty, run_record
from darkroom.batch.planning import WORK_PART, Work, cut
from darkroom.batch.progress import Progress
from darkroom.batch.summary import (
    Developed,
    Estimate,
    Outcome,
    describe,
    describe_work,
    estimate,
    take_stock,
    what_next,
)
from darkroom.phases import Say, phase, plural, to_stderr
from darkroom.ray_cluster import ClusterError
from darkroom.runs import LEASE_SECONDS, Ledger, Log, Writer, own
from darkroom.runs.audit import broken_rows
from darkroom.runs.failures import Failures
from darkroom.runs.maintenance import TEMPORARY
from darkroom.runs.pictures import Pictures
from darkroom.runs.reading import NoRun, read_run_record
from darkroom.storage import NotFound, StorageError, Store, open_store
from darkroom.storage.doctor import at_start
from darkroom.storage.lease import holder

__all__ = ["Options", "Outcome", "WrongRun", "describe", "describe_work", "draw", "dry_run", "run", "what_next"]

REPAIRS = 3  # times that a job goes over a run in which something is damaged
FOLDERS = ("manifest/", *TEMPORARY)
DRAWN_ROWS = 50_000  # of a run whose report is drawn unasked: reading them takes a second or two
COMPACTED_BYTES = 2 * 2**30  # of small shards that a job merges at its end; where there are more, `darkroom compact`


def dry_run(options: Options, say: Say = to_stderr) -> tuple[Work, Estimate, str]:
    """What a run would do and need, without writing anything or starting Ray."""
    from darkroom.batch import placement

    order = Order.open(options)
    refuse_other_folder(order)
    for note in order.notes:
        say(note)
    _look_at_inputs(order, say)
    log = Ledger(order.store).read()
    work = _planned(order, log, None)
    _refuse(order, work)
    capacity = usual(order.model.stages[0], on_gpu=False) if options.capacity == "auto" else options.capacity
    dtypes = option.stage_dtypes(order.model, options.dtype, on_gpu=True)
    asked = (list(work.prompts), work.sample)
    found = placement.needs(order.model, sorted(work.stages), dtypes, options.capacity, True, *asked)
    return (
        work,
        estimate(work, order.model, capacity),
        "what each stage would take of a GPU:\n" + placement.table(found) if found else "",
    )


def run(options: Options, say: Say = to_stderr, progress: Progress | None = None) -> Outcome:
    """The whole job. progress: what shows it, where that began before. Raises ManifestError or another ValueError for
    the user's part (DoesNotFit: what was asked for wants more memory than the cluster has); StorageError, ClusterError,
    Stalled."""
    began = time.monotonic()
    with progress or Progress() as progress:
        return _run(options, progress, began, say)


def draw(outcome: Outcome, out: str, wanted: bool | None, say: Say = to_stderr) -> str | None:
    """The uri of the run's page, drawn; None where it is not. wanted: None for pages that are soon drawn, of what is
    new. A page that cannot be drawn costs a finished run nothing."""
    from darkroom.report.page import write_report

    store = open_store(out)
    page = store.uri("report/index.html")
    if wanted is False:
        return None
    if wanted is None and not outcome.made and store.exists("report/index.html"):
        return page
    if wanted is None and outcome.rows > DRAWN_ROWS:
        return None
    phase(say, "drawing the report; --no-report does without")
    try:
        write_report(out)
    except Exception as error:  # whatever it is, the rows are made
        say(f"the report could not be drawn: {type(error).__name__}: {error}")
        return None
    return page


def _run(options: Options, progress: Progress, began: float, say: Say) -> Outcome:
    phase(say, "reading the model and the manifest")
    order = Order.open(options)
    for note in order.notes:
        say(note)
    _look_at_inputs(order, say)
    phase(say, "holding it against the run")
    refuse_other_folder(order)
    with _owning(order, say) as writer:
        return _run_as_owner(order, writer, progress, began, say)


def _look_at_inputs(order: Order, say: Say) -> None:
    """ManifestError, StorageError."""
    if not order.options.check_inputs:
        return
    from darkroom.batch.check_inputs import check_inputs
    from darkroom.batch.load_inputs import LoadOptions

    phase(say, "looking at the pictures that rows name")
    options = LoadOptions.of(order.model, order.manifest.base, order.input_roots, order.maker.nets)
    check_inputs(order.manifest, options, order.options.limit)


def _run_as_owner(order: Order, writer: Writer, progress: Progress, began: float, say: Say) -> Outcome:
    for finding in at_start(order.store.root):
        say(str(finding))
    for shard in writer.open():
        say(f"{shard.name} is gone from metadata/: {plural(shard.rows, 'row is', 'rows are')} to be made anew")
    for key in writer.foreign:
        say(f"{order.store.uri(key)} is no file of the run, and is left alone")
    with _what_is_kept(order, writer):
        work, developed = _make_all(order, writer, progress, say)
    writer.close()
    outcome = take_stock(writer.log, work, developed, time.monotonic() - began)
    if outcome.rows < work.rows - work.left_absent:
        raise ClusterError(f"every stage has ended, but only {outcome.rows:,} of {work.rows:,} rows are there")
    order.store.write("summary.json", _json(_summary(order.store, outcome, anew=bool(developed.totals))))
    order.store.delete(*(key for folder in TEMPORARY for key in order.store.list(folder)))
    return outcome


def _summary(store: Store, outcome: Outcome, anew: bool) -> dict[str, Any]:
    """anew: rows were made; else it says still how fast those were that are there, and how many they are now."""
    said = asdict(outcome)
    with suppress(NotFound, ValueError):
        before = {} if anew else json.loads(store.read("summary.json"))
        if isinstance(before, dict):
            return said | before | {name: said[name] for name in ("rows", "counts", "failed")}
    return said


def _make_all(order: Order, writer: Writer, progress: Progress, say: Say) -> tuple[Work, Developed]:
    """What is to be made, and then what of the run proved damaged on the way."""
    developed = Developed()
    for _ in range(REPAIRS):
        work = _cut(order, writer)
        say(work.summary())
        if work.to_make:
            from darkroom.batch.execution import execute  # here, and not at the top: Ray costs a second

            developed += execute(order, work, writer, progress, say)
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
    return Pictures(order.store, log.rows) if log.rows and not _all_inside(order.store) else None


def _all_inside(store: Store) -> bool:
    """Whether all rows hold their pictures. What was asked last does not say it of those that were there before."""
    with suppress(NoRun):
        inline = read_run_record(store)["options"].get("images") == "inline"
        return inline and not store.has("images/")
    return False


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
        order.asked.check(order.options.limit)
    refuse_to_empty(order, work)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode()
