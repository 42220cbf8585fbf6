"""How a run grows: everything that is not the model, from ten thousand rows to a million, and a hundred on paper.

    python benchmarks/scale.py                         10,000, 100,000 and 1,000,000 rows: a table, about 10 minutes
    python benchmarks/scale.py --rows 10000 --out DIR  one size; what it makes stays in DIR

plan: the manifest read, checked and planned from nothing. resume: the same against a finished run's log and a listing
of its pictures, which are empty files. summary, audit: of that run, without pictures. rest: rows/s of loading, row
state, PNG, upload, result rows and commit, with a picture of 8 px that costs nothing, by two processes. Each in a
process of its own; peak is its memory at most, and +N that of its helpers, which share most of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.batch.commits import Commits
from darkroom.batch.load_inputs import LoadOptions, load_unit
from darkroom.batch.planned_rows import Maker, ReadRows, read_lines
from darkroom.batch.planning import MANIFEST_PART, WORK_PART, Work, cut
from darkroom.batch.row_state import Unit
from darkroom.batch.summary import Developed, describe, take_stock
from darkroom.batch.write_results import Receipt, WriteOptions, write_unit
from darkroom.manifest.processes import ordered_map
from darkroom.models.catalog import abilities, open_model
from darkroom.runs import Ledger, own
from darkroom.runs.audit import audit
from darkroom.runs.ledger import staged_key
from darkroom.runs.log import Shard
from darkroom.runs.pictures import Pictures
from darkroom.storage import image_key, open_store
from darkroom.storage.hashing import hashes

PROMPTS, TIMED_ROWS, PROCESSES = 10_000, 10_000, 2
RECORD_ROWS = 2_048  # of the finished log, eight units
PAPER = 100_000_000


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Three texts to one anagram, of ten thousand prompts."""
    for number in range(count):
        prompt = f"a red seven on white, number {number % PROMPTS}"
        row: dict[str, Any] = {"id": f"row-{number:08d}", "task": "text_to_image", "seed": number, "steps": 20}
        if number % 4:
            yield row | {"prompt": prompt, "guidance": 7.5}
        else:
            views = [{"view": "identity", "prompt": prompt}, {"view": "rotate_180", "prompt": "a blue one on white"}]
            yield row | {"task": "anagram", "views": views}


def make_manifest(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def plan(folder: Path) -> Work:
    """The manifest and the log as they are -> a plan in the run."""
    model = open_model("if-xs")
    maker = Maker.of(model)
    store = open_store(str(folder / "run"))
    read = ReadRows(str(folder / "jobs.jsonl"), abilities(model), maker, store)
    log = Ledger(store).read()
    work = cut(read, log, maker, None, store, pictures=Pictures(store, log.rows) if log.rows else None)
    record = {"plan": work.plan, "options": {"limit": None}, "manifest": {"rows": work.rows}, "model": {}}
    record["checked"] = read.mark
    store.write("run.json", json.dumps(record).encode())
    return work


def child_plan(folder: Path) -> dict[str, Any]:
    work = plan(folder)
    return {"summary": work.summary(), "plan": work.plan, "rows": work.rows, "to_make": work.to_make}


def child_resume(folder: Path) -> dict[str, Any]:
    found = child_plan(folder)
    assert not found["to_make"], found["summary"]
    return found


@dataclass(frozen=True)
class Develop:
    """A unit through loading, its row states, PNG, upload and staging; the model's part is a grey picture."""

    load: LoadOptions
    write: WriteOptions

    def __call__(self, part: int) -> Receipt:
        states = load_unit(Unit(part, part, 0, WORK_PART), self.load)
        for state in states:
            state.picture = np.zeros((3, 8, 8), dtype=np.float32)
        return write_unit(states, self.write)


def child_rest(folder: Path, plan: str, count: int) -> dict[str, Any]:
    """The first rows of the plan, in another run, so that the log of this one stays what it is."""
    run, store = str(folder / "rest"), open_store(str(folder / "rest"))
    parts = range(max(min(count, TIMED_ROWS) // WORK_PART, 1))
    for part in parts:
        key = f"work/{plan}/{part:06d}.jsonl"
        store.write(key, (folder / "run" / key).read_bytes())
    from scale import Develop  # by this name another process finds it

    develop = Develop(LoadOptions(run, plan, "", (8,), 3), WriteOptions(run, plan, "if-xs", "0", "ddpm"))
    with own(store, "benchmark") as writer:
        writer.open()
        commits = Commits(writer, lambda receipt: None)
        done = ordered_map(develop, parts, PROCESSES)
        with commits:
            commits.add(next(done))  # the processes are there; their start is no part of a row's cost
            began = time.perf_counter()
            for receipt in done:
                commits.add(receipt)
        writer.close()
    seconds = time.perf_counter() - began
    return {"rows": commits.totals["ok"], "rate": (commits.totals["ok"] - WORK_PART) / seconds}


def finish(folder: Path, plan: str) -> None:
    """The log of a run whose rows are all good, as its owner writes it; its shards and pictures are empty files."""
    store = open_store(str(folder / "run"))
    with own(store, "benchmark") as writer:
        writer.open()
        batch: list[dict[str, Any]] = []
        number = 0
        for line in read_lines(store, f"manifest/{plan}"):
            picture = folder / "run" / image_key(line["id"], line["key"])
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.touch()
            batch.append(line)
            if len(batch) == RECORD_ROWS:
                number = _commit(writer, store, batch, number)
                batch = []
        if batch:
            _commit(writer, store, batch, number)
        writer.close()


def _commit(writer: Any, store: Any, lines: list[dict[str, Any]], number: int) -> int:
    shards = []
    for first in range(0, len(lines), WORK_PART):
        part = lines[first : first + WORK_PART]
        name = f"unit-{number:07d}.parquet"
        store.write(staged_key(name), b"")
        tasks = Counter(line["row"]["task"] for line in part)
        counts = {task: {"ok": count} for task, count in tasks.items()}
        ids, keys = (hashes(line[column] for line in part) for column in ("id", "key"))
        shards.append(Shard(name, "", len(part), 0, counts, ids, keys, np.ones(len(part), dtype=bool)))
        number += 1
    writer.commit(shards)
    return number


def child_summary(folder: Path) -> dict[str, Any]:
    log = Ledger(open_store(str(folder / "run"))).read()
    return {"summary": describe(take_stock(log, Work("none"), Developed(), 0.0), str(folder / "run"))}


def child_audit(folder: Path) -> dict[str, Any]:
    found = audit(str(folder / "run"), pictures=False)
    assert found.passed, found.text()
    return {"summary": found.text()}


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": child_plan,
    "resume": child_resume,
    "rest": child_rest,
    "summary": child_summary,
    "audit": child_audit,
}


def child(name: str, folder: Path, more: list[Any]) -> None:
    began = time.perf_counter()
    found = CHILDREN[name](folder, *more)
    seconds = time.perf_counter() - began
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak, helper = (one.ru_maxrss / 1024 for one in usage)
    cpu = sum(one.ru_utime + one.ru_stime for one in usage)
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "helper_mb": helper, "cpu": cpu} | found))


def run_child(name: str, folder: Path, *more: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--out", str(folder), "--more", json.dumps(more)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    make_manifest(folder / "jobs.jsonl", count)
    found = {"plan": run_child("plan", folder)}
    name = found["plan"]["plan"]
    found["rest"] = run_child("rest", folder, name, count)
    finish(folder, name)
    for other in ("resume", "summary", "audit"):
        found[other] = run_child(other, folder)
    return found


def show(count: int, found: dict[str, dict[str, Any]]) -> None:
    for name in ("plan", "resume", "summary", "audit"):
        one = found[name]
        seconds, rate = one["seconds"], count / one["seconds"]
        helpers = f" +{one['helper_mb']:,.0f}" if one["helper_mb"] else ""
        peak = f"{one['peak_mb']:,.0f}{helpers} MB"
        print(f"{count:>11,} {name:<9}{seconds:>8.1f} s{one['cpu']:>9.1f} s{rate:>12,.0f}{peak:>18}")
    one = found["rest"]
    print(f"{one['rows']:>11,} {'rest':<9}{'':>21}{one['rate']:>12,.0f}  (by {PROCESSES} processes)", flush=True)


def on_paper(found: dict[str, dict[str, Any]], count: int) -> None:
    """A hundred million rows, from the largest size that was measured: what is a row's grows with the rows."""
    share, rate = PAPER / count, found["rest"]["rate"]
    files, units, records = PAPER / MANIFEST_PART, PAPER / WORK_PART, PAPER / RECORD_ROWS
    requests = PAPER + files + 6 * units + records
    print(f"\n{PAPER:,} rows on paper, from {count:,}:")
    for name in ("plan", "resume"):
        seconds = found[name]["seconds"]
        print(f"  {name:<9}{seconds * share / 3600:>6.1f} h   = {seconds:.1f} s x {share:,.0f}")
    print(f"  {'rest':<9}{PAPER / rate / 3600:>6.1f} h   = rows / {rate:,.0f} a second, on {PROCESSES} cores")
    print(f"  {'memory':<9}{(16 + 2 * 17) * PAPER / 1e9:>6.1f} GB  = rows x (16 B of hashes + 2 x 17 B of the log)")
    print(f"  {'requests':<9}{requests / 1e6:>6.1f} M   = rows (pictures) + rows / {MANIFEST_PART:,} (manifest)")
    print(f"{'':>22}+ 6 x rows / {WORK_PART} (work written and read, a shard written and 3 to publish it)")
    print(f"{'':>22}+ rows / {RECORD_ROWS:,} (records)")


def main() -> int:
    given = _arguments()
    if given.child:
        child(given.child, given.out, json.loads(given.more))
        return 0
    folder = given.out or Path(tempfile.mkdtemp(prefix="scale-"))
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f} (of others, before it began)")
    print(f"{'rows':>11} {'':<9}{'wall':>10}{'processor':>11}{'rows/s':>12}{'peak':>18}")
    try:
        for count in given.rows:
            found = measure(folder / str(count), count)
            show(count, found)
            if given.json:
                given.json.write_text(json.dumps({"rows": count, **found}, indent=2))
        on_paper(found, count)
    finally:
        if given.out is None:
            shutil.rmtree(folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="a folder in which all stays")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the last size's figures")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--more", default="[]", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
