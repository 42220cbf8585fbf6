"""What the engine is compared by: the same noise, the same scheduler, the same small pictures and embeddings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from darkroom.models.predictors import UNetPredictor
from darkroom.sampling import noise
from darkroom.sampling.plans import Plan, condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.sampling.stage import Inputs, Stage

SIZE, LARGE, STEPS, SEED = 16, 32, 6, 11
TOLERANCE = 1e-4
KINDS = ["", "_img2img", "_img2img_superresolution", "_inpainting", "_superresolution"]
PATCHED = [f"diffusers.pipelines.deepfloyd_if.pipeline_if{kind}" for kind in KINDS] + [
    "diffusers.schedulers.scheduling_ddpm"
]


class Injected:
    """Stands in for diffusers' `randn_tensor`: hands out the engine's noise, in the order diffusers asks for it."""

    def __init__(self, stage: int, *first: int) -> None:
        self.stage, self.asked = stage, 0
        self.order = self._order(first)

    def _order(self, first: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        yield from ((stream, 0) for stream in first)
        yield from ((noise.STEP, draw) for draw in count())

    def __call__(self, shape, generator=None, device=None, dtype=None) -> Tensor:
        self.asked += 1
        stream, draw = next(self.order)
        return torch.from_numpy(noise.normal(SEED, self.stage, stream, draw, tuple(shape[1:])))[None]


def injected(monkeypatch: pytest.MonkeyPatch, stage: int, *first: int) -> Injected:
    """diffusers draws the noise of a row's stage, `first` its streams with one draw each, then one a step."""
    source = Injected(stage, *first)
    for module in PATCHED:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", source)
    return source


def scheduler() -> DDPMScheduler:
    """IF's, as in the scheduler_config.json of its stages; IF-II's image_noising_scheduler differs in nothing used."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def embedding(text: str) -> Tensor:
    return torch.from_numpy(np.random.default_rng(list(text.encode())).standard_normal((4, 32), np.float32))


def picture(size: int, seed: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (3, size, size)).astype(np.float32))


def enlarged(small: Tensor) -> Tensor:
    """[3, SIZE, SIZE] -> [3, LARGE, LARGE], as IF's pipelines enlarge."""
    return F.interpolate(small[None], (LARGE, LARGE), mode="bilinear", align_corners=True)[0]


def plan_of(row: dict, stage: Stage, **inputs) -> Plan:
    return make_plan(row, stage, Inputs({key: embedding(key) for key in condition_keys(row)}, **inputs))


def developed(predictor: UNetPredictor, plan: Plan, capacity: int = 8) -> Tensor:
    (finished,) = walk_plans(predictor, [plan], capacity)
    return finished.image


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert torch.isfinite(theirs).all()
    assert theirs.std() > 0.1, "a flat picture would agree with anything"
    assert (ours - theirs).abs().max() < tolerance
