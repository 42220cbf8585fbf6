"""What a dry run says: how many evaluations the work needs, and about how long that takes here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from darkroom.batch.work import Work
from darkroom.sampling.plans import Inputs, condition_keys, make_plan

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

PASSES = 3  # timed, after one to warm up
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Estimate:
    """evaluations and seconds by stage number; seconds on this machine with one engine at a time."""

    evaluations: dict[int, int]
    seconds: dict[int, float]


def estimate(work: Work, model: Model, capacity: int) -> Estimate:
    """Counts a sample of the rows exactly, scales to all of them, and times a few passes of each stage."""
    evaluations, seconds = {}, {}
    for stage in model.stages:
        counted = sum(_evaluations(row, model, stage.number) for row in work.sample)
        evaluations[stage.number] = round(counted * work.to_make / max(len(work.sample), 1))
        per_pass = _seconds_per_pass(model, stage.number, capacity) if counted else 0.0
        seconds[stage.number] = evaluations[stage.number] / capacity * per_pass
    return Estimate(evaluations, seconds)


def _evaluations(row: dict, model: Model, number: int) -> int:
    stage = model.stages[number - 1]
    if stage.size > row.get("size", model.default_size) or (row["task"] == "upscale" and number == 1):
        return 0
    blank = torch.zeros(stage.channels, stage.size, stage.size)
    mask = torch.ones(1, stage.size, stage.size, dtype=torch.bool)
    nothing = {key: torch.zeros(1) for key in condition_keys(row)}
    return make_plan(row, stage, Inputs(nothing, image=blank, mask=mask, given=blank, low_res=blank)).evaluations


@torch.inference_mode()
def _seconds_per_pass(model: Model, number: int, capacity: int) -> float:
    predictor = model.predictor(number, _HOST)
    stage = model.stages[number - 1]
    channels = stage.channels * (2 if stage.noise_level is not None else 1)
    x = torch.zeros(capacity, channels, stage.size, stage.size)
    levels = torch.zeros(capacity, dtype=torch.int64)
    times = levels.float() if stage.process.kind == "flow" else levels
    # The empty prompt, or "no class": which condition it is makes no difference to the time.
    nothing = model.text_encoder(_HOST).encode([""])[0] if model.conditioning == "text" else model.condition("")
    inputs = (x, times, nothing.expand(capacity, *nothing.shape), levels)
    predictor(*inputs)
    began = time.perf_counter()
    for _ in range(PASSES):
        predictor(*inputs)
    return (time.perf_counter() - began) / PASSES
