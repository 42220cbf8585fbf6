"""SD3 and Flux in diffusers' layout answer as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import copy
import functools
import importlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import (
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from safetensors.torch import save_file
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError, open_manifest
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.catalog import abilities, open_model
from darkroom.models.errors import ModelError
from darkroom.models.mmdit import packed, unpacked
from darkroom.models.stages import flow_from_scheduler
from darkroom.sampling import noise
from darkroom.sampling.flow import Flow
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
from runs import write_manifest
from toy_mmdit import Kind, save_toy_mmdit
from toys import make_row

SIZED = {"height": SIDE, "width": SIDE}
_PIPELINES = "diffusers.pipelines"
DRAWING = [
    f"{_PIPELINES}.stable_diffusion_3.pipeline_stable_diffusion_3{task}" for task in ("", "_img2img", "_inpaint")
]
DRAWING += [f"{_PIPELINES}.flux.pipeline_flux{task}" for task in ("", "_img2img", "_inpaint")]
DRAWING += [f"diffusers.pipelines.flux.pipeline_flux_{task}" for task in ("fill", "kontext")]
DRAWING += ["diffusers.models.autoencoders.vae"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("toy-mmdit")
    return {kind: str(save_toy_mmdit(folder / kind, kind)) for kind in get_args(Kind)}


def inject(monkeypatch: pytest.MonkeyPatch, *draws: tuple[int, int]) -> None:
    order = iter(draws)

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(noise.normal(SEED, 1, *next(order), tuple(shape[1:])))[None]

    for module in DRAWING:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


def pipeline(kind: type, folder: str) -> Any:
    """Of the parts of the first, which is loaded once."""
    made = kind(**_loaded(folder).components)
    made.set_progress_bar_config(disable=True)
    return made


@functools.cache
def _loaded(folder: str) -> Any:
    other = {"flux-fill": FluxFillPipeline, "flux-kontext": FluxKontextPipeline}
    usual = FluxPipeline if "flux" in Path(folder).name else StableDiffusion3Pipeline
    kind = other.get(Path(folder).name, usual)
    absent = {} if not folder.endswith("-small") else {"text_encoder_3": None, "tokenizer_3": None}
    return kind.from_pretrained(folder, **absent, **PLAIN)


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
    (made,) = sample(toys["sd3"], {"task": "text_to_image", **PROMPTS}, capacity=2)
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
    (made,) = sample(toys["flux-dev"], {"task": "text_to_image", **row, "size": SIDE}, capacity=2)
    assert_same_picture(made, wanted)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_flux_image_to_image(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    inject(monkeypatch, IMAGE, START)
    theirs = pipeline(FluxImg2ImgPipeline, toys["flux-dev"])
    wanted = theirs(**FLUX, **SIZED, image=picture(), strength=strength, output_type="latent").images[0]
    row = make_row("image_to_image", **FLUX_ROW, strength=strength, image="a.png", size=SIDE)
    assert_same(latents_of(toys["flux-dev"], row), as_states(wanted))


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize(("kind", "theirs"), [("flux-dev", FluxInpaintPipeline), ("flux-fill", FluxFillPipeline)])
def test_flux_inpainting(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float, kind: str, theirs: Any
) -> None:
    inject(monkeypatch, IMAGE, START, MASKED)
    given = {"image": picture(), "mask_image": mask(), "strength": strength, **SIZED}
    wanted = pipeline(theirs, toys[kind])(**FLUX, **given, output_type="latent").images[0]
    row = make_row("inpaint", **FLUX_ROW, strength=strength, image="a.png", mask="m.png", size=SIDE)
    assert_same(latents_of(toys[kind], row), as_states(wanted))


def test_flux_kontext(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, START)
    theirs = pipeline(FluxKontextPipeline, toys["flux-kontext"])
    given = {"image": picture(), "max_area": SIDE**2, "_auto_resize": False, **SIZED}
    wanted = theirs(**FLUX, **given, output_type="latent").images[0]
    row = make_row("image_to_image", **FLUX_ROW, strength=1, image="a.png", size=SIDE)
    assert_same(latents_of(toys["flux-kontext"], row), as_states(wanted))


def test_what_kontext_draws_with_a_picture_and_without(toys: dict[str, str]) -> None:
    plain = {"prompt": "a red one", "steps": 2, "size": SIDE}
    rows: list[dict[str, Any]] = [
        plain | {"task": "image_to_image", "strength": 1, "image": picture()},
        plain | {"task": "text_to_image"},
    ]
    together = sample(toys["flux-kontext"], rows, capacity=2)
    for row, image in zip(rows, together, strict=True):
        assert np.array_equal(np.array(sample(toys["flux-kontext"], row, capacity=2)[0]), np.array(image))
    assert not np.array_equal(*map(np.array, together))
    with pytest.raises(ManifestError, match="'strength' must be 1 for 'flux-kontext', which sees the whole picture"):
        sample(toys["flux-kontext"], rows[0] | {"strength": 0.5})
    with pytest.raises(ManifestError, match="the task must be image_to_image, or text_to_image"):
        sample(toys["flux-kontext"], plain | {"task": "inpaint", "image": picture(), "mask": mask()})


def test_tokens_are_made_of_a_state_and_it_of_them() -> None:
    x = torch.arange(2 * 3 * 4 * 6).float().reshape(2, 3, 4, 6)
    assert packed(x).shape == (2, 6, 12)
    assert packed(x)[0, 0].tolist() == x[0, :, :2, :2].flatten().tolist()
    assert torch.equal(unpacked(packed(x), 4, 6), x)


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_rows_share_passes_and_keep_their_bits(toys: dict[str, str], kind: str) -> None:
    plain = {"task": "text_to_image", "prompt": "a red one", "steps": 2, "size": 16}
    rows: list[dict[str, Any]] = [
        plain,
        plain | {"seed": 1, "guidance": 2.0, "steps": 3},
        plain | {"size": 24, "sampler": "heun"},
        plain | {"task": "image_to_image", "image": picture(), "strength": 0.5},
        plain | ({"negative_prompt": "a blue two"} if kind == "sd3" else TRUE_ROW),
        plain | {"task": "inpaint", "image": picture(), "mask": mask(), "sampler": "midpoint"},
    ]
    together = sample(toys[kind], rows, capacity=3)
    for row, image in zip(rows, together, strict=True):
        assert np.array_equal(np.array(sample(toys[kind], row, capacity=3)[0]), np.array(image)), row


def test_guidance_that_is_told_is_not_what_two_questions_make(toys: dict[str, str], tmp_path: Path) -> None:
    rows = [{"task": "text_to_image", "prompt": "a", "negative_prompt": "b", "size": 16}]
    uri = write_manifest(tmp_path, rows)
    found = {}
    for kind in ("sd3", "flux-dev", "flux-schnell"):
        manifest = open_manifest(uri, abilities(open_model(toys[kind])))
        found[kind] = (next(manifest.tasks()).canonical()["guidance"], len(manifest.warnings))
    assert found == {"sd3": (7, 0), "flux-dev": (3.5, 1), "flux-schnell": (1, 1)}
    plain = {"task": "text_to_image", "prompt": "a", "size": 16, "steps": 1}
    with pytest.raises(ManifestError, match="'true_guidance' is for models such as Flux"):
        sample(toys["sd3"], plain | {"true_guidance": 2})
    with pytest.raises(ManifestError, match="'guidance' is 3, and 'flux-schnell' was trained to do without"):
        sample(toys["flux-schnell"], plain | {"guidance": 3})
    with pytest.raises(ManifestError, match="'size' must be a multiple of 8 for 'flux-dev', was 20: 16 or 24 would do"):
        sample(toys["flux-dev"], plain | {"size": 20})


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_an_adapter_adds_its_product_to_the_weights(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    theirs, generator = pipeline(type(_loaded(toys[kind])), toys[kind]), torch.Generator().manual_seed(0)
    theirs.transformer = copy.deepcopy(theirs.transformer)
    asked = {**FLUX, **SIZED, "output_type": "latent"}
    inject(monkeypatch, START, START)
    bare = theirs(**asked).images[0]
    tensors = {}
    for name, module in theirs.transformer.named_modules():
        if name.endswith(("attn.to_q", "linear_1")):
            down = torch.randn(2, module.in_features, generator=generator) / 4
            up = torch.randn(module.out_features, 2, generator=generator) / 4
            tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
            module.weight.data += up @ down
    save_file(tensors, tmp_path / "style.safetensors", {"format": "pt"})
    wanted = theirs(**asked).images[0]
    assert (wanted - bare).abs().max() > 0.01
    row = make_row("text_to_image", **FLUX_ROW, size=SIDE, adapters=[{"adapter": "style", "scale": 1.0}])
    model = open_model(toys[kind], adapters={"style": str(tmp_path / "style.safetensors")})
    ours = latents_of(model, row | {"negative_prompt": ""})
    assert_same(ours, wanted if kind == "sd3" else as_states(wanted))


def test_an_adapter_of_the_first_code_is_refused_with_the_reason(toys: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "kohya.safetensors"
    save_file({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 16)}, file)
    with pytest.raises(ModelError, match="as the first code of Flux and SD3 does"):
        open_model(toys["flux-dev"]).adapted([StoredAdapter.at("kohya", str(file))])


def test_what_a_scheduler_of_a_flow_says() -> None:
    name = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    twice = flow_from_scheduler(name | {"shift": 3.0}, ends_trained=True)
    last = twice.flow_grid(28, 4096).places[-1]
    assert last.noise == pytest.approx(0.00893, abs=1e-5), "the least noise, shifted twice"
    by_size = flow_from_scheduler(name | {"use_dynamic_shifting": True}, ends_trained=False)
    assert by_size.shift.of(256) == pytest.approx(np.exp(0.5)) and by_size.shift.of(4096) == pytest.approx(np.exp(1.15))
    assert Flow.from_config(by_size.to_config()).to_config() == by_size.to_config()
    with pytest.raises(ValueError, match="use_karras_sigmas do not run here"):
        flow_from_scheduler(name | {"use_karras_sigmas": True}, ends_trained=False)
    with pytest.raises(ValueError, match="it is of a DDIMScheduler, wanted FlowMatchEulerDiscreteScheduler"):
        flow_from_scheduler({"_class_name": "DDIMScheduler"}, ends_trained=False)


def test_memory_is_foretold(toys: dict[str, str]) -> None:
    model = open_model(toys["flux-dev"])
    assert [tuple(field.shape) for field in model.empty_fields(1)] == [(512, 32), (8,), ()]
    predictor = model.predictor(1, CPU)
    assert predictor.fields == ("condition", "pooled", "guidance")
    held = sum(p.numel() * 4 for part in (predictor.transformer, predictor.latents.vae) for p in part.parameters())
    assert model.memory(1, "float32", 1).weights == held
