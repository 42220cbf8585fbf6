"""A stage's UNet, with its VAE where it has one, as the engine asks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from darkroom.models.adapter_files import Adapter
from darkroom.models.adapters import NUMBERS, SCALES, Adapters
from darkroom.models.fused_attention import fuse_projections
from darkroom.models.latents import DECODED_AT_ONCE, Latents
from darkroom.models.memory import Memory, count_flops, measure
from darkroom.models.stages import unet_fields
from darkroom.models.weights import in_dtype
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import POOLED, SIZES


class UNetPredictor:
    """See `darkroom.sampling.engine.Predictor`: float32 in and out, whatever the dtype of the weights.

    fused: see `fuse_projections`. Off, as it changes bits and what it gains on a GPU was not measured yet.
    adapters: that questions may have; with any, each says which by the fields NUMBERS and SCALES.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        process: Process,
        device: torch.device,
        latents: Latents | None = None,
        fused: bool = False,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self.unet = unet.to(device, memory_format=torch.channels_last)
        if fused:
            fuse_projections(self.unet)
        self.process, self.device, self.latents = process, device, latents
        self.dtype = unet.dtype
        self.fields = (*unet_fields(unet.config, 1), *((NUMBERS, SCALES) if adapters else ()))
        self.adapters = Adapters(self.unet, adapters) if adapters else None
        self._takes_level = unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor, *others: Tensor) -> Tensor:
        """others: what `fields` names after the first two."""
        told = dict(zip(self.fields[2:], others, strict=True))
        more: dict[str, Any] = {"class_labels": noise_level} if self._takes_level else {}
        if POOLED in told:
            more["added_cond_kwargs"] = {"text_embeds": told[POOLED].to(self.dtype), "time_ids": told[SIZES]}
        if self.adapters is not None:
            self.adapters.choose(told[NUMBERS], told[SCALES])
        x = x.to(self.dtype, memory_format=torch.channels_last)
        answer = self.unet(x, timestep, encoder_hidden_states=condition.to(self.dtype), **more).sample
        return answer.float().contiguous()


def pass_memory(
    unet: Mapping[str, Any],
    dtype: str,
    capacity: int,
    size: int,
    length: int,
    vae: Mapping[str, Any] | None = None,
    vae_dtype: str = "float32",
) -> Memory:
    """What a stage's predictor needs on a device. unet, vae: their configurations.

    capacity: evaluations a pass; size: of the state; length: positions of an embedding.
    """
    predictor, run = _meta_pass(unet, dtype, capacity, size, length)
    needed = measure(predictor.unet, run)
    if vae is None:
        return needed
    with torch.device("meta"):
        latents = Latents(in_dtype(AutoencoderKL.from_config(dict(vae)), vae_dtype))
    at_once = 1 if vae_dtype == "float32" else DECODED_AT_ONCE
    states = torch.empty(at_once, latents.vae.config.latent_channels, size, size, device="meta")
    decoding = measure(latents.vae, lambda: latents.decode(states))
    return Memory(needed.weights + decoding.weights, needed.activations + decoding.activations)


def evaluation_flops(unet: Mapping[str, Any], size: int, length: int) -> int:
    """Floating point operations of one evaluation, 2 a multiply-add; arguments as of `pass_memory`."""
    return count_flops(_meta_pass(unet, "float32", 1, size, length)[1])


def _meta_pass(
    unet: Mapping[str, Any], dtype: str, capacity: int, size: int, length: int
) -> tuple[UNetPredictor, Callable[[], None]]:
    """A predictor on the meta device, and a pass of it."""
    meta = torch.device("meta")
    with meta:
        predictor = UNetPredictor(in_dtype(UNet2DConditionModel.from_config(dict(unet)), dtype), None, meta)
        fields = unet_fields(unet, length)

    def run() -> None:
        x = torch.empty(capacity, unet["in_channels"], size, size, device=meta)
        times = torch.zeros(capacity, dtype=torch.int64, device=meta)
        predictor(x, times, *(field.new_zeros(capacity, *field.shape) for field in fields.values()))

    return predictor, run
