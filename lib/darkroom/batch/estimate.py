"""What a dry run says: how many evaluations the work needs, and about how long that takes here."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from darkroom.batch.work import Work
from darkroom.models.cascade import Cascade
from darkroom.sampling.plans import Inputs, condition_keys, make_plan

PASSES = 3  # timed, after one to warm up


@dataclass(frozen=True)
class Estimate:
    """evaluations and seconds by stage number; seconds on this machine with one engine at a time."""

    evaluations: dict[int, int]
    seconds: dict[int, float]


def estimate(work: Work, model: Cascade, capacity: int) -> Estimate:
    """Counts a sample of the rows exactly, scales to all of them, and times a few passes of each stage."""
    evaluations, seconds = {}, {}
    for stage in model.stages:
        counted = sum(_evaluations(row, model, stage.number) for row in work.sample)
        evaluations[stage.number] = round(counted * work.to_make / max(len(work.sample), 1))
        per_pass = _seconds_per_pass(model, stage.number, capacity) if counted else 0.0
        seconds[stage.number] = evaluations[stage.number] / capacity * per_pass
    return Estimate(evaluations, seconds)


def _evaluations(row: dict, model: Cascade, number: int) -> int:
    stage = model.stages[number - 1]
    if stage.size > row.get("size", model.default_size) or (row["task"] == "upscale" and number == 1):
        return 0
    blank = torch.zeros(stage.channels, stage.size, stage.size)
    mask = torch.ones(1, stage.size, stage.size, dtype=torch.bool)
    nothing = {key: torch.zeros(1) for key in condition_keys(row)}
    return make_plan(row, stage, Inputs(nothing, image=blank, mask=mask, given=blank, low_res=blank)).evaluations


@torch.inference_mode()
def _seconds_per_pass(model: Cascade, number: int, capacity: int) -> float:
    predictor = model.predictor(number, torch.device("cpu"))
    stage = model.stages[number - 1]
    channels = stage.channels * (2 if stage.noise_level is not None else 1)
    embedding = model.text_encoder(torch.device("cpu")).encode([""])
    x = torch.zeros(capacity, channels, stage.size, stage.size)
    times = torch.zeros(capacity, dtype=torch.int64)
    condition = embedding.expand(capacity, -1, -1)
    predictor(x, times, condition, times)
    began = time.perf_counter()
    for _ in range(PASSES):
        predictor(x, times, condition, times)
    return (time.perf_counter() - began) / PASSES
