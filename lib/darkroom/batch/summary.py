"""What a job's work is and costs, said before it (a dry run), and how its run stands after it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darkroom.batch.capacity import empty_pass
from darkroom.batch.planning import Work
from darkroom.batch.scoring import seeds
from darkroom.phases import duration, plural
from darkroom.runs import Log
from darkroom.sampling.engine import Predictor
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.plans import Inputs, Stage, condition_keys, goes_through, make_plan
from darkroom.sampling.stage import at_size

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


SAMPLED = 64  # rows
PASSES = 3  # timed, after one to warm up
LARGEST_TIMED = 2**30  # bytes of weights: a larger model is not made for this machine, and may not even lie on it
_HOST = torch.device("cpu")
GPU, GPU_FLOPS = "one H100", 4e14  # a second that a large transformer gets of it in bfloat16: 40 % of what it could


@dataclass
class Outcome:
    """How a run stands after a job, and what the job did. made: rows, by this job; failed: of all rows; seconds: of the
    whole job, start-up and all; images_per_second: once running, from the first commit to the last, and where there was
    one alone over the work of the slowest stage; images_per_second_over_all: `made` over `seconds`; busy_seconds: of
    each stage's workers, summed."""

    rows: int
    counts: dict[str, dict[str, int]]
    made: int
    failed: int
    done_before: int
    seconds: float
    evaluations: int
    images_per_second: float
    images_per_second_over_all: float = 0.0
    slowest_stage: str = ""
    busy_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Developed:
    """What a job's workers did. totals: of committed rows, "ok" and "failed", and "evaluations"; busy: seconds of work
    by stage; rate: rows a second."""

    totals: Counter[str] = field(default_factory=Counter)
    busy: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0

    def __add__(self, later: Developed) -> Developed:
        return later if not self.totals else Developed(self.totals + later.totals, self.busy | later.busy, later.rate)


def take_stock(log: Log, work: Work, developed: Developed, seconds: float) -> Outcome:
    """Counts from the log, so that they say what is there and not what this job believes it did."""
    counts = log.counts
    failed = sum(statuses["failed"] for statuses in counts.values())
    slowest = max(developed.busy, key=developed.busy.__getitem__, default="")
    busy = developed.busy.get(slowest, 0.0)
    return Outcome(
        rows=log.rows,
        counts={task: dict(statuses) for task, statuses in counts.items()},
        made=developed.totals["ok"],
        failed=failed,
        done_before=work.done,
        seconds=round(seconds, 2),
        evaluations=developed.totals["evaluations"],
        images_per_second=round(developed.rate or (developed.totals["ok"] / busy if busy > 0 else 0.0), 3),
        images_per_second_over_all=round(developed.totals["ok"] / seconds, 3) if seconds > 0 else 0.0,
        slowest_stage=slowest,
        busy_seconds={name: round(value, 2) for name, value in developed.busy.items()},
    )


def describe(outcome: Outcome, out: str) -> str:
    """What the user reads at the end."""
    lines = [f"{plural(outcome.rows, 'row')} in {out}"]
    for task, counts in outcome.counts.items():
        lines.append(f"  {task:<16}" + ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())))
    asked = plural(outcome.evaluations, "model evaluation")
    lines.append(f"made {outcome.made:,} in {duration(outcome.seconds)}, {asked}{_speeds(outcome)}")
    if outcome.slowest_stage:
        lines.append(
            f"slowest stage: {outcome.slowest_stage}, busy {duration(outcome.busy_seconds[outcome.slowest_stage])}"
        )
    return "\n".join(lines)


def _speeds(outcome: Outcome) -> str:
    over_all, running = outcome.images_per_second_over_all, outcome.images_per_second
    if not over_all:
        return ""
    return f", {over_all:.3g} rows/s over all" + (f", {running:.3g} once running" if running else "")


def what_next(outcome: Outcome, out: str, page: str | None) -> str:
    """Where to look, and what to type. page: the report's index.html, where it is drawn."""
    lines = [f"pictures: {out.rstrip('/')}/images"]
    if page is not None:
        far = "s3://" in page
        lines.append(f"the page: {page}" + (f" (to open it here: aws s3 sync {out} FOLDER)" if far else ""))
    else:
        lines.append(f"the page: darkroom report {out}")
    if outcome.failed:
        lines.append(f"why rows failed: darkroom failed {out}; the same command tries them again")
    return "\n".join(lines)


def describe_work(work: Work, estimated: Estimate, needs: str = "") -> str:
    """What a dry run prints. needs: the stages' table, see `placement.table`."""
    lines = [work.summary()]
    lines += [f"  {task:<16}{count:>10,} to make" for task, count in sorted(work.todo.items())]
    for number, evaluations in estimated.evaluations.items():
        if evaluations:
            timed = estimated.seconds[number]
            about = f", about {duration(timed)} on this machine" if timed is not None else ""
            if (flops := estimated.flops.get(number)) is not None:
                about = f", {flops / 1e15:,.3g} PFLOP: about {duration(flops / GPU_FLOPS)} of {GPU} by that alone"
            lines.append(f"stage {number}: {plural(evaluations, 'model evaluation')}{about}")
    return "\n".join([*lines, needs] if needs else lines)


def count_evaluations(work: Work, model: Model, most: int = SAMPLED) -> dict[int, float]:
    """Evaluations of a row by stage number: the mean over a sample, of so many rows, of those that are to be made."""
    sample = work.sample[:most]
    return {
        stage.number: sum(_evaluations(row, model, stage) for row in sample) / max(len(sample), 1)
        for stage in model.stages
    }


def seconds_per_row(evaluations: Mapping[int, float], model: Model, speeds: Mapping[int, float]) -> float:
    """Of one actor, about, at the stage where a row takes longest. speeds: an actor's FLOP/s, by stage number."""
    return max(evaluations[number] * model.evaluation_flops(number) / speed for number, speed in speeds.items())


@dataclass(frozen=True)
class Estimate:
    """evaluations and seconds by stage number; seconds on this machine with one engine at a time, None: not timed.
    flops: floating point operations of all evaluations, of stages of videos, whose rows are too unlike each other and
    too costly to be timed."""

    evaluations: dict[int, int]
    seconds: dict[int, float | None]
    flops: dict[int, float] = field(default_factory=dict)


def estimate(work: Work, model: Model, capacity: int) -> Estimate:
    """Counts a sample of the rows exactly, scales to all of them, and times a few passes of each small stage."""
    evaluations: dict[int, int] = {}
    seconds: dict[int, float | None] = {}
    flops: dict[int, float] = {}
    means = count_evaluations(work, model, len(work.sample))
    for stage in model.stages:
        evaluations[stage.number] = round(means[stage.number] * work.to_make)
        if stage.video is not None:
            seconds[stage.number], flops[stage.number] = None, _flops(work, model, stage)
            continue
        controlled = controlled_share(work.sample, model, stage)
        per_pass = _seconds_per_pass(model, stage, capacity, controlled) if means[stage.number] else 0.0
        total = None if per_pass is None else evaluations[stage.number] / capacity * per_pass
        seconds[stage.number] = total
    return Estimate(evaluations, seconds, flops)


def _flops(work: Work, model: Model, stage: Stage) -> float:
    """Of all evaluations of a stage, by the mean of a sample of the rows, each at its own size."""
    sampled = [_evaluations(row, model, stage) * model.evaluation_flops(stage.number, row) for row in work.sample]
    return sum(sampled) / max(len(sampled), 1) * work.to_make


def _evaluations(row: dict, model: Model, stage: Stage) -> int:
    if not goes_through(row, stage, model.default_size):
        return 0
    stage = at_size(row, stage)
    width, height = stage.pixels
    blank = torch.zeros(3 if stage.factor > 1 else stage.channels, height, width)
    mask = torch.ones(1, height, width, dtype=torch.bool)
    nothing = {key: torch.zeros(1) for key in condition_keys(row, stage)}
    inputs = Inputs(nothing, image=blank, mask=mask, given=blank, low_res=blank)
    plan = make_plan(row, stage, to_latents(inputs, row, stage, lambda picture, noise: noise))
    return plan.evaluations * (len(seeds(row)) if stage.number == 1 else 1)


def controlled_share(rows: Sequence[dict], model: Model, stage: Stage) -> float:
    """Of the model's control networks, the share that is asked beside an evaluation of these rows, in 0..1."""
    asks = [(_evaluations(row, model, stage), len(row.get("control", ()))) for row in rows]
    asked = sum(evaluations * nets for evaluations, nets in asks)
    return asked / (sum(evaluations for evaluations, _ in asks) * len(model.nets)) if asked else 0.0


def _seconds_per_pass(model: Model, stage: Stage, capacity: int, controlled: float) -> float | None:
    """controlled: see `controlled_share`."""
    if model.memory(stage.number, "float32", capacity).weights > LARGEST_TIMED:
        return None
    predictor, fields = model.predictor(stage.number, _HOST), model.empty_fields(stage.number)
    seconds = _timed(predictor, stage, fields, capacity)
    if controlled:
        beside = model.control_fields(stage.number)
        nets = predictor.controlled(tuple(net.name for net in model.nets))
        seconds += controlled * (_timed(nets, stage, (*fields, *beside), capacity) - seconds)
    return seconds


@torch.inference_mode()
def _timed(predictor: Predictor, stage: Stage, fields: Sequence[Tensor], capacity: int) -> float:
    inputs = empty_pass(stage, fields, capacity)
    predictor(*inputs)
    began = time.perf_counter()
    for _ in range(PASSES):
        predictor(*inputs)
    return (time.perf_counter() - began) / PASSES
