"""Pictures pinned to the bit: rows of old runs keep their keys only as long as these stay (see SAMPLER_VERSION).

The model is arithmetic that IEEE rounds once, so that the digests are the same on every machine. A digest may change
only together with the key of the rows it stands for.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.engine import Engine
from darkroom.sampling.flow import Flow
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.stage import Inputs, Stage
from toys import CountingPredictor, make_row

SIZE = 8
LEARNED = Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5))  # as IF and if-xs
VIEWS = [{"view": "flip_vertical", "prompt": "a"}, {"view": "jigsaw", "prompt": "b"}, {"view": "negate", "prompt": "c"}]
PARTS = [{"component": "grayscale", "prompt": "a"}, {"component": "color", "prompt": "b", "view": "rotate_90"}]
HELD = [{"component": "color", "prompt": "a"}, {"component": "grayscale", "image": "given.png"}]
INPAINT = make_row("inpaint", prompt="a", steps=7, resample={"jump": 2, "times": 3})

ROWS = {
    "ddpm": (LEARNED, make_row("text_to_image", prompt="a"), "d32523457223cd0b"),
    "ddpm, fixed variance": (
        Diffusion.linear(clip=1.0),
        make_row("text_to_image", prompt="a", timesteps="fast27"),
        "b9d1334bad9fa795",
    ),
    "ddim": (LEARNED, make_row("text_to_image", prompt="a", steps=9, sampler="ddim", eta=0.5), "c241d6d7ef690f22"),
    "guidance 0": (LEARNED, make_row("text_to_image", prompt="a", steps=5, guidance=0.0), "44fb1aaeb30671c6"),
    "guidance 1": (LEARNED, make_row("text_to_image", prompt="a", steps=5, guidance=1.0), "777bd8902be0c756"),
    "sdedit": (LEARNED, make_row("image_to_image", prompt="a", steps=9, strength=0.6), "b1c856887828fc64"),
    "inpaint": (LEARNED, INPAINT, "94fa35fc14853011"),
    "anagram": (LEARNED, make_row("anagram", views=VIEWS, steps=6), "8a080ffebf422538"),
    "anagram, alternate": (
        LEARNED,
        make_row("anagram", views=VIEWS, steps=6, reduction="alternate"),
        "edc0efd10479497e",
    ),
    "hybrid": (LEARNED, make_row("hybrid", components=PARTS, steps=6), "4f2446707a037329"),
    "hybrid, held": (LEARNED, make_row("hybrid", components=HELD, steps=6), "4a38af0d44bcc7ed"),
    "one step": (LEARNED, make_row("denoise", prompt="a", timestep=500, method="one_step"), "ae4061219bbac403"),
    "iterative": (
        LEARNED,
        make_row("denoise", prompt="a", timestep=500, method="iterative", until=390),
        "64e0ea3840d31262",
    ),
    "forward": (LEARNED, make_row("forward", timestep=250), "c3a889fe15bd90d2"),
    "euler": (Flow(), make_row("text_to_image", prompt="a", steps=6), "67fcb301a97906cb"),
    "heun": (Flow(), make_row("text_to_image", prompt="a", steps=6, sampler="heun"), "28a212c303f3125b"),
    "midpoint": (Flow(), make_row("text_to_image", prompt="a", steps=6, sampler="midpoint"), "916fbdef5cf97db8"),
    "euler, alternate": (Flow(), make_row("anagram", views=VIEWS, steps=6, reduction="alternate"), "f6f19f1cb35449aa"),
    "euler, inpaint": (Flow(), INPAINT, "ae30122fc7fddbb5"),
}


def ramp(scale: float) -> Tensor:
    """A picture without a random number: [3, SIZE, SIZE] within [-1, 1]."""
    return (torch.arange(3 * SIZE * SIZE).reshape(3, SIZE, SIZE) * scale) % 2 - 1


def picture_of(process: Diffusion | Flow, row: dict) -> Tensor:
    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        seen = x * 0.75 + x.flip(-1) * 0.125 + condition[:, :1, None, None] * 0.25
        return torch.cat([seen, x * 0.25], dim=1) if process.learned_variance else seen

    conditions = {key: torch.tensor([len(key) - sum(key.encode()) / 100]) for key in condition_keys(row)}
    mask = (torch.arange(SIZE) < SIZE // 2).expand(1, SIZE, SIZE)
    inputs = Inputs(conditions, image=ramp(0.03125), mask=mask, given=ramp(0.0625))
    engine = Engine(CountingPredictor(process, predict), capacity=4)
    engine.add(make_plan(row, Stage(1, SIZE, 3, process), inputs))
    (finished,) = engine.run()
    return finished.image


@pytest.mark.parametrize("name", ROWS)
def test_pictures_are_the_same_to_the_bit(name: str) -> None:
    process, row, digest = ROWS[name]
    picture = picture_of(process, row)
    assert torch.isfinite(picture).all()
    assert hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()[:16] == digest
