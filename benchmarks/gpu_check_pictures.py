"""The steps that make pictures: the tour, a cascade at IF's shapes, and what goes wrong on GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from gpu_check_jobs import (
    ROOT,
    Check,
    Failed,
    Found,
    Ran,
    add_drift,
    generate,
    of_stages,
    on_processor,
    read_rows,
    run_job,
    told_stages,
)
from gpu_check_model import DONE, TINY_SIZES
from gpu_check_processes import started
from mix import Row, make_rows, write

from darkroom.models.if_xs import STAGE_SIZES, TEXT_LENGTH, TEXT_WIDTH

DEMO = ROOT / "manifests" / "demo.yaml"
SIZES = (64, 256)  # of IF's stages
ROWS = 200  # of the mix that all manifests are cut from
IMAGELESS = ("text_to_image", "anagram", "hybrid")
PHASE = re.compile(r"^ *(?P<at>\d+\.\d) s {2}(?P<what>\S.*)$")
# Of the GPU, while IF-I-M is asked for passes of 128: weights, CUDA itself and a pass of 32 want about 3, one of 128 5.
LEAVE_GB, TOO_LARGE = 3.5, 128
HELD_SECONDS = 60.0
OVERFLOWING = 6e4  # float16 holds it, and not the sums that a network makes of such values


def demo(check: Check, found: Found, folder: Path) -> None:
    """The tour on the embedded model, and on the processor."""
    limit = check.pick([], [], ["--limit", "6"])
    ran = generate(DEMO, folder / "run", *limit)
    add_start(found, ran, "GPU" if check.on_gpu else "as told", at_most=15)
    found.add("seconds of the job", ran.seconds)
    found.add("rows", len(read_rows(folder / "run")))
    some = check.pick([], ["--limit", "12"], limit)
    reference = generate(DEMO, folder / "reference", *some, env=on_processor())
    add_start(found, reference, "processor")
    add_drift(found, folder / "run", folder / "reference", "against the processor", mean=1.0)


def cascade(check: Check, found: Found, folder: Path) -> None:
    """Mixed rows at IF-I-M's and IF-II-M's shapes: the job against the bare engine."""
    model, (count, upper) = wait_for_model(check), check.pick((200, 24), (64, 8), (10, 2))
    manifest = write_rows(check, folder, count, upper, *check.pick((30, 15), (30, 15), (200, 2)))
    capacity = check.pick(32, 32, 4)
    ran = generate(manifest, folder / "run", *common(check, model), "--capacity", str(capacity))
    add_start(found, ran, "job", at_most=30)
    rows = read_rows(folder / "run")
    found.add("dtype", told_stages(of_stages(rows, "dtype")))
    first, seconds = once_running(rows, ran)
    if len(first) == len(rows) and not check.tiny:
        raise Failed("all rows were made before the first commit: too few to tell a rate")
    when = "once running"
    if len(first) == len(rows):  # a few tiny rows may be: all that is left to time is the job as a whole
        first, seconds, when = [], ran.seconds, "with its start"
    bare = run_bare(model, manifest, folder, [row["id"] for row in first])
    add_rates(found, folder / "run", rows, (len(rows) - len(first), seconds, when), bare)


def add_rates(found: Found, run: Path, rows: list[Row], timed: tuple[int, float, str], bare: dict[str, Any]) -> None:
    """timed: so many rows of the job, their seconds, and when."""
    later, seconds, when = timed
    found.add(f"images/s, job {when}", later / seconds)
    found.add("images/s, bare engine", later / bare["seconds"])
    busy = json.loads((run / "summary.json").read_text()).get("busy_seconds", {})
    for name in [name for name in bare if name.startswith("stage ")]:
        found.add(f"{name}, evaluations/s, bare engine", bare[name]["evaluations_per_second"])
        if busy.get(name):
            found.add(f"{name}, evaluations/s, job while busy", bare[name]["evaluations"] / busy[name])
    found.add("evaluations", sum(row["evaluations"] for row in rows))
    if found.figures[-1].value != bare["evaluations"]:
        raise Failed(f"the job made {found.figures[-1].value} evaluations, the bare engine {bare['evaluations']}")
    found.add("pictures that are the bare engine's to the byte", f"{bare['same']} of {bare['rows']}")
    found.add("largest difference from them", bare["largest_difference"], "of 255")
    found.add(f"job {when} / bare engine", bare["seconds"] / seconds, at_least=0.95)


def auto(check: Check, found: Found, folder: Path) -> None:
    """--capacity auto: what was chosen, and that all rows of a stage have the same."""
    model = wait_for_model(check)
    manifest = write_rows(
        check, folder, *check.pick((16, 8), (8, 4), (4, 2)), *check.pick((100, 4), (100, 4), (200, 2))
    )
    ran = generate(manifest, folder / "run", *common(check, model), "--capacity", "auto")
    add_start(found, ran, "job")
    capacities = of_stages(read_rows(folder / "run"), "capacity")
    found.add("capacity", told_stages(capacities))
    if any(len(values) > 1 for values in capacities.values()):
        raise Failed(f"rows of one stage have several capacities: {told_stages(capacities)}")


def out_of_memory(check: Check, found: Found, folder: Path) -> None:
    """Passes too large for what another process leaves of the GPU: halved, and nothing lost."""
    model, asked = wait_for_model(check), check.pick(TOO_LARGE, TOO_LARGE, 8)
    manifest = write_rows(check, folder, check.pick(24, 16, 4), 0, check.pick(60, 100, 200), 2)
    if not check.on_gpu:
        found.add("on a processor", "no memory is taken away, only the job is run")
        generate(manifest, folder / "run", *common(check, model), "--capacity", str(asked))
        read_rows(folder / "run")
        return
    if not (check.out / "embeddings").exists():
        # Before, so that it is stage I that meets the want of memory; the step `if` has encoded these prompts too.
        run_job("embed", manifest, "--model", model, "--out", check.out / "embeddings")
    hold = [sys.executable, str(ROOT / "benchmarks" / "gpu_check_hold.py"), str(LEAVE_GB), str(folder / "held")]
    with started(hold, folder / "hold.log", os.environ) as process:
        found.add("memory", wait_for_hold(process, folder))
        generate(manifest, folder / "run", *common(check, model), "--capacity", str(asked))
    capacities = of_stages(read_rows(folder / "run"), "capacity")
    found.add("asked for passes of", asked)
    found.add("rows were made at", told_stages(capacities))
    if max(max(values) for values in capacities.values()) >= asked:
        raise Failed(f"no pass was halved with {LEAVE_GB} GB left: nothing is shown")


def in_float32(check: Check, found: Found, folder: Path) -> None:
    """A row that half precision cannot hold."""
    dtype = "float16" if check.on_gpu else "bfloat16"
    if not check.on_gpu:
        found.add("on a processor", "float16 is refused; bfloat16 holds the row, so only the path is run")
    rows = [{"id": "large", "prompt": "overflowing"}, {"id": "plain", "prompt": "a red seven"}]
    manifest = write_lines(folder, [{"task": "text_to_image", "steps": check.pick(10, 10, 3), **row} for row in rows])
    torch.save({"overflowing": overflowing()}, folder / "prompts.pth")
    told = ["--model", "if-xs", "--dtype", dtype]
    run_job("embed", "--import", folder / "prompts.pth", "--out", folder / "embeddings", *told)
    generate(manifest, folder / "run", *told, "--embeddings", folder / "embeddings")
    large, plain = read_rows(folder / "run")
    found.add("dtype", f"{dtype}, the large row {told_stages(of_stages([large], 'dtype'))}")
    found.add("flags of the large row", ", ".join(large["flags"]) or "none")
    if check.on_gpu and ("retried_float32" not in large["flags"] or "retried_float32" in plain["flags"]):
        raise Failed(f"retried_float32 is wanted of the large row alone; the plain one has {plain['flags']}")


def overflowing() -> torch.Tensor:
    """An embedding for if-xs, [12, 64]."""
    signs = torch.randn(TEXT_LENGTH, TEXT_WIDTH, generator=torch.Generator().manual_seed(0)).sign()
    return OVERFLOWING * signs


def graphs(check: Check, found: Found, folder: Path) -> None:
    """--compile graphs: which mode ran, and how far its pictures are from the uncompiled ones."""
    # At stage I alone: a stage's compiling takes half a minute.
    manifest = write(folder, make_rows(ROWS)[: check.pick(12, 12, 3)], STAGE_SIZES[0])
    generate(manifest, folder / "off", "--capacity", "32")
    ran = generate(manifest, folder / "run", "--capacity", "32", "--compile", "graphs")
    modes = of_stages(read_rows(folder / "run"), "compile")
    add_start(found, ran, "with compiling")
    found.add(
        "compile mode that ran", told_stages({number: {mode or "off" for mode in modes[number]} for number in modes})
    )
    add_drift(found, folder / "run", folder / "off", "against uncompiled", mean=1.0)
    if check.on_gpu and any(values != {"graphs"} for values in modes.values()):
        raise Failed(f"graphs were asked for, and {told_stages(modes)} ran")


def add_start(found: Found, ran: Ran, where: str, at_most: float | None = None) -> None:
    """Seconds to the first committed row, and where they went as the job says it."""
    if ran.first is None:
        raise Failed("no commit was seen while the job ran")
    found.add(f"seconds to the first committed row, {where}", ran.first, at_most=at_most)
    phases = [line for line in map(PHASE.match, ran.lines) if line]
    if phases:
        found.detail(f"phases, {where}", "; ".join(f"{line['at']} {line['what']}" for line in phases))


def once_running(rows: list[Row], ran: Ran) -> tuple[list[Row], float]:
    """The rows that were made by the first commit, and the seconds from then to the last row."""
    if ran.first_at is None:
        raise Failed("no commit was seen while the job ran")
    first = [row for row in rows if row["created_at"] <= ran.first_at]
    ended: datetime = max(row["created_at"] for row in rows)
    return first, (ended - max(row["created_at"] for row in first)).total_seconds()


def run_bare(model: Path, manifest: Path, folder: Path, first: list[str]) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check_bare.py"), str(model), str(manifest)]
    result = folder / "bare.json"
    subprocess.run([*command, str(folder / "run"), "--first", *first, "--json", str(result)], check=True)
    return json.loads(result.read_text())


def wait_for_model(check: Check) -> Path:
    """The cascade's folder, which another process of the check is making."""
    folder = check.out / "cascade"
    while not (folder / DONE).exists():
        if (failed := check.out / "cascade.failed").exists():
            raise Failed(f"the cascade could not be made: {failed.read_text()}")
        time.sleep(0.2)
    return folder


def wait_for_hold(process: subprocess.Popen[bytes], folder: Path) -> str:
    until = time.monotonic() + HELD_SECONDS
    while not (folder / "held").exists():
        if process.poll() is not None or time.monotonic() > until:
            raise Failed(f"the GPU's memory could not be held: {(folder / 'hold.log').read_text()[-300:]}")
        time.sleep(0.2)
    return (folder / "held").read_text().strip()


def common(check: Check, model: Path) -> list[str | Path]:
    """What all jobs on the cascade are told: prompts are encoded once for all of them."""
    return ["--model", model, "--embeddings", check.out / "embeddings"]


def write_rows(check: Check, folder: Path, count: int, upper: int, stride: int, steps: int) -> Path:
    """A manifest of mixed rows, of which the last `upper` go on through stage II in so many steps. Those of a small one
    are of every large one too, and their prompts are encoded once."""
    sizes = TINY_SIZES if check.tiny else SIZES
    going = [row for row in make_rows(ROWS, seed=1) if row["task"] in IMAGELESS][:upper]
    above = {"size": sizes[1], "stage2": {"steps": steps}}
    rows = make_rows(ROWS)[: count - upper] + [
        row | above | {"id": f"upper-{number:03d}"} for number, row in enumerate(going)
    ]
    rows = [row | {"stride": stride} | start_within(row, stride) for row in rows]
    return write(folder, rows, sizes[0])


def start_within(row: Row, stride: int) -> Row:
    return {"start": min(row["start"], 1000 // stride - 1)} if "start" in row else {}


def write_lines(folder: Path, rows: list[Row]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
