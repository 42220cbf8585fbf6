"""What the job costs beside the engine: the same rows through Ray and without it, and a model that costs nothing.

    python benchmarks/job.py
    python benchmarks/job.py --rows 64 --rounds 1 --free 1000 --json out.json

First table: the mixed manifest at stage I, `darkroom generate` in a process of its own against one engine in this one;
rows per second once running count from the first unit committed (for the engine: from as many rows done) to the last.
Second table: `darkroom generate` on rows of one step of a UNet of one tiny block at 24 px, so that nearly all of the
time is reading, cutting, Ray, PNG, storing and committing; memory is the driver's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from mix import DIGITS, INKS, Row, Studio, canonical, make_rows, write

from darkroom.batch import generate
from darkroom.batch.placement import size_pools
from darkroom.batch.write_results import to_pixels
from darkroom.models import if_xs
from darkroom.models.catalog import open_model
from darkroom.ray_cluster.resources import Room, Wanted
from darkroom.runs import Ledger
from darkroom.sampling.engine import Engine
from darkroom.storage import decode, image_key, open_store

SIZE, UNIT_ROWS = if_xs.STAGE_SIZES[0], 8


def child(options: dict[str, Any]) -> int:
    """The job, alone in its process; prints what it came to and the peak of this process' memory."""
    began = time.perf_counter()
    outcome = generate.run(generate.Options(**options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "outcome": asdict(outcome)}))
    return 0


def run_job(manifest: Path, out: Path, **more: Any) -> dict[str, Any]:
    """A job in a process of its own. `wall` holds its whole life, imports too."""
    options = {"manifest": str(manifest), "out": str(out), "workers": 1, **more}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--child", json.dumps(options)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the job failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"wall": time.perf_counter() - began}


def run_bare(model: str, rows: list[Row], capacity: int, first: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One engine, all rows at once; rows per second are counted from `first` rows done."""
    began = time.perf_counter()
    studio = Studio.of(open_model(model), rows)
    engine = Engine(studio.predictor, capacity)
    for row in rows:
        engine.add(studio.plan(row), row["id"])
    pictures: dict[str, np.ndarray] = {}
    since = before = None
    while not engine.idle:
        pictures |= {finished.tag: to_pixels(finished.image.numpy()) for finished in engine.advance()}
        if since is None and len(pictures) >= first:
            since, before = time.perf_counter(), len(pictures)
    ended = time.perf_counter()
    rate = (len(rows) - before) / (ended - since) if ended > since else 0.0
    figures = {"wall": ended - began, "rate": rate, "busy": engine.statistics.total_seconds}
    return figures, pictures


def pictures_of(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every row's id and picture, uint8 [S, S, 3]."""
    store = open_store(str(run))
    ledger = Ledger(store)
    for shard in ledger.read().shards.values():
        for row in ledger.table(shard, ["id", "key"]).to_pylist():
            yield row["id"], decode(store.read(image_key(row["id"], row["key"])), row["id"])


def against_engine(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rounds of the whole job and the bare engine on the same rows, and how many pictures are the same."""
    rows = make_rows(given.rows)
    manifest = write(folder, rows, SIZE)
    plain = [{"id": row["id"]} | canonical(row) for row in rows]
    rounds: list[dict[str, Any]] = []
    for number in range(given.rounds):
        out, entry = folder / f"run-{number}", {}
        for name in ("job", "bare") if number % 2 == 0 else ("bare", "job"):
            if name == "bare":
                entry[name], pictures = run_bare(given.model, plain, given.capacity, UNIT_ROWS)
                continue
            asked = {"model": given.model, "capacity": given.capacity, "unit_rows": UNIT_ROWS}
            outcome = (done := run_job(manifest, out, **asked))["outcome"]
            busy = outcome["busy_seconds"]["stage 1"]
            entry[name] = {"wall": done["wall"], "rate": outcome["images_per_second"], "busy": busy}
        same = sum(np.array_equal(pictures[row_id], array) for row_id, array in pictures_of(out))
        print(f"round {number + 1}: {same} of {len(rows)} pictures are the same to the byte", flush=True)
        rounds.append(entry | {"same": same})
    return rounds


def report_engine(rounds: list[dict[str, Any]], rows: int) -> None:
    print(f"\n{'median of rounds':<22}{'rows/s, start-up and all':>26}{'rows/s once running':>22}{'engine busy':>14}")
    for name, title in (("bare", "bare engine"), ("job", "darkroom generate")):
        wall, rate, busy = (statistics.median(entry[name][key] for entry in rounds) for key in ("wall", "rate", "busy"))
        print(f"{title:<22}{rows / wall:>26.3g}{rate:>22.3g}{busy:>12.1f} s")
    walls = statistics.median(entry["bare"]["wall"] / entry["job"]["wall"] for entry in rounds)
    rates = statistics.median(entry["job"]["rate"] / entry["bare"]["rate"] for entry in rounds)
    print(f"{'job over engine':<22}{walls:>26.2f}{rates:>22.2f}\n", flush=True)


def make_free_model(folder: Path) -> None:
    """A cascade of one stage whose UNet is as small as UNets come; what it paints is of no use to anybody."""
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(4,),
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=1,
    )
    tokenizer = if_xs.build_tokenizer([*DIGITS, *INKS, "a"])
    unet.save_pretrained(folder / "stage1/unet")
    if_xs.build_scheduler().save_pretrained(folder / "stage1/scheduler")
    if_xs.build_text_encoder(len(tokenizer)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "config.json").write_text(json.dumps({"name": "free", "stages": [{}]}))


def free_rows(count: int) -> Iterator[str]:
    """One step, no guidance: one evaluation a row."""
    for number in range(count):
        prompt = f"a {INKS[number % len(INKS)]} {DIGITS[number % len(DIGITS)]}"
        row = {"task": "text_to_image", "prompt": prompt, "seed": number, "steps": 1, "guidance": 1}
        yield json.dumps(row) + "\n"


def without_model(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Jobs of ever more rows on the model that costs nothing, printed as they end."""
    make_free_model(folder / "free")
    table = []
    print(
        f"{'rows, free model':>18}{'seconds':>9}{'rows/s':>9}{'once running':>14}{'driver peak':>13}{'engine busy':>13}"
    )
    for count in given.free:
        manifest = folder / f"free-{count}.jsonl"
        with manifest.open("w") as file:
            file.writelines(free_rows(count))
        done = run_job(manifest, folder / f"free-{count}", model=str(folder / "free"), capacity=given.capacity)
        outcome = done["outcome"]
        assert outcome["counts"] == {"text_to_image": {"ok": count}}, outcome["counts"]
        figures = {
            "rows": count,
            "wall": done["wall"],
            "rate": outcome["images_per_second"],
            "peak_mb": done["peak_mb"],
        }
        table.append(figures | {"busy_seconds": outcome["busy_seconds"]})
        print(
            f"{count:>18,}{done['wall']:>9.1f}{count / done['wall']:>9,.0f}{figures['rate']:>14,.0f}"
            f"{done['peak_mb']:>10,.0f} MB{outcome['busy_seconds']['stage 1']:>11.1f} s",
            flush=True,
        )
    return table


def main() -> int:
    given = _arguments()
    if given.child:
        return child(json.loads(given.child))
    # As many threads as the job's one actor gets, so that the same passes give the same bits.
    cpus = os.cpu_count() or 1
    torch.set_num_threads(size_pools([Wanted("stage 1", workers=1)], Room(cpus, 0, cpus))["stage 1"].threads)
    with tempfile.TemporaryDirectory() as name:
        rounds = against_engine(given, Path(name)) if given.rounds else []
        if rounds:
            report_engine(rounds, given.rows)
        table = without_model(given, Path(name)) if given.free else []
    if given.json:
        given.json.write_text(json.dumps({"rows": given.rows, "rounds": rounds, "free": table}, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=32, help="evaluations per pass")
    parser.add_argument("--model", default="if-xs", help="an embedded model or a folder")
    parser.add_argument("--free", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="rows of the free jobs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
