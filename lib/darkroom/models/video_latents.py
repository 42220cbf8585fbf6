"""Latents of videos: back to frames, by the VAE of a model (AutoencoderKLCogVideoX, AutoencoderKLWan)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from torch import Tensor, nn

from darkroom.models.latents import Latents


def build_video_vae(config: Mapping[str, Any]) -> nn.Module:
    """Of a vae/config.json."""
    kind = AutoencoderKLWan if config["_class_name"] == "AutoencoderKLWan" else AutoencoderKLCogVideoX
    return kind.from_config(dict(config))


class VideoLatents(Latents):
    """The VAE of a stage of videos; see `Latents`. Each video is decoded alone: it takes as much as many pictures."""

    vae: Any
    at_once = 1

    def __init__(self, vae: Any, load: Any = None) -> None:
        super().__init__(vae, load)
        self._mean, self._deviation = self._mean[..., None], self._deviation[..., None]

    @torch.inference_mode()
    def decode(self, states: Tensor) -> Tensor:
        """Latents float32 [B, C, F, h, w] -> frames float32 [B, 3, F, H, W], about [-1, 1], on the VAE's device."""
        return super().decode(states)

    def tile(self) -> bool:
        """See `Latents.tile`; pieces overlap, and are blended where they do."""
        if self.vae.use_tiling:
            return False
        self.vae.enable_tiling()
        return True

    def whole(self) -> VideoLatents:
        """See `Latents.whole`."""
        return self if self._load is None else VideoLatents(self._load("float32"))
