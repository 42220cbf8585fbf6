"""How fast the studio's page Runs is on a large run: opened, filtered, sorted, leafed through.

    python benchmarks/studio.py                          200,000 rows: a table, two minutes
    python benchmarks/studio.py --rows 1000000 --out DIR the run stays in DIR, and is used again

The run is of rows as `benchmarks/scale.py` has them, written by the project's own writer and compacted as a job does at
its end; sixty-four pictures serve all rows, as those of duplicates do. open: the ledger read, its Parquet brought into
DuckDB, the first page's rows found and their pictures read. Each step in one process, as somebody who looks takes it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.runs import SCHEMA, own, stage, to_table
from darkroom.storage import Store, encode_png, image_key, open_store

UNIT, BATCH, PICTURES, SIDE = 256, 8, 64, 64
SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")


def make_run(folder: Path, count: int) -> None:
    from scale import rows  # what it imports is none of the studio's memory

    store = open_store(str(folder))
    rng = np.random.default_rng(0)
    places = [image_key(f"picture-{number}", f"{number:032x}") for number in range(PICTURES)]
    for place in places:
        store.write(place, encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)))
    record = {"plan": "0" * 8, "manifest": {"uri": "jobs.jsonl", "rows": count}, "model": {"name": "if-xs"}}
    store.write("run.json", json.dumps(record | {"options": {}, "created_at": "2026-11-28T00:00:00+00:00"}).encode())
    with own(store, "benchmark") as writer:
        writer.open()
        units: list[Any] = []
        unit: list[dict[str, Any]] = []
        for number, row in enumerate(rows(count)):
            unit.append(_result(row, number, store, places[number % PICTURES]))
            if len(unit) == UNIT or number == count - 1:
                units.append(stage(store, f"unit-{number // UNIT:07d}", to_table(unit)))
                unit = []
            if len(units) == BATCH or number == count - 1:
                writer.commit(units)
                units = []
        writer.compact()
        writer.close()


def _result(row: dict[str, Any], number: int, store: Store, place: str) -> dict[str, Any]:
    """A result as a job writes it; one in a thousand has failed."""
    failed = number % 1000 == 999
    prompts = [view["prompt"] for view in row["views"]] if "views" in row else [row["prompt"]]
    parameters = {name: value for name, value in row.items() if name != "id"}
    blank = {name: "" if SCHEMA.field(name).type == "string" else None for name in SCHEMA.names}
    return {
        **blank,
        "id": row["id"],
        "key": f"{number:032x}",
        "task": row["task"],
        "status": "failed" if failed else "ok",
        "error": f"the picture in/{number}.png is gone" if failed else "",
        "error_class": "input" if failed else "",
        "attempts": 1,
        "image": None if failed else {"bytes": None, "path": place},
        "image_uri": "" if failed else store.uri(place),
        "width": SIDE,
        "height": SIDE,
        "prompts": prompts,
        "seed": row["seed"],
        "steps": row["steps"],
        "guidance": row.get("guidance", 1.0),
        "sampler": SAMPLERS[number % len(SAMPLERS)],
        "parameters": json.dumps(parameters | {"sampler": SAMPLERS[number % len(SAMPLERS)]}, sort_keys=True),
        "model": "if-xs",
        "evaluations": 40,
        "seconds": number % 97 / 10,
        "worker": "node:cpu",
        "stages": json.dumps([{"stage": 1, "steps": 20, "guidance": 7.5, "noise_level": None, "dtype": "float32"}]),
        "controls": "[]",
        "flags": ["near_duplicate"] if number % 50 == 0 else [],
        "scores": "{}",
        "alignment": None if failed else number * 7919 % 1000 / 1000,
        "created_at": datetime.now(UTC),
    }


VIEWS = {
    "filter: words": {"text": "seven 77"},
    "filter: task, flag": {"tasks": ("anagram",), "flags": ("near_duplicate",)},
    "filter: parameters": {"where": "sampler=ddim seed>=1000 guidance>5"},
    "filter: a view": {"where": "view=rotate_180 seed<90000"},
    "filter: score": {"lowest": 0.9, "highest": 0.95},
    "filter: failed": {"statuses": ("failed",)},
    "sort: score": {"order": "alignment", "down": True},
    "sort: seconds": {"order": "seconds"},
    "page 1,000": {"page": 999},
}


def measure(uri: str) -> None:
    """Prints a line for each step."""
    _timed("imports", lambda: [import_module(f"darkroom.studio.{name}") for name in ("run_table", "shown_rows")])
    from darkroom.studio.run_table import RunTable
    from darkroom.studio.run_view import View
    from darkroom.studio.shown_rows import large, record, thumbnails

    def look(view: View) -> int:
        found = table.find(view)
        thumbnails(table, found.rows)
        return found.total

    def opened() -> tuple[RunTable, int]:
        table = RunTable(uri)
        thumbnails(table, table.find(View()).rows)
        return table, table.rows

    table, _ = _timed("open", opened)
    for name, words in VIEWS.items():
        _timed(name, lambda words=words: look(View(**words)))
    row = table.find(View(page=1000)).rows[0]
    _timed("a row large", lambda: (large(table, row), record(table, row["id"]), table.around(View(), row["id"]))[2][0])
    _timed("its series", lambda: sum(map(len, table.series(row).values())))
    print(f"{'memory at most':<22}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:>10,.0f} MB")


def _timed(name: str, act: Callable[[], Any]) -> Any:
    began, used = time.perf_counter(), time.process_time()
    found = act()
    wall, processor = time.perf_counter() - began, time.process_time() - used
    rows = found[1] if isinstance(found, tuple) else found if isinstance(found, int) else 0
    print(f"{name:<22}{wall:>10.2f} s{processor:>10.2f} s{rows:>12,}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--out", type=Path, help="a folder in which the run stays")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="studio-"))
    try:
        if not (folder / "run.json").exists():
            make_run(folder, given.rows)
        print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f} (of others, before it began)")
        print(f"{f'{given.rows:,} rows':<22}{'wall':>12}{'processor':>12}{'rows':>12}")
        measure(str(folder))
    finally:
        if given.out is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
