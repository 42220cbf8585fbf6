"""The engine against what one would run without it, on one mixed manifest, with one model, in one process.

    python benchmarks/engine.py
    python benchmarks/engine.py --seconds 0            every round times every row: hours
    python benchmarks/engine.py --rows 60 --rounds 2 --seconds 10 --json out.json

A  diffusers' pipelines in a loop, a row at a time       B  the same, 32-row batches grouped by (task, steps)
C  the engine, four batches of 32 rows in flight         D  the engine as a strong static loop: filled once, run empty

Before timing, the arms' pictures are compared. Forwards, evaluations and slot use are counted over the whole manifest,
with a model that answers at once. Rows per second are timed in rounds A B C D, D C B A, ..., each arm on a sample that
takes about --seconds and holds every task and start in its share. They are evaluations per second over the manifest's
evaluations per row, so that what a sample happens to hold has no say; how C and D run empty at a sample's end has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ARMS, BATCH, IN_FLIGHT, Arms, Made, silenced
from mix import SHARES, Row, Studio, canonical, make_rows, sample

from darkroom.models.catalog import open_model

COMPARED = 20  # rows: every task in its share
SMALLEST = {"A": 20, "B": 2 * BATCH, "C": IN_FLIGHT * BATCH, "D": 2 * BATCH}  # samples that are still what the arm is
# A quarter of one level of 8 bits, for the largest difference of any pixel. Rounding seldom goes so far in 34 steps at
# guidance 7, but it does where two prompts of an anagram quarrel; a plan that is wrong is far off in every row.
TOLERANCE, WITHIN = 2e-3, 0.9


def compare(arms: Arms, rows: list[Row]) -> dict[str, Made]:
    """What every arm made of the rows. AssertionError unless D's pictures are C's to the bit."""
    made = {name: arms.run(name, rows) for name in ARMS}
    for row in rows:
        assert torch.equal(made["C"].images[row["id"]], made["D"].images[row["id"]]), (
            f"{row['id']} has other neighbours"
        )
    return made


def differences(made: dict[str, Made], rows: list[Row], one: str, other: str) -> dict[str, list[float]]:
    """The largest difference of any pixel between two arms, for every row, by task."""
    found: dict[str, list[float]] = {task: [] for task in SHARES}
    for row in rows:
        found[row["task"]].append((made[one].images[row["id"]] - made[other].images[row["id"]]).abs().max().item())
    return found


def report_pictures(made: dict[str, Made], rows: list[Row]) -> tuple[dict[str, dict[str, list[float]]], bool]:
    """Prints how far apart the arms are; by pair of arms and task, and whether that is near enough."""
    apart = {f"{other} from A": differences(made, rows, "A", other) for other in "BC"}
    print(f"largest difference of any pixel, in -1..1, of {len(rows)} rows (median, most); D is C to the bit")
    for task in SHARES:
        told = (f"{pair} {statistics.median(far[task]):.1e}, {max(far[task]):.1e}" for pair, far in apart.items())
        print(f"  {task:<16}" + "   ".join(told))
    print("  (inpainting is C's own: diffusers leaves the known pixels clean on the way, RePaint noises them)")
    far = [value for pair in apart.values() for task, values in pair.items() if task != "inpaint" for value in values]
    near = sum(value <= TOLERANCE for value in far) / len(far)
    print(f"  within {TOLERANCE:g}: {near:.0%} of the others, at least {WITHIN:.0%} wanted")
    return apart, near >= WITHIN


def timed(arms: Arms, rows: list[Row], rounds: int, counts: dict[str, int], per_row: dict[str, float]) -> list[dict]:
    """Rows per second and the share of time outside the forward, by arm, a round an entry."""
    results = []
    for number in range(rounds):
        order = list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]
        entry: dict[str, Any] = {}
        for name in order:
            made = arms.run(name, sample(rows, counts[name], np.random.default_rng([number, counts[name]])))
            rate = made.evaluations / made.seconds / per_row[name]
            entry[name] = {"rows_per_second": rate, "outside": 1 - made.inside / made.seconds}
        results.append(entry)
        print(f"round {number + 1}: " + ", ".join(f"{n} {entry[n]['rows_per_second']:.3g}" for n in ARMS), flush=True)
    return results


def report(whole: dict[str, Made], rounds: list[dict], capacity: int) -> dict[str, dict[str, float]]:
    """Prints the table; its figures by arm."""
    table = {}
    titles = f"{'arm':<30}{'forwards':>9}{'evaluations':>13}{'slot use':>10}{'rows/s [min..max]':>24}"
    print(f"\n{titles}{'/A':>7}{'/B':>7}{'outside':>9}")
    for name, title in ARMS.items():
        rates = [entry[name]["rows_per_second"] for entry in rounds]
        table[name] = figures = {
            "forwards": whole[name].forwards,
            "evaluations": whole[name].evaluations,
            "slot_use": whole[name].evaluations / whole[name].forwards / capacity,
            "rows_per_second": statistics.median(rates),
            "slowest": min(rates),
            "fastest": max(rates),
            "outside": statistics.median(entry[name]["outside"] for entry in rounds),
        }
        for other in "AB":
            ratios = (entry[name]["rows_per_second"] / entry[other]["rows_per_second"] for entry in rounds)
            figures[f"ratio_to_{other}"] = statistics.median(ratios)
        spread = f"{figures['rows_per_second']:.3g} [{figures['slowest']:.3g}..{figures['fastest']:.3g}]"
        print(
            f"{name} {title:<28}{figures['forwards']:>9,}{figures['evaluations']:>13,}{figures['slot_use']:>10.3f}"
            f"{spread:>24}{figures['ratio_to_A']:>7.2f}{figures['ratio_to_B']:>7.2f}{figures['outside']:>9.1%}"
        )
    table["C"]["slot_use_while_batches_wait"] = whole["C"].steady
    print(
        f"slot use: evaluations over forwards x {capacity}; C's while batches wait is {whole['C'].steady:.4f}\n"
        "outside: the share of time outside the model's forward; /A, /B: medians of the rounds' ratios"
    )
    return table


def main() -> int:
    given = _arguments()
    torch.set_num_threads(given.threads)
    rows = [{"id": row["id"]} | canonical(row) for row in make_rows(given.rows)]
    arms = Arms(Studio.of(open_model(given.model), rows), given.capacity)
    few = sample(rows, COMPARED, np.random.default_rng(0))
    for name in ARMS:
        arms.run(name, few[:2])  # warms up
    made = compare(arms, few)
    apart, near = report_pictures(made, few)
    if not near:
        print("the arms do not make the same pictures: nothing to time", file=sys.stderr)
        return 1
    with silenced(arms.unet):
        whole = {name: arms.run(name, rows) for name in ARMS}
    per_row = {name: whole[name].evaluations / len(rows) for name in ARMS}
    counts = {name: _sample_size(name, made[name], per_row[name], given, len(rows)) for name in ARMS}
    print("rows timed per round: " + ", ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
    rounds = timed(arms, rows, given.rounds, counts, per_row)
    table = report(whole, rounds, given.capacity)
    if given.json:
        record = {"rows": len(rows), "capacity": given.capacity, "threads": given.threads, "timed": counts}
        record |= {"machine": platform.machine(), "differences": apart, "rounds": rounds, "table": table}
        given.json.write_text(json.dumps(record, indent=2))
    return 0


def _sample_size(name: str, made: Made, per_row: float, given: argparse.Namespace, rows: int) -> int:
    if not given.seconds:
        return rows
    answered = made.forwards * given.capacity if name in "CD" else made.evaluations  # a full pass takes no longer
    return min(rows, max(SMALLEST[name], round(given.seconds * answered / made.seconds / per_row)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--capacity", type=int, default=32, help="evaluations per pass of the engine")
    parser.add_argument("--model", default="if-xs", help="an embedded model or a folder")
    parser.add_argument("--seconds", type=float, default=30, help="per arm and round, about; 0: every row")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every arm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
