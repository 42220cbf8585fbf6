"""The transformers of SD3 (arXiv 2403.03206) and Flux as the engine asks them: a state is [C, H, W], and tokens are
made of it in here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from darkroom.models.adapter_files import Adapter
from darkroom.models.adapters import NUMBERS, SCALES, Adapters
from darkroom.models.latents import Latents
from darkroom.models.memory import Memory, count_flops, measure
from darkroom.models.predictors import with_decoding
from darkroom.models.stages import PACKED, transformer_fields
from darkroom.models.weights import in_dtype
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import CONDITION, GUIDANCE, POOLED

if TYPE_CHECKING:
    from darkroom.sampling.plans import Plan

_CLASSES = {"SD3Transformer2DModel": SD3Transformer2DModel, "FluxTransformer2DModel": FluxTransformer2DModel}


def build_transformer(config: Mapping[str, Any]) -> nn.Module:
    """Of a transformer/config.json."""
    return _CLASSES[config["_class_name"]].from_config(dict(config))


class TransformerPredictor:
    """See `darkroom.sampling.engine.Predictor`: float32 in and out, whatever the dtype of the weights.

    It is told thousandths of noise as its time. These networks answer with the velocity towards noise, and here it
    leads to the picture. adapters, adapter_bytes: see `UNetPredictor`.
    """

    def __init__(
        self,
        transformer: nn.Module,
        process: Process,
        device: torch.device,
        latents: Latents | None = None,
        adapters: Sequence[Adapter] = (),
        adapter_bytes: float = math.inf,
    ) -> None:
        self.transformer = transformer.to(device)
        self.process, self.device, self.latents = process, device, latents
        self.dtype = transformer.proj_out.weight.dtype  # not of any, as some are held in eight bits
        self.fields = (*transformer_fields(transformer.config, 1), *((NUMBERS, SCALES) if adapters else ()))
        self.adapters = Adapters(transformer, adapters, adapter_bytes) if adapters else None
        self._packs = isinstance(transformer, FluxTransformer2DModel)

    def __call__(self, x: Tensor, timestep: Tensor, *told: Tensor) -> Tensor:
        """told: what `fields` names."""
        named = dict(zip(self.fields, told, strict=True))
        if self.adapters is not None:
            self.adapters.choose(named[NUMBERS], named[SCALES])
        ask = self._flux if self._packs else self._sd3
        return ask(x.to(self.dtype), timestep, named).float().neg()

    def _sd3(self, x: Tensor, timestep: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        texts, pooled = told[CONDITION].to(self.dtype), told[POOLED].to(self.dtype)
        return self.transformer(x, texts, pooled, timestep, return_dict=False)[0]

    def _flux(self, x: Tensor, timestep: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        texts, (*_, height, width) = told[CONDITION].to(self.dtype), x.shape
        # A picture that is edited stands behind the state, as tokens at another place.
        count, own = height // PACKED * (width // PACKED), self.transformer.config.in_channels // PACKED**2
        seen = x.split(own, dim=1)
        (answer,) = self.transformer(
            torch.cat([packed(part) for part in seen], dim=1),
            encoder_hidden_states=texts,
            pooled_projections=told[POOLED].to(self.dtype),
            timestep=timestep / 1000,
            img_ids=torch.cat([positions(height // PACKED, width // PACKED, x.device, at) for at in range(len(seen))]),
            txt_ids=torch.zeros(texts.shape[1], 3, device=x.device),
            guidance=told.get(GUIDANCE),
            return_dict=False,
        )
        return unpacked(answer[:, :count], height, width)

    def admit(self, plan: Plan) -> bool:
        """See `Adapters.admit`."""
        return self.adapters is None or self.adapters.admit(plan)

    def release(self, plan: Plan) -> None:
        """See `Adapters.release`."""
        if self.adapters is not None:
            self.adapters.release(plan)


def packed(x: Tensor) -> Tensor:
    """[B, C, H, W] -> tokens [B, H / 2 W / 2, 4 C]: a token is a square of two by two, its channels outermost."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // PACKED, PACKED, width // PACKED, PACKED)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PACKED**2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """What `packed` had: [B, H / 2 W / 2, 4 C] -> [B, C, H, W]."""
    squares = tokens.reshape(len(tokens), height // PACKED, width // PACKED, -1, PACKED, PACKED)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def positions(rows: int, columns: int, device: torch.device, first: float = 0) -> Tensor:
    """Of a picture's tokens, [rows columns, 3]: `first`, row, column."""
    row = torch.arange(rows, device=device).float()[:, None, None].expand(rows, columns, 1)
    column = torch.arange(columns, device=device).float()[None, :, None].expand(rows, columns, 1)
    return torch.cat([torch.full_like(row, float(first)), row, column], dim=-1).flatten(0, 1)


def pass_memory(
    config: Mapping[str, Any],
    dtype: str,
    capacity: int,
    shape: tuple[int, int, int],
    length: int,
    vae: Mapping[str, Any],
    vae_dtype: str = "float32",
) -> Memory:
    """What a stage's predictor needs on a device, with the decoding beside it. shape: [C, H, W] of a state; the others
    as of `predictors.pass_memory`."""
    return with_decoding(measure(*_meta_pass(config, dtype, capacity, shape, length)), vae, vae_dtype, shape[1:])


def evaluation_flops(config: Mapping[str, Any], shape: tuple[int, int, int], length: int) -> int:
    """Floating point operations of one evaluation, 2 a multiply-add; arguments as of `pass_memory`."""
    return count_flops(_meta_pass(config, "float32", 1, shape, length)[1])


def _meta_pass(
    config: Mapping[str, Any], dtype: str, capacity: int, shape: tuple[int, int, int], length: int
) -> tuple[nn.Module, Callable[[], None]]:
    """A predictor's network on the meta device, and a pass of it."""
    meta = torch.device("meta")
    with meta:
        predictor = TransformerPredictor(in_dtype(build_transformer(config), dtype), None, meta)
        fields = transformer_fields(config, length).values()

    def run() -> None:
        x, times = torch.empty(capacity, *shape, device=meta), torch.zeros(capacity, device=meta)
        predictor(x, times, *(field.new_zeros(capacity, *field.shape) for field in fields))

    return predictor.transformer, run
