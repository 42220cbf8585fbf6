"""The engine against what one would run without it, on one mixed manifest, with one model, in one process.

    python benchmarks/engine.py
    python benchmarks/engine.py --seconds 0            every round times every row: hours
    python benchmarks/engine.py --rows 60 --rounds 2 --seconds 10 --json out.json

A  diffusers' pipelines in a loop, a row at a time       B  the same, 32-row batches grouped by (task, steps)
C  the engine, four batches of 32 rows in flight         D  the engine as a strong static loop: filled once, run empty

Before timing, the arms' pictures are compared. Forwards, evaluations and slot use are counted over the whole manifest,
with a model that answers at once. Rows per second are timed in rounds A B C D, D C B A, ..., each arm on a sample that
takes about --seconds and holds every task and start in its share; they are evaluations per second over the manifest's
evaluations per row, so that what a sample happens to hold has no say.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from mix import SHARES, Row, Studio, canonical, make_rows
from peers import Peers
from torch import Tensor

from darkroom.models.cascade import open_model
from darkroom.sampling.engine import Engine, Finished

BATCH, IN_FLIGHT = 32, 4
SAMPLE = 20  # the smallest: every task in its share
TOLERANCE = 1e-3  # guidance 7 and 34 steps carry a rounding of 1e-6 about this far
ARMS = {
    "A": "diffusers, a row at a time",
    "B": "diffusers, static batches",
    "C": "engine",
    "D": "engine without refill",
}


@dataclass
class Made:
    """What an arm did: evaluations are questions answered, empty places left out; inside: seconds in the forward."""

    images: dict[str, Tensor] = field(default_factory=dict)
    forwards: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    inside: float = 0.0


class Arms:
    def __init__(self, studio: Studio, capacity: int) -> None:
        self.studio, self.capacity, self.peers = studio, capacity, Peers(studio)
        self.unet = studio.predictor.unet
        self.ways = {"A": self._loop, "B": self._static, "C": self._continuous, "D": self._without_refill}

    def run(self, name: str, rows: list[Row]) -> Made:
        made = Made()
        with _metered(self.unet, made):
            began = time.perf_counter()
            engine = self.ways[name](rows, made)
            made.seconds = time.perf_counter() - began
        if engine is not None:
            made.evaluations = engine.statistics.evaluations
        return made

    def _loop(self, rows: list[Row], made: Made) -> None:
        for row in rows:
            made.images[row["id"]] = self.peers.develop([row])[0]

    def _static(self, rows: list[Row], made: Made) -> None:
        for batch in _chunks(rows):
            for group in self.peers.groups(batch):
                made.images.update(zip((row["id"] for row in group), self.peers.develop(group), strict=True))

    def _continuous(self, rows: list[Row], made: Made) -> Engine:
        """As the actor is fed: a batch comes in when another is done."""
        engine, waiting, left = Engine(self.studio.predictor, self.capacity), _chunks(rows), {}
        while waiting or left:
            while waiting and len(left) < IN_FLIGHT:
                batch = waiting.popleft()
                number = len(waiting)
                left[number] = len(batch)
                for row in batch:
                    engine.add(self.studio.plan(row), (number, row["id"]))
            for finished in engine.advance():
                number, row_id = finished.tag
                made.images[row_id] = finished.image
                left[number] -= 1
                left = {number: count for number, count in left.items() if count}
        return engine

    def _without_refill(self, rows: list[Row], made: Made) -> Engine:
        engine = Engine(self.studio.predictor, self.capacity)
        waiting = deque((row["id"], self.studio.plan(row)) for row in rows)
        while waiting:
            room = self.capacity
            while waiting and (room == self.capacity or len(waiting[0][1].questions(0)) <= room):
                row_id, plan = waiting.popleft()
                engine.add(plan, row_id)
                room -= len(plan.questions(0))
            made.images.update(_by_tag(engine.run()))
        return engine


def _by_tag(finished: list[Finished]) -> Iterator[tuple[str, Tensor]]:
    return ((one.tag, one.image) for one in finished)


def _chunks(rows: list[Row]) -> deque[list[Row]]:
    return deque(rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


@contextmanager
def _metered(unet: torch.nn.Module, made: Made) -> Iterator[None]:
    began = 0.0

    def before(_: object, given: tuple) -> None:
        nonlocal began
        made.forwards += 1
        made.evaluations += len(given[0])
        began = time.perf_counter()

    def after(*_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        made.inside += time.perf_counter() - began

    hooks = [unet.register_forward_pre_hook(before), unet.register_forward_hook(after)]
    yield
    for hook in hooks:
        hook.remove()


@contextmanager
def _silenced(unet: torch.nn.Module) -> Iterator[None]:
    """The UNet answers zeros, at once."""

    def forward(x: Tensor, *_: object, return_dict: bool = True, **__: object) -> object:
        answer = x.new_zeros(len(x), unet.config.out_channels, *x.shape[2:])
        return UNet2DConditionOutput(answer) if return_dict else (answer,)

    with patch.object(unet, "forward", forward):
        yield


def sample(rows: list[Row], count: int, random: np.random.Generator) -> list[Row]:
    """`count` of the rows in manifest order, every task and start in its share: each n-th of the sorted rows."""
    count = min(count, len(rows))
    ordered = sorted(range(len(rows)), key=lambda at: (rows[at]["task"], rows[at].get("start", 0), at))
    places = ((np.arange(count) + random.random()) * len(rows) / count).astype(int)
    return [rows[at] for at in sorted(ordered[place] for place in places)]


def compare(arms: Arms, rows: list[Row]) -> tuple[dict[str, float], dict[str, Made]]:
    """The largest difference of any arm to A by task (to C for inpainting), and what was made. D must equal C exactly."""
    made = {name: arms.run(name, rows) for name in ARMS}
    furthest = dict.fromkeys(SHARES, 0.0)
    for row in rows:
        image = {name: made[name].images[row["id"]] for name in ARMS}
        assert torch.equal(image["C"], image["D"]), f"{row['id']} depends on its neighbours"
        alike = "AB" if row["task"] == "inpaint" else "ABC"
        distance = max((image["A"] - image[other]).abs().max().item() for other in alike)
        furthest[row["task"]] = max(furthest[row["task"]], distance)
    return furthest, made


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
    print(f"\n{'arm':<30}{'forwards':>9}{'evaluations':>13}{'slot use':>10}{'rows/s [min..max]':>24}{'/A':>7}{'/B':>7}{'outside':>9}")
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
    return table


def main() -> int:
    given = _arguments()
    torch.set_num_threads(given.threads)
    rows = [{"id": row["id"]} | canonical(row) for row in make_rows(given.rows)]
    arms = Arms(Studio(open_model(given.model), rows), given.capacity)
    few = sample(rows, SAMPLE, np.random.default_rng(0))
    for name in ARMS:
        arms.run(name, few[:2])  # warms up
    furthest, made = compare(arms, few)
    print(f"largest difference of any pixel to arm A, {len(few)} rows, allowed {TOLERANCE:g}; C and D equal to the bit")
    for task, distance in furthest.items():
        note = " (B to A only: diffusers keeps the known pixels clean, RePaint noises them)" if task == "inpaint" else ""
        print(f"  {task:<16}{distance:.1e}{note}")
    if max(furthest.values()) > TOLERANCE:
        print("the arms do not make the same pictures: nothing to time", file=sys.stderr)
        return 1
    with _silenced(arms.unet):
        whole = {name: arms.run(name, rows) for name in ARMS}
    per_row = {name: whole[name].evaluations / len(rows) for name in ARMS}
    pace = {name: len(few) / made[name].seconds for name in ARMS}
    counts = {n: max(SAMPLE, round(given.seconds * pace[n])) if given.seconds else len(rows) for n in ARMS}
    print("rows timed per round: " + ", ".join(f"{name} {min(counts[name], len(rows))}" for name in ARMS), flush=True)
    rounds = timed(arms, rows, given.rounds, counts, per_row)
    table = report(whole, rounds, given.capacity)
    if given.json:
        record = {"rows": len(rows), "capacity": given.capacity, "threads": given.threads, "machine": platform.machine()}
        record |= {"differences": furthest, "rounds": rounds, "table": table}
        given.json.write_text(json.dumps(record, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--capacity", type=int, default=32, help="evaluations per pass of the engine")
    parser.add_argument("--model", default="if-xs", help="an embedded model or a folder")
    parser.add_argument("--seconds", type=float, default=40, help="per arm and round; 0: every row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
