"""CogVideoX and Wan in diffusers' layout answer as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.catalog import open_model
from darkroom.models.cogvideox_wan import PARAMETERS, TRANSFORMER_SHAPES
from darkroom.models.errors import ModelError
from darkroom.models.video import evaluation_flops, pass_memory
from darkroom.sampling import noise
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.sampling.stage import Handed, Inputs, at_size
from models.test_stable_diffusion import ASKED, CPU, PLAIN, PROMPTS, SEED, assert_same, latents_of
from toy_video import FRAMES, HIGH, WIDE, Kind, save_toy_video
from toys import make_row

DRAWING = [
    "diffusers.pipelines.cogvideo.pipeline_cogvideox",
    "diffusers.schedulers.scheduling_dpm_cogvideox",
    "diffusers.pipelines.wan.pipeline_wan",
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("toy-video")
    return {kind: str(save_toy_video(folder / kind, kind)) for kind in get_args(Kind)}


def inject(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """diffusers draws the row's noise, whose frames CogVideoX has before its channels. Its DPM solver draws twice for
    all steps but the first, and uses the second."""

    def order() -> Iterator[tuple[int, int]]:
        yield noise.START, 0
        yield noise.STEP, 0
        for step in range(1, 100):
            yield noise.STEP, 1000 + step
            yield noise.STEP, step

    draws = order()

    def draw(shape: Any, **_: Any) -> Tensor:
        batch, *own = shape
        if kind.startswith("wan"):
            return torch.from_numpy(noise.normal(SEED, 1, *next(draws), own))[None]
        frames, channels, *side = own
        return torch.from_numpy(noise.normal(SEED, 1, *next(draws), (channels, frames, *side))).transpose(0, 1)[None]

    for module in DRAWING:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


def wan_transformer_in(folder: str) -> WanTransformer3DModel:
    """diffusers itself wants one more package to load it."""
    made = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder))
    made.load_state_dict(load_file(f"{folder}/diffusion_pytorch_model.safetensors"))
    return made.eval()


def _experts(folder: str) -> list[str]:
    return [path.name for path in sorted(Path(folder).glob("transformer*"))]


def pipeline(folder: str) -> Any:
    if Path(folder).name.startswith("wan"):
        own = {name: wan_transformer_in(f"{folder}/{name}") for name in _experts(folder)}
        made = WanPipeline.from_pretrained(folder, **own, **PLAIN)
    else:
        made = CogVideoXPipeline.from_pretrained(folder, **PLAIN)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_folder_says_what_it_is(toys: dict[str, str]) -> None:
    small, large = (open_model(toys[kind]).stages[0] for kind in ("cogvideox-2b", "cogvideox-5b"))
    assert small.shape == (4, 5, HIGH // 8, WIDE // 8) and small.pixels == (WIDE, HIGH)
    assert (small.video.frames, small.video.compression, small.video.step, small.video.fps) == (FRAMES, 4, 8, 8)
    assert (small.process.prediction, small.process.level(999).signal) == ("v", 0.0)
    assert [stage.process.default_sampler for stage in (small, large)] == ["ddim", "dpmpp_2m_sde"]


def test_wan_says_what_it_is(toys: dict[str, str]) -> None:
    stage = open_model(toys["wan"]).stages[0]
    assert stage.shape == (4, 21, 60, 104) and stage.pixels == (832, 480)
    assert (stage.video.step, stage.video.fps, stage.process.default_sampler) == (4, 16, "unipc")


TEXTS = ["a red one", "a  blue &amp;two\n", ""]


@pytest.mark.parametrize("kind", ["cogvideox-2b", "wan"])
def test_it_reads_as_its_pipeline(toys: dict[str, str], kind: str) -> None:
    model, theirs = open_model(toys[kind]), pipeline(toys[kind])
    length = {"cogvideox-2b": 226, "wan": 512}[kind]
    found = model.text_encoder(CPU).encode(TEXTS)
    with torch.inference_mode():
        wanted = theirs._get_t5_prompt_embeds(TEXTS, max_sequence_length=length, device=CPU)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


SIZED = {"width": 32, "height": 64, "frames": 9}


@pytest.mark.parametrize(
    ("kind", "sized", "own"),
    [
        ("cogvideox-2b", {}, {}),
        ("cogvideox-2b", SIZED, {}),
        ("cogvideox-5b", {}, {}),
        ("cogvideox-5b", SIZED, {}),
        ("wan", SIZED, {}),
        ("wan", SIZED | {"frames": 5}, {"steps": 3}),
    ],
)
def test_the_last_latents(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, sized: dict, own: dict
) -> None:
    inject(monkeypatch, kind)
    asked = ASKED | {"width": WIDE, "height": HIGH, "num_frames": FRAMES}
    theirs = {"frames": "num_frames", "steps": "num_inference_steps"}
    asked |= {theirs.get(name, name): value for name, value in (sized | own).items()}
    wanted = pipeline(toys[kind])(**asked, output_type="latent").frames[0]
    ours = latents_of(toys[kind], make_row("text_to_video", **PROMPTS | sized | own))
    assert_same(ours, wanted if kind == "wan" else wanted.transpose(0, 1))


@pytest.mark.parametrize("kind", ["cogvideox-2b", "wan"])
def test_the_frames(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    inject(monkeypatch, kind)
    asked = ASKED | {"width": WIDE, "height": HIGH, "num_frames": FRAMES}
    wanted = pipeline(toys[kind])(**asked, output_type="np").frames[0]
    latents = open_model(toys[kind]).predictor(1, CPU).latents
    row = make_row("text_to_video", **PROMPTS, width=WIDE, height=HIGH, frames=FRAMES)
    frames = latents.decode(latents_of(toys[kind], row)[None])[0]
    assert frames.shape == (3, FRAMES, HIGH, WIDE)
    ours = ((frames.clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).numpy()
    assert np.abs(ours - wanted).max() <= 1e-5 and wanted.std() > 0.01


@pytest.mark.parametrize("own", [{}, {"guidance_2": 2.0}, {"steps": 1}, {"steps": 20, "guidance_2": 1.0}])
def test_an_expert_goes_on_where_the_other_stopped(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, own: dict
) -> None:
    inject(monkeypatch, "wan")
    theirs = {"guidance_2": "guidance_scale_2", "steps": "num_inference_steps"}
    asked = ASKED | {"width": WIDE, "height": HIGH, "num_frames": 9} | {theirs[name]: own[name] for name in own}
    wanted = pipeline(toys["wan22"])(**asked, output_type="latent").frames[0]
    model, row = open_model(toys["wan22"]), make_row("text_to_video", **PROMPTS | SIZED | own)
    row |= {"width": WIDE, "height": HIGH}
    first, second = (at_size(row, stage) for stage in model.stages)
    inputs = Inputs(dict(zip(condition_keys(row), model.text_encoder(CPU).encode(condition_keys(row)), strict=True)))
    (left,) = walk_plans(model.predictor(1, CPU), [make_plan(row, first, inputs)], capacity=2)
    plan = make_plan(row, second, replace(inputs, handed=Handed(left.image, left.memory)))
    (finished,) = walk_plans(model.predictor(2, CPU), [plan], capacity=2)
    assert_same(finished.image, wanted)
    if own.get("steps", 2) > 1:
        assert left.evaluations and finished.evaluations and len(left.memory) == 3


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_wan_by_euler_as_older_files_have_it(
    toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shift: float
) -> None:
    folder = str(shutil.copytree(toys["wan"], tmp_path / "wan"))
    FlowMatchEulerDiscreteScheduler(shift=shift).save_pretrained(f"{folder}/scheduler")
    index = Path(folder) / "model_index.json"
    named = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | named))
    inject(monkeypatch, "wan")
    wanted = pipeline(folder)(**ASKED, width=WIDE, height=HIGH, num_frames=9, output_type="latent").frames[0]
    row = make_row("text_to_video", **PROMPTS, width=WIDE, height=HIGH, frames=9)
    assert_same(latents_of(folder, row), wanted)
    assert open_model(folder).stages[0].process.samplers == ("euler", "heun", "midpoint")


def test_walks_of_unipc_stand_where_its_scheduler_has_them(toys: dict[str, str]) -> None:
    theirs = pipeline(toys["wan"]).scheduler
    flow = open_model(toys["wan"]).stages[0].process
    for steps in (1, 2, 7, 50):
        theirs.set_timesteps(steps)
        places = flow.flow_grid(steps, tokens=1).places
        assert [place.time for place in places] == theirs.timesteps.tolist()
        assert [place.noise for place in places] == theirs.sigmas[:-1].tolist()


@pytest.mark.parametrize(
    ("name", "frames", "tera", "giga"), [("cogvideox-2b", 13, 120, 3.4), ("wan21-1.3b", 21, 283, 2.9)]
)
def test_what_one_evaluation_takes(name: str, frames: int, tera: float, giga: float) -> None:
    """Of the true shapes, which cost no memory: operations, and bytes of the weights in bfloat16."""
    config, length = TRANSFORMER_SHAPES[name], 226 if name.startswith("cogvideox") else 512
    shape = (16, frames, 60, 90 if name.startswith("cogvideox") else 104)
    assert evaluation_flops(config, shape, length) / 1e12 == pytest.approx(tera, rel=0.02)
    needed = pass_memory(config, "bfloat16", 1, shape, length, None)
    assert needed.weights / 1e9 == pytest.approx(giga, rel=0.05) and needed.activations / 1e9 < 2.5
    assert 2 * PARAMETERS[name] == pytest.approx(needed.weights, rel=0.02 if "cogvideox" in name else 0.05)


@pytest.mark.parametrize("kind", ["cogvideox-5b", "wan"])
def test_bits_do_not_hang_on_who_is_in_a_pass(toys: dict[str, str], kind: str) -> None:
    model = open_model(toys[kind])
    rows = [make_row("text_to_video", **PROMPTS | SIZED | {"seed": seed, "steps": 2 + seed}) for seed in range(2)]
    keys = condition_keys(rows[0])
    inputs = Inputs(dict(zip(keys, model.text_encoder(CPU).encode(keys), strict=True)))
    plans = [make_plan(row, at_size(row, model.stages[0]), inputs) for row in rows]
    together = walk_plans(model.predictor(1, CPU), plans, capacity=2)
    for plan, result in zip(plans, together, strict=True):
        (alone,) = walk_plans(model.predictor(1, CPU), [plan], capacity=2)
        assert torch.equal(alone.image, result.image)


@pytest.mark.parametrize(
    ("kind", "part", "changes", "why"),
    [
        ("cogvideox-2b", "transformer", {"patch_size_t": 2}, "is of CogVideoX 1.5 .* wanted CogVideoX 2b or 5b"),
        ("cogvideox-2b", "transformer", {"in_channels": 8}, "takes 8 channels and gives 4; to make videos from text"),
        ("cogvideox-2b", "scheduler", {"_class_name": "DDIMScheduler"}, "it is of a DDIMScheduler, wanted CogVideoX"),
        ("cogvideox-2b", "scheduler", {"prediction_type": "epsilon"}, "prediction_type is 'epsilon', wanted 'v_pred"),
        ("wan", "scheduler", {"use_flow_sigmas": False}, "use_flow_sigmas is False, wanted True"),
        ("wan", "scheduler", {"use_karras_sigmas": True}, "use_karras_sigmas does not run here"),
        ("wan", "", {"expand_timesteps": True}, "is told a time for each token"),
        ("wan", "", {"boundary_ratio": 0.9}, "has a boundary_ratio of 0.9 and no folder 'transformer_2'"),
        ("wan", "", {"_class_name": "WanImageToVideoPipeline"}, "WanImageToVideoPipeline, which is none of the"),
    ],
)
def test_what_does_not_run_is_refused(
    toys: dict[str, str], tmp_path: Path, kind: str, part: str, changes: dict, why: str
) -> None:
    folder = shutil.copytree(toys[kind], tmp_path / "model")
    name = {"transformer": "config.json", "scheduler": "scheduler_config.json", "": "model_index.json"}[part]
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=why):
        open_model(str(folder))


def test_a_revision_knows_both_experts_and_their_boundary(toys: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(toys["wan22"], tmp_path / "model")
    revisions = [open_model(str(folder)).revision]
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"boundary_ratio": 0.5}))
    revisions.append(open_model(str(folder)).revision)
    weights = folder / "transformer_2" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    revisions.append(open_model(str(folder)).revision)
    assert len(set(revisions)) == 3


def test_parts_that_wan_keeps_whole(toys: dict[str, str]) -> None:
    network = open_model(toys["wan"]).predictor(1, CPU, "bfloat16").transformer
    whole = {name for name, parameter in network.named_parameters() if parameter.dtype == torch.float32}
    assert "scale_shift_table" in whole and "blocks.0.norm2.weight" in whole
    assert "condition_embedder.time_embedder.linear_1.weight" in whole
    assert network.proj_out.weight.dtype == network.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16


def test_adapters_and_pictures_are_refused(toys: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="adapters of models of videos, such as wan, do not run here yet"):
        open_model(toys["wan"]).adapted([StoredAdapter("a", "a.safetensors", "0" * 16)])
    with pytest.raises(ModelError, match="wan makes videos, and `sample` gives pictures"):
        sample(toys["wan"], make_row("text_to_video", **PROMPTS))
