"""SD3 and Flux in diffusers' layout answer as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.models.catalog import open_model
from darkroom.sampling import noise
from darkroom.sampling.plans import condition_keys
from models.test_stable_diffusion import (
    ASKED,
    CPU,
    IMAGE,
    MASKED,
    PLAIN,
    PROMPTS,
    SEED,
    SIDE,
    START,
    assert_same,
    assert_same_picture,
    latents_of,
    mask,
    picture,
)
from toy_mmdit import save_toy_mmdit
from toys import make_row

SIZED = {"height": SIDE, "width": SIDE}
_PIPELINES = "diffusers.pipelines"
DRAWING = [f"{_PIPELINES}.stable_diffusion_3.pipeline_stable_diffusion_3{task}" for task in ("", "_img2img", "_inpaint")]
DRAWING += [f"{_PIPELINES}.flux.pipeline_flux{task}" for task in ("", "_img2img", "_inpaint")]
DRAWING += ["diffusers.models.autoencoders.vae"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("toy-mmdit")
    kinds = ("sd3", "sd3-small", "flux-dev", "flux-schnell")
    return {kind: str(save_toy_mmdit(folder / kind, kind)) for kind in kinds}


def inject(monkeypatch: pytest.MonkeyPatch, *draws: tuple[int, int]) -> None:
    order = iter(draws)

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(noise.normal(SEED, 1, *next(order), tuple(shape[1:])))[None]

    for module in DRAWING:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


def pipeline(kind: type, folder: str) -> Any:
    absent = {} if not folder.endswith("-small") else {"text_encoder_3": None, "tokenizer_3": None}
    made = kind.from_pretrained(folder, **absent, **PLAIN)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("kind", ["sd3", "sd3-small"])
@pytest.mark.parametrize("texts", [{}, {"prompt_2": "a green three"}, {"clip_skip": 1}])
def test_sd3_reads_as_its_pipeline(toys: dict[str, str], kind: str, texts: dict) -> None:
    model, theirs = open_model(toys[kind]), pipeline(StableDiffusion3Pipeline, toys[kind])
    row = make_row("text_to_image", **PROMPTS | texts)
    found = [model.fields_of(1, one) for one in model.text_encoder(CPU).encode(condition_keys(row))]
    asked = {"prompt": PROMPTS["prompt"], "prompt_2": None, "prompt_3": None} | texts
    with torch.inference_mode():
        wanted = theirs.encode_prompt(**asked, negative_prompt=PROMPTS["negative_prompt"], device=CPU)
    for which, (embeds, pooled) in enumerate([(wanted[0], wanted[2]), (wanted[1], wanted[3])]):
        torch.testing.assert_close(found[which]["condition"], embeds[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[which]["pooled"], pooled[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd3", "sd3-small"])
def test_sd3_text_to_image(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    inject(monkeypatch, START)
    theirs = pipeline(StableDiffusion3Pipeline, toys[kind])
    wanted = theirs(**ASKED, width=48, height=32, output_type="latent").images[0]
    assert_same(latents_of(toys[kind], make_row("text_to_image", **PROMPTS, width=48, height=32)), wanted)


def test_sd3_text_to_image_to_the_picture(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, START)
    wanted = pipeline(StableDiffusion3Pipeline, toys["sd3"])(**ASKED, **SIZED).images[0]
    (made,) = sample(toys["sd3"], {"task": "text_to_image", **PROMPTS})
    assert_same_picture(made, wanted)
