"""The engine against diffusers' own IF pipelines, and against the equations of two papers written out as plain loops.

Same UNet (IF's classes, random weights), same injected noise: the pictures agree to 1e-4, though here the model is
asked in passes of eight and there in pairs. Most of what is left is diffusers' table of alpha_bar, a product of a
thousand factors in float32; with the table in float64, as ours is, the pictures agree to 2e-5.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, IFImg2ImgPipeline, IFPipeline, IFSuperResolutionPipeline
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from darkroom.models.cascade import UNetPredictor
from darkroom.sampling import noise
from darkroom.sampling.engine import Engine
from darkroom.sampling.plans import Inputs, Plan, Stage, condition_keys, make_plan
from toys import make_row, tiny_unet

SIZE, LARGE, STEPS, SEED = 16, 32, 6, 11
TOLERANCE, TOLERANCE_OF_EXACT_TABLES = 1e-4, 2e-5
PATCHED = [
    "diffusers.pipelines.deepfloyd_if.pipeline_if",
    "diffusers.pipelines.deepfloyd_if.pipeline_if_img2img",
    "diffusers.pipelines.deepfloyd_if.pipeline_if_superresolution",
    "diffusers.schedulers.scheduling_ddpm",
]


@pytest.fixture(scope="module")
def small() -> UNetPredictor:
    return tiny_unet(SIZE)


@pytest.fixture(scope="module")
def large() -> UNetPredictor:
    return tiny_unet(LARGE, super_resolution=True, seed=2)


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


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Injected]:
    def patch(stage: int, *first: int) -> Injected:
        source = Injected(stage, *first)
        for module in PATCHED:
            monkeypatch.setattr(importlib.import_module(module), "randn_tensor", source)
        return source

    return patch


def scheduler() -> DDPMScheduler:
    """IF's, as in the scheduler_config.json of its stages; IF-II's image_noising_scheduler differs in nothing used."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def exact(made: DDPMScheduler, predictor: UNetPredictor) -> DDPMScheduler:
    made.alphas_cumprod, made.one = predictor.process.alphas_cumprod, made.one.double()
    return made


def pipeline(kind: type, predictor: UNetPredictor, **more):
    parts = dict.fromkeys(("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker"))
    made = kind(unet=predictor.unet, scheduler=scheduler(), requires_safety_checker=False, **parts, **more)
    made.set_progress_bar_config(disable=True)
    return made


def embedding(text: str) -> Tensor:
    return torch.from_numpy(np.random.default_rng(list(text.encode())).standard_normal((4, 32), np.float32))


def embeds(prompt: str, negative: str = "") -> dict[str, Tensor]:
    return {"prompt_embeds": embedding(prompt)[None], "negative_prompt_embeds": embedding(negative)[None]}


def picture(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, (3, size, size)).astype(np.float32))


def plan_of(row: dict, stage: Stage, **inputs) -> Plan:
    return make_plan(row, stage, Inputs({key: embedding(key) for key in condition_keys(row)}, **inputs))


def developed(predictor: UNetPredictor, plan: Plan, capacity: int = 8) -> Tensor:
    engine = Engine(predictor, capacity)
    engine.add(plan)
    (finished,) = engine.run()
    return finished.image


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert torch.isfinite(theirs).all()
    assert theirs.std() > 0.1, "a flat picture would agree with anything"
    assert (ours - theirs).abs().max() < tolerance


@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_text_to_image_is_the_if_pipelines(small, inject, guidance):
    source = inject(1, noise.START)
    theirs = pipeline(IFPipeline, small)(
        num_inference_steps=STEPS, guidance_scale=guidance, output_type="pt", **embeds("a digit", "blurred")
    ).images[0]
    row = make_row(
        "text_to_image", prompt="a digit", negative_prompt="blurred", seed=SEED, steps=STEPS, guidance=guidance
    )
    assert_same(developed(small, plan_of(row, Stage(1, SIZE, 3, small.process))), theirs)
    assert source.asked == STEPS  # the start, and every step but the last


@pytest.mark.parametrize("strength", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_image_to_image_is_the_if_pipelines(small, inject, guidance, strength):
    inject(1, noise.START)
    theirs = pipeline(IFImg2ImgPipeline, small)(
        image=picture(SIZE)[None],
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="pt",
        **embeds("a digit"),
    ).images[0]
    row = make_row("image_to_image", prompt="a digit", seed=SEED, steps=STEPS, guidance=guidance, strength=strength)
    assert_same(developed(small, plan_of(row, Stage(1, SIZE, 3, small.process), image=picture(SIZE))), theirs)


@pytest.mark.parametrize("exact_tables", [False, True])
@pytest.mark.parametrize("noise_level", [0, 250])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_super_resolution_is_the_if_pipelines(large, inject, guidance, noise_level, exact_tables):
    inject(2, noise.START, noise.LOWRES)
    made = pipeline(IFSuperResolutionPipeline, large, image_noising_scheduler=scheduler())
    if exact_tables:
        exact(made.scheduler, large), exact(made.image_noising_scheduler, large)
    theirs = made(
        image=picture(SIZE)[None],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        noise_level=noise_level,
        output_type="pt",
        **embeds("a digit"),
    ).images[0]
    stage = Stage(2, LARGE, 3, large.process, steps=STEPS, guidance=guidance, noise_level=noise_level)
    row = make_row("text_to_image", prompt="a digit", seed=SEED, steps=34, guidance=7.0)
    ours = developed(large, plan_of(row, stage, low_res=picture(SIZE)))
    assert_same(ours, theirs, TOLERANCE_OF_EXACT_TABLES if exact_tables else TOLERANCE)


def test_an_anagram_is_the_papers_equation(small, inject):
    """Visual Anagrams, arXiv 2311.17919: epsilon is the mean over i of v_i^-1(epsilon(v_i(x_t), y_i, t)); the learned
    variances are turned back and averaged likewise, as in the authors' code."""
    views = [("six", lambda x: x), ("nine", lambda x: x.rot90(2, (-2, -1)))]  # each its own inverse
    inject(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([turn(guided(small, turn(x), t, prompt, 7.0)) for prompt, turn in views]).mean(0)

    parts = [{"view": "identity", "prompt": "six"}, {"view": "rotate_180", "prompt": "nine"}]
    row = make_row("anagram", views=parts, seed=SEED, steps=STEPS)
    assert_same(developed(small, plan_of(row, Stage(1, SIZE, 3, small.process))), plain_loop(predict))


def test_a_hybrid_is_the_papers_equation(small, inject):
    """Factorized Diffusion, arXiv 2404.11615: epsilon is the sum over i of f_i(epsilon(x_t, y_i, t)); variances are no
    component's business, and are averaged."""
    inject(1)

    def low(x: Tensor) -> Tensor:
        return gaussian_blur(x, 33 * SIZE // 64 | 1, 2.0 * SIZE / 64)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        near, near_variance = guided(small, x, t, "near", 7.0).chunk(2, dim=1)
        far, far_variance = guided(small, x, t, "far", 7.0).chunk(2, dim=1)
        return torch.cat([low(far) + near - low(near), (near_variance + far_variance) / 2], dim=1)

    parts = [{"component": "low_pass", "prompt": "far"}, {"component": "high_pass", "prompt": "near"}]
    row = make_row("hybrid", components=parts, seed=SEED, steps=STEPS)
    assert_same(developed(small, plan_of(row, Stage(1, SIZE, 3, small.process))), plain_loop(predict))


def guided(predictor: UNetPredictor, x: Tensor, t: Tensor, prompt: str, guidance: float) -> Tensor:
    """u + gamma (c - u), with the conditional answer's variance; [1, 6, S, S]."""
    both = torch.stack([embedding(""), embedding(prompt)])
    unconditional, conditional = predictor.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.split(1)
    epsilon = unconditional[:, :3] + guidance * (conditional[:, :3] - unconditional[:, :3])
    return torch.cat([epsilon, conditional[:, 3:]], dim=1)


@torch.no_grad()
def plain_loop(predict: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A row at a time, with diffusers' scheduler."""
    steps = scheduler()
    steps.set_timesteps(STEPS)
    x = torch.from_numpy(noise.normal(SEED, 1, noise.START, 0, (3, SIZE, SIZE)))[None]
    for t in steps.timesteps:
        x = steps.step(predict(x, t), t, x).prev_sample
    return x[0]
