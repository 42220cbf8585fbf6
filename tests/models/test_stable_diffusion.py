"""Stable Diffusion in diffusers' layout answers as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from darkroom.batch.latents_thread import decoded
from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError
from darkroom.manifest.tasks import parse_task
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.stages import NO_SIGNAL, process_from_scheduler
from darkroom.sampling import noise
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.sampling.stage import Inputs, at_size
from toys import make_row

CPU = torch.device("cpu")
SIDE, SEED, STEPS = 32, 11, 8
PLAIN = {"low_cpu_mem_usage": False, "local_files_only": True, "torch_dtype": torch.float32}
PROMPTS = {"prompt": "a red one", "negative_prompt": "a blue two", "guidance": 5.0, "steps": STEPS, "seed": SEED}
ASKED = {"prompt": "a red one", "negative_prompt": "a blue two", "guidance_scale": 5.0, "num_inference_steps": STEPS}
START, IMAGE, MASKED = (noise.START, 0), (noise.ENCODE, 0), (noise.ENCODE, 1)
PIPELINES = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"
DRAWING = [f"{PIPELINES}{task}" for task in ("", "_img2img", "_inpaint")] + [
    "diffusers.models.autoencoders.vae",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm",
]


def inject(monkeypatch: pytest.MonkeyPatch, *draws: tuple[int, int]) -> None:
    """diffusers draws the noise of the row, these draws of its streams first, then one a step."""
    order = iter([*draws, *((noise.STEP, step) for step in range(STEPS))])

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(noise.normal(SEED, 1, *next(order), tuple(shape[1:])))[None]

    for module in DRAWING:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


def pipeline(kind: type, folder: str) -> Any:
    made = kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, **PLAIN)
    made.set_progress_bar_config(disable=True)
    return made


def picture() -> Image.Image:
    levels = np.random.default_rng(3).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def mask() -> Image.Image:
    """Not on the borders of latents, of which each stands for 4 x 4 pixels."""
    levels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    levels[6:27, 9:30] = 255
    return Image.fromarray(levels)


def latents_of(given: str | Any, row: dict[str, Any], capacity: int = 4) -> Tensor:
    """The final latents of a row by the model in a folder, or by one that is open, [4, h, w]."""
    model = open_model(given) if isinstance(given, str) else given
    predictor = model.predictor(1, CPU)
    stage = at_size(row, model.stages[0])
    keys = condition_keys(row, stage)
    embedded = dict(zip(keys, model.text_encoder(CPU).encode(keys), strict=True))
    pictures: dict[str, Tensor] = {}
    if "image" in row:
        pictures["image"] = torch.from_numpy(np.array(picture())).permute(2, 0, 1).float() / 127.5 - 1
    if "mask" in row:
        pictures["mask"] = torch.from_numpy(np.array(mask()))[None] >= 128
    fields = model.row_fields(1, row)
    inputs = Inputs({key: model.fields_of(1, one) for key, one in embedded.items()}, fields=fields, **pictures)
    plan = make_plan(row, stage, to_latents(inputs, row, stage, predictor.latents.encode))
    (finished,) = walk_plans(predictor, [plan], capacity)
    return finished.image


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.isfinite().all() and theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def assert_same_picture(ours: Image.Image, theirs: Image.Image) -> None:
    difference = np.abs(np.array(ours).astype(int) - np.array(theirs).astype(int))
    assert np.array(theirs).std() > 1
    assert difference.max() <= 1 and (difference == 0).mean() >= 0.999


def test_a_folder_says_what_it_is(toy_sd: str) -> None:
    plain, paints, xl = (open_model(f"{toy_sd}/{kind}") for kind in ("sd", "inpaint", "sdxl"))
    for model in (plain, paints, xl):
        (stage,) = model.stages
        assert (stage.shape, stage.size, stage.factor, model.sizes) == ((4, 8, 8), 32, 4, (32,))
        assert (stage.process.prediction, stage.process.clip) == ("epsilon", None)
    found = [(m.stages[0].extra_channels, m.stages[0].inpaints, m.stages[0].sized) for m in (plain, paints, xl)]
    assert found == [(0, False, False), (5, True, False), (0, False, True)]
    assert len({model.revision for model in (plain, paints, xl)}) == 3


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_text_to_image(toy_sd: str, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    theirs = pipeline(StableDiffusionPipeline, f"{toy_sd}/sd")
    if sampler == "ddpm":
        theirs.scheduler = DDPMScheduler.from_config(theirs.scheduler.config)
    inject(monkeypatch, START)
    wanted = theirs(**ASKED, output_type="latent").images[0]
    row = make_row("text_to_image", **PROMPTS, sampler=sampler)
    assert_same(latents_of(f"{toy_sd}/sd", row), wanted)


def test_text_to_image_to_the_picture(toy_sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, START)
    wanted = pipeline(StableDiffusionPipeline, f"{toy_sd}/sd")(**ASKED).images[0]
    (made,) = sample(f"{toy_sd}/sd", {"task": "text_to_image", **PROMPTS, "sampler": "ddim"})
    assert_same_picture(made, wanted)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_image_to_image(toy_sd: str, monkeypatch: pytest.MonkeyPatch, sampler: str, strength: float) -> None:
    assert_edited(f"{toy_sd}/sd", monkeypatch, sampler, strength)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_image_to_image_by_a_file_that_says_little(
    sparse_sd: str, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Its steps lie elsewhere then, and Euler begins with less than all of the noise."""
    for strength in (0.5, 1.0):
        assert_edited(sparse_sd, monkeypatch, sampler, strength)


def assert_edited(folder: str, monkeypatch: pytest.MonkeyPatch, sampler: str, strength: float) -> None:
    theirs = pipeline(StableDiffusionImg2ImgPipeline, folder)
    theirs.scheduler = SOLVERS[sampler].from_config(theirs.scheduler.config)
    inject(monkeypatch, IMAGE, START)
    wanted = theirs(**ASKED, image=picture(), strength=strength, output_type="latent").images[0]
    row = make_row("image_to_image", **PROMPTS, sampler=sampler, strength=strength, image="a.png")
    assert_same(latents_of(folder, row), wanted)


@pytest.mark.parametrize("strength", [0.6, 1.0, None])
def test_inpainting_by_a_model_of_four_channels(
    toy_sd: str, monkeypatch: pytest.MonkeyPatch, strength: float | None
) -> None:
    theirs = pipeline(StableDiffusionInpaintPipeline, f"{toy_sd}/sd")
    inject(monkeypatch, IMAGE, START, MASKED)
    asked = {"image": picture(), "mask_image": mask(), "height": SIDE, "width": SIDE, "strength": strength or 1.0}
    wanted = theirs(**ASKED, **asked, output_type="latent").images[0]
    given = {} if strength is None else {"strength": strength}
    row = make_row("inpaint", **PROMPTS, sampler="ddim", image="a.png", mask="m.png", **given)
    assert_same(latents_of(f"{toy_sd}/sd", row), wanted)


@pytest.mark.parametrize(("strength", "draws"), [(0.6, (IMAGE, START, MASKED)), (1.0, (START, MASKED))])
def test_inpainting_by_a_model_of_nine_channels(
    toy_sd: str, monkeypatch: pytest.MonkeyPatch, strength: float, draws: Any
) -> None:
    theirs = pipeline(StableDiffusionInpaintPipeline, f"{toy_sd}/inpaint")
    inject(monkeypatch, *draws)
    asked = {"image": picture(), "mask_image": mask(), "height": SIDE, "width": SIDE, "strength": strength}
    wanted = theirs(**ASKED, **asked, output_type="latent").images[0]
    row = make_row("inpaint", **PROMPTS, sampler="ddim", image="a.png", mask="m.png", strength=strength)
    assert_same(latents_of(f"{toy_sd}/inpaint", row), wanted)


@pytest.mark.parametrize("kind", ["sd", "inpaint"])
def test_what_was_not_to_be_painted_is_the_picture_s_own(
    toy_sd: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    theirs = pipeline(StableDiffusionInpaintPipeline, f"{toy_sd}/{kind}")
    inject(monkeypatch, *((IMAGE, START, MASKED) if kind == "sd" else (START, MASKED)))
    wanted = theirs(**ASKED, image=picture(), mask_image=mask(), height=SIDE, width=SIDE).images[0]
    row = {"task": "inpaint", **PROMPTS, "sampler": "ddim", "image": picture(), "mask": mask()}
    (made,) = sample(f"{toy_sd}/{kind}", row)
    painted = np.array(mask()) > 0
    ours, original = np.array(made), np.array(picture())
    assert np.array_equal(ours[~painted], original[~painted])
    assert np.abs(ours[painted].astype(int) - np.array(wanted)[painted].astype(int)).max() <= 1


def test_a_prompt_is_read_without_the_last_layers(toy_sd: str) -> None:
    model, theirs = open_model(f"{toy_sd}/sd"), pipeline(StableDiffusionPipeline, f"{toy_sd}/sd")
    rows = [make_row("text_to_image", **PROMPTS, clip_skip=skip) for skip in (0, 1, 2)]
    keys = [condition_keys(row)[0] for row in rows]
    found = model.text_encoder(CPU).encode(keys)
    tokens = theirs.tokenizer(PROMPTS["prompt"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    layers = theirs.text_encoder(tokens, output_hidden_states=True)
    for skip in (1, 2):
        wanted = theirs.text_encoder.final_layer_norm(layers.hidden_states[-(skip + 1)])
        torch.testing.assert_close(found[skip], wanted[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], layers.last_hidden_state[0], rtol=0, atol=1e-5)
    assert len({condition_keys(row)[1] for row in rows}) == 1, "a negative prompt is read whole"


def test_rows_of_all_tasks_share_passes_and_keep_their_bits(toy_sd: str) -> None:
    given = {"image": picture(), "mask": mask()}
    rows = [
        {"task": "text_to_image", "prompt": "a", "steps": 4},
        {"task": "image_to_image", "prompt": "b", "steps": 5, "strength": 0.5, "image": given["image"], "seed": 1},
        {"task": "inpaint", "prompt": "c", "steps": 3, **given, "seed": 2},
        {"task": "text_to_image", "prompt": "a", "steps": 4, "clip_skip": 1, "sampler": "ddim"},
        {"task": "denoise", "prompt": "b", "image": given["image"], "timestep": 500, "method": "iterative", "steps": 5},
    ]
    together = sample(f"{toy_sd}/sd", rows, capacity=4)
    for row, picture_ in zip(rows, together, strict=True):
        (alone,) = sample(f"{toy_sd}/sd", row, capacity=4)
        assert np.array_equal(np.array(alone), np.array(picture_)), row["task"]
    assert not np.array_equal(np.array(together[0]), np.array(together[3]))


def test_what_a_model_of_latents_cannot_do_is_refused_with_the_reason(toy_sd: str) -> None:
    views = [{"view": "flip_vertical", "prompt": "a"}]
    with pytest.raises(ManifestError, match="views of an anagram rearrange pixels, and 'sd' works on latents"):
        sample(f"{toy_sd}/sd", {"task": "anagram", "views": views, "steps": 2})
    with pytest.raises(
        ManifestError, match="'inpaint' paints pictures in, and does so alone: the task must be inpaint"
    ):
        sample(f"{toy_sd}/inpaint", {"task": "text_to_image", "prompt": "a", "steps": 2})
    with pytest.raises(ManifestError, match="'clip_skip' must be below 3, the layers of its text encoder, was 3"):
        sample(f"{toy_sd}/sd", {"task": "text_to_image", "prompt": "a", "clip_skip": 3})
    with pytest.raises(ManifestError, match="'prompt_2' is for models that read by two text encoders"):
        sample(f"{toy_sd}/sd", {"task": "text_to_image", "prompt": "a", "prompt_2": "b"})


def test_a_mask_of_which_no_latent_is_left_is_refused(toy_sd: str) -> None:
    dots = np.zeros((SIDE, SIDE), dtype=np.uint8)
    dots[1::4, 1::4] = 255
    row = {"task": "inpaint", "prompt": "a", "steps": 2, "image": picture(), "mask": Image.fromarray(dots)}
    with pytest.raises(ManifestError, match="none of the 8 x 8 latents, each of which stands for 4 x 4 pixels"):
        sample(f"{toy_sd}/sd", row)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"_class_name": "KandinskyPipeline"}, "is a KandinskyPipeline, which is none of the pipelines that run here"),
        ({"_class_name": "StableDiffusionUpscalePipeline"}, "works on latents but does not enlarge pictures"),
    ],
)
def test_a_pipeline_that_is_none_of_ours_is_refused(toy_sd: str, tmp_path: Path, change: dict, why: str) -> None:
    folder = Path(shutil.copytree(f"{toy_sd}/sd", tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ModelError, match=why):
        open_model(str(folder))


# Stable Diffusion 1.5's, as it is there: what it does not say is each solver's own.
SPARSE = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
SOLVERS = {
    "pndm": PNDMScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler,
}  # fmt: skip


@pytest.fixture(scope="module")
def sparse_sd(toy_sd: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sparse") / "sd"
    shutil.copytree(f"{toy_sd}/sd", folder)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SPARSE))
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.mark.parametrize("sampler", [None, *SOLVERS])
def test_solvers_of_a_file_that_says_little(
    sparse_sd: str, monkeypatch: pytest.MonkeyPatch, sampler: str | None
) -> None:
    theirs = StableDiffusionPipeline.from_pretrained(
        sparse_sd, safety_checker=None, requires_safety_checker=False, **PLAIN
    )
    theirs.set_progress_bar_config(disable=True)
    if sampler is not None:
        theirs.scheduler = SOLVERS[sampler].from_config(theirs.scheduler.config)
    inject(monkeypatch, START)
    wanted = theirs(**ASKED, output_type="latent").images[0]
    row = make_row("text_to_image", **PROMPTS, **({} if sampler is None else {"sampler": sampler}))
    assert_same(latents_of(sparse_sd, row), wanted)


def test_a_scheduler_file_says_the_sampler_and_its_grid(sparse_sd: str, toy_sd: str) -> None:
    sparse, full = (open_model(folder).stages[0].process for folder in (sparse_sd, f"{toy_sd}/sd"))
    assert (sparse.default_sampler, sparse.grid) == ("pndm", GridDefaults(None, 1, ends_noisy=True))
    assert (full.default_sampler, full.grid) == ("ddim", GridDefaults("leading", 1, ends_noisy=False))
    karras = SPARSE | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    process = process_from_scheduler(karras | {"algorithm_type": "sde-dpmsolver++"})
    assert process.default_sampler == "dpmpp_2m_sde" and process.grid.karras
    assert Diffusion.from_config(process.to_config()).to_config() == process.to_config()


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear"])
def test_a_scheduler_file_may_bring_its_last_level_to_no_signal(schedule: str) -> None:
    config = SPARSE | {"_class_name": "EulerDiscreteScheduler", "beta_schedule": schedule}
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    process, theirs = process_from_scheduler(config), EulerDiscreteScheduler.from_config(config)
    torch.testing.assert_close(process.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-3, atol=1e-7)
    assert process.alphas_cumprod[-1] == NO_SIGNAL and process.default_sampler == "euler"
    assert Diffusion.from_config(process.to_config()).to_config() == process.to_config()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDMDPMSolver.*whose noise is none"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatch.*whose noise is none of ours"),
        (SPARSE | {"trained_betas": [0.1, 0.2]}, "trained_betas do not run here"),
        (SPARSE | {"use_beta_sigmas": True}, "use_beta_sigmas do not run here"),
    ],
)
def test_a_scheduler_file_that_would_be_read_as_another_is_refused(config: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        process_from_scheduler(config)


@pytest.mark.parametrize(("width", "height"), [(48, 24), (16, 16), (40, 40)])
def test_other_sizes(toy_sd: str, monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    inject(monkeypatch, START)
    asked = {"width": width, "height": height}
    wanted = pipeline(StableDiffusionPipeline, f"{toy_sd}/sd")(**ASKED, **asked).images[0]
    (made,) = sample(f"{toy_sd}/sd", {"task": "text_to_image", **PROMPTS, "sampler": "ddim", **asked})
    assert made.size == (width, height)
    assert_same_picture(made, wanted)


def test_a_picture_is_cut_to_the_size_that_is_asked_for(toy_sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, IMAGE, START)
    wide = picture().resize((96, 32), Image.Resampling.BICUBIC)
    cut = wide.crop((16, 0, 80, 32))
    theirs = pipeline(StableDiffusionImg2ImgPipeline, f"{toy_sd}/sd")
    wanted = theirs(**ASKED, image=cut, strength=0.6).images[0]
    row = {"task": "image_to_image", **PROMPTS, "sampler": "ddim", "strength": 0.6, "image": wide}
    (made,) = sample(f"{toy_sd}/sd", row | {"width": 64, "height": 32})
    assert_same_picture(made, wanted)


def test_rows_of_several_sizes_keep_their_bits(toy_sd: str) -> None:
    plain = {"task": "text_to_image", "prompt": "a", "steps": 3}
    sizes = [{}, {"size": 32}, {"width": 32, "height": 32}, {"width": 64, "height": 32}, {"size": 64}, {"size": 16}]
    rows = [plain | size | {"seed": seed} for size in sizes for seed in (0, 1)]
    together = sample(f"{toy_sd}/sd", rows, capacity=4)
    for row, image in zip(rows, together, strict=True):
        assert np.array_equal(np.array(sample(f"{toy_sd}/sd", row, capacity=4)[0]), np.array(image)), row
    assert np.array_equal(np.array(together[0]), np.array(together[2])), "the model's own size, said or not"
    assert len({json.dumps(parse_task(row).canonical(), sort_keys=True) for row in (rows[2], rows[4])}) == 1


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ({"size": 30}, "'size' must be a multiple of 4 for 'sd', was 30: 28 or 32 would do"),
        ({"width": 32, "height": 3}, "'height' must be a multiple of 4 for 'sd', was 3: 4 would do"),
        ({"size": 68}, "'size' must be at most 64, twice what 'sd' was trained at, was 68"),
        ({"width": 32}, "'width' is given, and no 'height'"),
        ({"width": 32, "height": 16, "size": 32}, "'size' is given beside 'width' and 'height'"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_nearest_that_can(toy_sd: str, size: dict, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        sample(f"{toy_sd}/sd", {"task": "text_to_image", "prompt": "a", **size})
    if len(size) == 2:
        with pytest.raises(ManifestError, match="'if-xs' makes squares, and 32 x 3 is none: give 'size'"):
            sample("if-xs", {"task": "text_to_image", "prompt": "a", **size})


def test_the_upscaler_goes_on_from_what_it_drew(toy_sd: str, toy_deepfloyd: str) -> None:
    both = f"{toy_sd}/sd,{toy_deepfloyd}/stage3"
    model = open_model(both)
    assert (model.sizes, [stage.step for stage in model.stages]) == ((32, 128), [0, 0])
    plain = {"prompt": "a", "steps": 2, "stage2": {"steps": 2}, "size": 128}
    given = {"image": picture(), "mask": mask()}
    rows = [plain | {"task": "text_to_image"}, plain | {"task": "inpaint", **given}]
    rows += [{**plain, "task": "upscale", "image": picture()}]
    assert [image.size for image in sample(both, rows, capacity=4)] == [(128, 128)] * 3
    with pytest.raises(ManifestError, match="the size 64 is not one the model 'sd.stage3' makes: 32, 128"):
        sample(both, {"task": "text_to_image", "prompt": "a", "size": 64})


def test_what_half_precision_does_not_hold_is_decoded_and_encoded_in_full(toy_sd: str) -> None:
    model = open_model(f"{toy_sd}/sd")
    whole, half = (model.predictor(1, CPU, dtype).latents for dtype in ("float32", "bfloat16"))
    assert (whole.at_once, half.at_once, half.vae.dtype) == (1, 4, torch.bfloat16)
    states = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    wanted = torch.stack([whole.decode(state[None])[0] for state in states])
    alike = torch.stack(decoded(half, states, (4, 8, 8), half.at_once))
    assert 0 < (alike - wanted).abs().max() < 0.1 * wanted.abs().max()
    for module in (half.vae.decoder, half.vae.encoder):
        module.conv_out.weight.data.fill_(torch.nan)
    assert torch.equal(torch.stack(decoded(half, states, (4, 8, 8), half.at_once)), wanted)
    given = torch.rand(3, 32, 32) * 2 - 1
    assert torch.equal(half.encode(given, states[0]), whole.encode(given, states[0]))
    lost = torch.full((4, 8, 8), torch.nan)
    assert not torch.stack(decoded(half, [lost], (4, 8, 8), half.at_once)).isfinite().any(), (
        "nobody's fault but the state's"
    )
