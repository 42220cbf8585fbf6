"""CogVideoX in diffusers' layout answers as diffusers' own pipelines do, given the same noise."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from torch import Tensor

from darkroom.models.catalog import open_model
from darkroom.sampling import noise
from darkroom.sampling.plans import condition_keys
from models.test_stable_diffusion import ASKED, CPU, PLAIN, PROMPTS, SEED, assert_same, latents_of
from toy_video import FRAMES, HIGH, WIDE, Kind, save_toy_video
from toys import make_row

DRAWING = [
    "diffusers.pipelines.cogvideo.pipeline_cogvideox",
    "diffusers.schedulers.scheduling_dpm_cogvideox",
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("toy-video")
    return {kind: str(save_toy_video(folder / kind, kind)) for kind in get_args(Kind)}


def inject(monkeypatch: pytest.MonkeyPatch, channels_at: int = 1) -> None:
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
        batch, frames, channels, *side = shape
        drawn = noise.normal(SEED, 1, *next(draws), (channels, frames, *side))
        return torch.from_numpy(drawn).transpose(0, 1)[None]

    for module in DRAWING:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)


def pipeline(folder: str) -> Any:
    made = CogVideoXPipeline.from_pretrained(folder, **PLAIN)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_folder_says_what_it_is(toys: dict[str, str]) -> None:
    small, large = (open_model(toys[kind]).stages[0] for kind in ("cogvideox-2b", "cogvideox-5b"))
    assert small.shape == (4, 5, HIGH // 8, WIDE // 8) and small.pixels == (WIDE, HIGH)
    assert (small.video.frames, small.video.compression, small.video.step, small.video.fps) == (FRAMES, 4, 8, 8)
    assert (small.process.prediction, small.process.level(999).signal) == ("v", 0.0)
    assert [stage.process.default_sampler for stage in (small, large)] == ["ddim", "dpmpp_2m_sde"]


def test_it_reads_as_its_pipeline(toys: dict[str, str]) -> None:
    model, theirs = open_model(toys["cogvideox-2b"]), pipeline(toys["cogvideox-2b"])
    found = model.text_encoder(CPU).encode(condition_keys(make_row("text_to_video", **PROMPTS)))
    with torch.inference_mode():
        wanted = theirs.encode_prompt(PROMPTS["prompt"], PROMPTS["negative_prompt"], device=CPU)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["cogvideox-2b", "cogvideox-5b"])
@pytest.mark.parametrize("sized", [{}, {"width": 32, "height": 64, "frames": 9}])
def test_the_last_latents(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, sized: dict) -> None:
    inject(monkeypatch)
    asked = ASKED | {"width": WIDE, "height": HIGH, "num_frames": FRAMES}
    asked |= {"num_frames" if name == "frames" else name: value for name, value in sized.items()}
    wanted = pipeline(toys[kind])(**asked, output_type="latent").frames
    ours = latents_of(toys[kind], make_row("text_to_video", **PROMPTS, **sized))
    assert_same(ours, wanted[0].transpose(0, 1))


def test_the_frames(toys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch)
    folder = toys["cogvideox-2b"]
    wanted = pipeline(folder)(**ASKED, width=WIDE, height=HIGH, num_frames=FRAMES, output_type="np").frames[0]
    latents = open_model(folder).predictor(1, CPU).latents
    frames = latents.decode(latents_of(folder, make_row("text_to_video", **PROMPTS))[None])[0]
    assert frames.shape == (3, FRAMES, HIGH, WIDE)
    ours = ((frames.clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).numpy()
    assert np.abs(ours - wanted).max() <= 1e-5 and wanted.std() > 0.01
