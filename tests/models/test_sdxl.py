"""Stable Diffusion XL: two text encoders, a pooled embedding and sizes, as diffusers' pipelines have them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError, open_manifest
from darkroom.models.catalog import abilities, open_model
from darkroom.sampling import noise
from darkroom.sampling.plans import condition_keys
from models.test_stable_diffusion import (
    ASKED,
    CPU,
    DRAWING,
    IMAGE,
    MASKED,
    PLAIN,
    PROMPTS,
    SEED,
    SIDE,
    START,
    STEPS,
    assert_same,
    assert_same_picture,
    latents_of,
    mask,
    picture,
)
from runs import write_manifest
from toys import make_row

PIPELINES = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
SIZED = {"height": SIDE, "width": SIDE}


@pytest.fixture(scope="module")
def folder(toy_sd: str) -> str:
    return f"{toy_sd}/sdxl"


def pipeline(kind: type, folder: str) -> Any:
    made = kind.from_pretrained(folder, add_watermarker=False, **PLAIN)
    made.set_progress_bar_config(disable=True)
    made.scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    return made


def inject(monkeypatch: pytest.MonkeyPatch, *draws: tuple[int, int]) -> None:
    order = iter([*draws, *((noise.STEP, step) for step in range(STEPS))])

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(noise.normal(SEED, 1, *next(order), tuple(shape[1:])))[None]

    for module in [*DRAWING, *(f"{PIPELINES}{task}" for task in ("", "_img2img", "_inpaint"))]:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        ({}, {}),
        ({"prompt_2": "a green three"}, {"prompt_2": "a green three"}),
        ({"clip_skip": 1}, {"clip_skip": 1}),
        ({"negative_prompt": None}, {"negative_prompt": None}),
        ({"negative_prompt": ""}, {"negative_prompt": ""}),
    ],
)
def test_prompts_are_embedded_as_the_pipeline_embeds_them(folder: str, texts: dict, asked: dict) -> None:
    model, theirs = open_model(folder), pipeline(StableDiffusionXLPipeline, folder)
    row = make_row("text_to_image", **PROMPTS | texts)
    found = [model.fields_of(1, one) for one in model.text_encoder(CPU).encode(condition_keys(row))]
    prompts = {"prompt": PROMPTS["prompt"], "negative_prompt": PROMPTS["negative_prompt"]} | asked
    with torch.inference_mode():
        wanted = theirs.encode_prompt(**prompts, device=CPU)
    for which, (embeds, pooled) in enumerate([(wanted[0], wanted[2]), (wanted[1], wanted[3])]):
        torch.testing.assert_close(found[which]["condition"], embeds[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[which]["pooled"], pooled[0], rtol=0, atol=1e-5)
    assert bool(found[1]["condition"].any()) == (texts.get("negative_prompt", "") is not None)


@pytest.mark.parametrize("texts", [{}, {"negative_prompt": None, "prompt_2": "a green three"}])
def test_text_to_image(folder: str, monkeypatch: pytest.MonkeyPatch, texts: dict) -> None:
    inject(monkeypatch, START)
    wanted = pipeline(StableDiffusionXLPipeline, folder)(**ASKED | texts, **SIZED, output_type="latent").images[0]
    assert_same(latents_of(folder, make_row("text_to_image", **PROMPTS | texts, sampler="ddim")), wanted)


def test_text_to_image_to_the_picture(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, START)
    wanted = pipeline(StableDiffusionXLPipeline, folder)(**ASKED | {"negative_prompt": None}, **SIZED).images[0]
    (made,) = sample(folder, {"task": "text_to_image", **PROMPTS, "negative_prompt": None, "sampler": "ddim"})
    assert_same_picture(made, wanted)
    (other,) = sample(folder, {"task": "text_to_image", **PROMPTS, "negative_prompt": "", "sampler": "ddim"})
    assert not np.array_equal(np.array(other), np.array(made))


def test_image_to_image(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, IMAGE, START)
    theirs = pipeline(StableDiffusionXLImg2ImgPipeline, folder)
    wanted = theirs(**ASKED, image=picture(), strength=0.6, output_type="latent").images[0]
    row = make_row("image_to_image", **PROMPTS, sampler="ddim", strength=0.6, image="a.png")
    assert_same(latents_of(folder, row), wanted)


def test_inpainting(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, IMAGE, START, MASKED)
    theirs = pipeline(StableDiffusionXLInpaintPipeline, folder)
    given = {"image": picture(), "mask_image": mask(), "strength": 0.6, **SIZED}
    wanted = theirs(**ASKED, **given, output_type="latent").images[0]
    row = make_row("inpaint", **PROMPTS, sampler="ddim", strength=0.6, image="a.png", mask="m.png")
    assert_same(latents_of(folder, row), wanted)


def test_rows_with_other_texts_share_passes_and_keep_their_bits(folder: str) -> None:
    plain = {"task": "text_to_image", "prompt": "a", "steps": 3}
    rows = [
        plain,
        plain | {"negative_prompt": None, "seed": 1},
        plain | {"prompt_2": "b", "guidance": 2},
        plain | {"task": "image_to_image", "image": picture(), "strength": 0.7},
    ]
    together = sample(folder, rows, capacity=4)
    for row, image in zip(rows, together, strict=True):
        assert np.array_equal(np.array(sample(folder, row, capacity=4)[0]), np.array(image))


def test_no_negative_prompt_is_apart_from_the_empty_one_only_where_a_model_knows_it(
    folder: str, toy_sd: str, toy_deepfloyd: str, tmp_path: Path
) -> None:
    rows = [{"task": "text_to_image", "prompt": "a", "negative_prompt": None, "id": "null"}]
    rows += [{"task": "text_to_image", "prompt": "a", "id": "nothing said"}]
    uri = write_manifest(tmp_path, rows)
    found = {name: open_manifest(uri, abilities(open_model(name))) for name in (folder, f"{toy_sd}/sd", toy_deepfloyd)}
    negatives = [[task.canonical()["negative_prompt"] for task in manifest.tasks()] for manifest in found.values()]
    assert negatives == [[None, ""], ["", ""], ["", ""]]


def test_a_second_prompt_that_is_too_long_is_told(folder: str) -> None:
    with pytest.raises(ManifestError, match="'clip_skip' must be below 2, the layers of its text encoder"):
        sample(folder, {"task": "text_to_image", "prompt": "a", "clip_skip": 2})
    model = open_model(folder)
    row = make_row("text_to_image", prompt="a", prompt_2="b" * 90)
    assert model.encoder_tokens("text_encoder", condition_keys(row)[:1]) == [92]


def test_memory_is_foretold_for_what_it_is_told_besides_the_prompt(folder: str) -> None:
    model = open_model(folder)
    assert [tuple(field.shape) for field in model.empty_fields(1)] == [(77, 40), (), (12,), (6,)]
    predictor = model.predictor(1, CPU)
    assert predictor.fields == ("condition", "noise_level", "pooled", "time_ids")
    held = sum(p.numel() * 4 for part in (predictor.unet, predictor.latents.vae) for p in part.parameters())
    assert model.memory(1, "float32", 2).weights == held
