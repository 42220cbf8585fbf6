"""The engine against diffusers' own IF pipelines.

Same UNet (IF's classes, random weights), same injected noise: the pictures agree to 1e-4, though here the model is
asked in passes of eight and there in pairs. Most of what is left is diffusers' table of alpha_bar, a product of a
thousand factors in float32; with the table in float64, as ours is, the pictures agree to 2e-5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
)
from torch import Tensor

from darkroom.models.predictors import UNetPredictor
from darkroom.sampling import noise
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.solvers import Column
from darkroom.sampling.stage import Stage
from parity import (
    LARGE,
    SEED,
    SIZE,
    STEPS,
    TOLERANCE,
    Injected,
    assert_same,
    developed,
    embedding,
    enlarged,
    injected,
    picture,
    plan_of,
    scheduler,
)
from toys import make_row, tiny_unet

TOLERANCE_OF_EXACT_TABLES = 2e-5


@pytest.fixture(scope="module")
def small() -> UNetPredictor:
    return tiny_unet(SIZE)


@pytest.fixture(scope="module")
def large() -> UNetPredictor:
    return tiny_unet(LARGE, super_resolution=True, seed=2)


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Injected]:
    return partial(injected, monkeypatch)


def exact(made: DDPMScheduler, predictor: UNetPredictor) -> DDPMScheduler:
    made.alphas_cumprod, made.one = predictor.process.alphas_cumprod, made.one.double()
    return made


def pipeline(kind: type, predictor: UNetPredictor, **more):
    parts = dict.fromkeys(("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker"))
    made = kind(unet=predictor.unet, scheduler=scheduler(), requires_safety_checker=False, **parts, **more)
    made.set_progress_bar_config(disable=True)
    return made


def embeds(prompt: str, negative: str = "") -> dict[str, Tensor]:
    return {"prompt_embeds": embedding(prompt)[None], "negative_prompt_embeds": embedding(negative)[None]}


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


class CleanWhereKnown(Diffusion):
    """diffusers' rule for known pixels: they are the picture's own at every time, and no noise is ever on them. Ours,
    which is RePaint's (arXiv 2201.09865), noises them to the time where the state stands."""

    def coefficients(self, *given) -> Tensor:
        lines = super().coefficients(*given)
        lines[:, Column.SIGNAL_NEXT], lines[:, Column.NOISE_NEXT] = 1.0, 0.0
        return lines


def clean_where_known(predictor: UNetPredictor) -> UNetPredictor:
    process = CleanWhereKnown.from_config(predictor.process.to_config())
    return UNetPredictor(predictor.unet, process, predictor.device)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_inpainting_with_diffusers_rule_is_the_if_pipelines(small, inject, guidance, strength):
    inject(1, noise.START)
    mask = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) < 0.5
    theirs = pipeline(IFInpaintingPipeline, small)(
        image=picture(SIZE)[None],
        mask_image=mask[None].float(),
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="pt",
        **embeds("a digit"),
    ).images[0]
    row = make_row("inpaint", prompt="a digit", seed=SEED, steps=STEPS, guidance=guidance, strength=strength)
    predictor = clean_where_known(small)
    plan = plan_of(row, Stage(1, SIZE, 3, predictor.process), image=picture(SIZE), mask=mask)
    ours = developed(small, plan)
    plan = dataclasses.replace(plan, blur=lambda x: torch.where(mask, x, picture(SIZE)))  # so theirs begins
    assert_same(developed(predictor, plan), theirs)
    known = ~mask.expand(3, -1, -1)
    assert torch.equal(ours[known], picture(SIZE)[known]) and torch.equal(theirs[known], picture(SIZE)[known])
    assert (ours - theirs).abs().max() > 0.1, "the two rules are not the same"


@pytest.mark.parametrize("start", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_image_to_image_super_resolution_is_the_if_pipelines(large, inject, guidance, start):
    """A stage's `start` begins from the enlarged low-resolution picture; diffusers' pipeline from any `original_image`,
    so it is the same where that is the enlarged picture and strength = (steps - start) / steps."""
    theirs = image_to_image_super_resolution(large, inject, guidance, start, enlarged(picture(SIZE)))
    stage = Stage(2, LARGE, 3, large.process, steps=STEPS, guidance=guidance, noise_level=250, start=start)
    row = make_row("text_to_image", prompt="a digit", seed=SEED, steps=34, guidance=7.0)
    assert_same(developed(large, plan_of(row, stage, low_res=picture(SIZE))), theirs)


def test_image_to_image_super_resolution_from_another_picture_is_another_reference(large, inject):
    """What no row can ask for, an original that is not the low-resolution picture's, is still the same walk."""
    theirs = image_to_image_super_resolution(large, inject, 4.0, 2, picture(LARGE, seed=4))
    stage = Stage(2, LARGE, 3, large.process, steps=STEPS, guidance=4.0, noise_level=250, start=2)
    row = make_row("text_to_image", prompt="a digit", seed=SEED, steps=34, guidance=7.0)
    plan = plan_of(row, stage, low_res=picture(SIZE))
    plan = dataclasses.replace(plan, reference=picture(LARGE, seed=4))
    assert_same(developed(large, plan), theirs)


def image_to_image_super_resolution(predictor, inject, guidance: float, start: int, original: Tensor) -> Tensor:
    inject(2, noise.START, noise.LOWRES)
    return pipeline(IFImg2ImgSuperResolutionPipeline, predictor, image_noising_scheduler=scheduler())(
        image=picture(SIZE)[None],
        original_image=original[None],
        strength=(STEPS - start + 0.5) / STEPS,  # the half, because diffusers rounds down
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        noise_level=250,
        output_type="pt",
        **embeds("a digit"),
    ).images[0]
