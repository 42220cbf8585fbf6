"""ControlNets for the toy Stable Diffusion models: the real class, with random weights in every layer."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel

from toy_sd import FACTOR, Kind, unet


def net(kind: Kind = "sd", seed: int = 0) -> ControlNetModel:
    """Of a UNet of that kind. What `from_unet` leaves at zero, so that a new one says nothing, is random too."""
    torch.manual_seed(100 + seed)
    base = unet("sd" if kind == "inpaint" else kind)
    channels = (8, 12, 16)
    assert 2 ** (len(channels) - 1) == FACTOR
    made = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=channels)
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def save_net(folder: Path, kind: Kind = "sd", seed: int = 0) -> str:
    net(kind, seed).save_pretrained(folder)
    return str(folder)
