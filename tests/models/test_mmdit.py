"""SD3 and Flux in diffusers' layout answer as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.models.catalog import open_model
from darkroom.models.mmdit import packed, unpacked
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
DRAWING = [
    f"{_PIPELINES}.stable_diffusion_3.pipeline_stable_diffusion_3{task}" for task in ("", "_img2img", "_inpaint")
]
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


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_sd3_image_to_image(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    inject(monkeypatch, IMAGE, START)
    theirs = pipeline(StableDiffusion3Img2ImgPipeline, toys["sd3"])
    wanted = theirs(**ASKED, **SIZED, image=picture(), strength=strength, output_type="latent").images[0]
    row = make_row("image_to_image", **PROMPTS, strength=strength, image="a.png")
    assert_same(latents_of(toys["sd3"], row), wanted)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_sd3_inpainting(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    inject(monkeypatch, IMAGE, START, MASKED)
    theirs = pipeline(StableDiffusion3InpaintPipeline, toys["sd3"])
    given = {"image": picture(), "mask_image": mask(), "strength": strength, **SIZED}
    wanted = theirs(**ASKED, **given, output_type="latent").images[0]
    row = make_row("inpaint", **PROMPTS, strength=strength, image="a.png", mask="m.png")
    assert_same(latents_of(toys["sd3"], row), wanted)


FLUX = {"prompt": "a red one", "num_inference_steps": 8, "guidance_scale": 5.0}
FLUX_ROW = {name: value for name, value in PROMPTS.items() if name != "negative_prompt"}
TRUE = {"negative_prompt": "a blue two", "true_cfg_scale": 2.0}
TRUE_ROW = {"negative_prompt": "a blue two", "true_guidance": 2.0}


def as_states(tokens: Tensor, height: int = 8, width: int = 8) -> Tensor:
    return unpacked(tokens[None], height, width)[0]


@pytest.mark.parametrize("texts", [{}, {"prompt_2": "a green three"}])
def test_flux_reads_as_its_pipeline(toys: dict[str, str], texts: dict) -> None:
    model, theirs = open_model(toys["flux-dev"]), pipeline(FluxPipeline, toys["flux-dev"])
    key = condition_keys(make_row("text_to_image", **FLUX_ROW | texts))[0]
    found = model.fields_of(1, model.text_encoder(CPU).encode([key])[0])
    with torch.inference_mode():
        embeds, pooled, _ = theirs.encode_prompt(**{"prompt": FLUX["prompt"], "prompt_2": None} | texts, device=CPU)
    torch.testing.assert_close(found["condition"], embeds[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["pooled"], pooled[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["flux-dev", "flux-schnell"])
@pytest.mark.parametrize(("asked", "row"), [({}, {}), (TRUE, TRUE_ROW)])
def test_flux_text_to_image(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, asked: dict, row: dict
) -> None:
    inject(monkeypatch, START)
    theirs = pipeline(FluxPipeline, toys[kind])
    wanted = theirs(**FLUX, **asked, width=48, height=32, output_type="latent").images[0]
    ours = latents_of(toys[kind], make_row("text_to_image", **FLUX_ROW, **row, width=48, height=32))
    assert_same(ours, as_states(wanted, 8, 12))


def test_flux_text_to_image_to_the_picture(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, START)
    asked = {name: value for name, value in FLUX.items() if name != "guidance_scale"}
    wanted = pipeline(FluxPipeline, toys["flux-dev"])(**asked, **SIZED).images[0]
    row = {name: value for name, value in FLUX_ROW.items() if name != "guidance"}
    (made,) = sample(toys["flux-dev"], {"task": "text_to_image", **row, "size": SIDE})
    assert_same_picture(made, wanted)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_flux_image_to_image(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    inject(monkeypatch, IMAGE, START)
    theirs = pipeline(FluxImg2ImgPipeline, toys["flux-dev"])
    wanted = theirs(**FLUX, **SIZED, image=picture(), strength=strength, output_type="latent").images[0]
    row = make_row("image_to_image", **FLUX_ROW, strength=strength, image="a.png", size=SIDE)
    assert_same(latents_of(toys["flux-dev"], row), as_states(wanted))


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_flux_inpainting(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    inject(monkeypatch, IMAGE, START, MASKED)
    theirs = pipeline(FluxInpaintPipeline, toys["flux-dev"])
    given = {"image": picture(), "mask_image": mask(), "strength": strength, **SIZED}
    wanted = theirs(**FLUX, **given, output_type="latent").images[0]
    row = make_row("inpaint", **FLUX_ROW, strength=strength, image="a.png", mask="m.png", size=SIDE)
    assert_same(latents_of(toys["flux-dev"], row), as_states(wanted))


def test_tokens_are_made_of_a_state_and_it_of_them() -> None:
    x = torch.arange(2 * 3 * 4 * 6).float().reshape(2, 3, 4, 6)
    assert packed(x).shape == (2, 6, 12)
    assert packed(x)[0, 0].tolist() == x[0, :, :2, :2].flatten().tolist()
    assert torch.equal(unpacked(packed(x), 4, 6), x)
