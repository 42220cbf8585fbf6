"""A stage's UNet, with its VAE where it has one, as the engine asks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from darkroom.models.adapter_files import Adapter
from darkroom.models.adapters import NUMBERS, SCALES, Adapters
from darkroom.models.control import build_net, control_fields, hint_factor
from darkroom.models.fused_attention import fuse_projections
from darkroom.models.latents import DECODED_AT_ONCE, Latents
from darkroom.models.memory import Memory, count_flops, measure
from darkroom.models.stages import unet_fields
from darkroom.models.weights import in_dtype
from darkroom.sampling.control import HINTS
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import CONDITION, NOISE_LEVEL, POOLED, SIZES

if TYPE_CHECKING:
    from darkroom.sampling.plans import Plan


class UNetPredictor:
    """See `darkroom.sampling.engine.Predictor`: float32 in and out, whatever the dtype of the weights.

    fused: see `fuse_projections`. Off, as it changes bits and what it gains on a GPU was not measured yet.
    adapters: that questions may have; with any, each says which by the fields NUMBERS and SCALES. adapter_bytes: that
    they may take on the device. nets: control networks by name, on the device already.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        process: Process,
        device: torch.device,
        latents: Latents | None = None,
        fused: bool = False,
        adapters: Sequence[Adapter] = (),
        adapter_bytes: float = math.inf,
        nets: Mapping[str, ControlNetModel] | None = None,
    ) -> None:
        self.unet = unet.to(device, memory_format=torch.channels_last)
        if fused:
            fuse_projections(self.unet)
        self.process, self.device, self.latents = process, device, latents
        self.dtype = unet.conv_out.weight.dtype  # of what is held in eight bits, too, what it computes in
        self.fields = (*unet_fields(unet.config, 1), *((NUMBERS, SCALES) if adapters else ()))
        self.adapters = Adapters(self.unet, adapters, adapter_bytes) if adapters else None
        self.nets = {name: net.to(memory_format=torch.channels_last) for name, net in (nets or {}).items()}
        self._takes_level = unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None

    def __call__(self, x: Tensor, timestep: Tensor, *told: Tensor) -> Tensor:
        """told: what `fields` names."""
        return self.answer(x, timestep, told, {})

    def answer(self, x: Tensor, timestep: Tensor, told: Sequence[Tensor], more: Mapping[str, Any]) -> Tensor:
        """more: that the UNet is given."""
        if self.adapters is not None:
            named = dict(zip(self.fields, told, strict=True))
            self.adapters.choose(named[NUMBERS], named[SCALES])
        x = x.to(self.dtype, memory_format=torch.channels_last)
        return self.unet(x, timestep, **self.given(told), **more).sample.float().contiguous()

    def admit(self, plan: Plan) -> bool:
        """See `Adapters.admit`."""
        return self.adapters is None or self.adapters.admit(plan)

    def release(self, plan: Plan) -> None:
        """See `Adapters.release`."""
        if self.adapters is not None:
            self.adapters.release(plan)

    def given(self, told: Sequence[Tensor]) -> dict[str, Any]:
        """What is told, as the networks of diffusers take it."""
        named = dict(zip(self.fields, told, strict=True))
        given: dict[str, Any] = {"encoder_hidden_states": named[CONDITION].to(self.dtype)}
        if self._takes_level:
            given["class_labels"] = named[NOISE_LEVEL]
        if POOLED in named:
            given["added_cond_kwargs"] = {"text_embeds": named[POOLED].to(self.dtype), "time_ids": named[SIZES]}
        return given

    def controlled(self, names: tuple[str, ...]) -> ControlledPredictor:
        """The predictor that asks these control networks too."""
        return ControlledPredictor(self, [self.nets[name] for name in names])


class ControlledPredictor:
    """See `darkroom.sampling.engine.Predictor`: the UNet's, told besides what the networks answer.

    It takes HINTS, float32 [B, K, 3, H, W], and after all fields `Control.shares`, float32 [B, K + 1].
    """

    def __init__(self, base: UNetPredictor, nets: Sequence[ControlNetModel]) -> None:
        self.base, self.nets = base, tuple(nets)
        self.process, self.device, self.latents = base.process, base.device, base.latents
        self.fields = (*base.fields, HINTS)
        self.admit, self.release = base.admit, base.release

    def __call__(self, x: Tensor, timestep: Tensor, *others: Tensor) -> Tensor:
        *told, hints, shares = others
        given = self.base.given(told)
        state = x[:, : self.nets[0].config.in_channels].to(self.base.dtype, memory_format=torch.channels_last)
        answers = []
        for number, net in enumerate(self.nets):
            hint = hints[:, number].to(self.base.dtype)
            down, mid = net(state, timestep, controlnet_cond=hint, return_dict=False, **given)
            answers.append(_weighed([*down, mid], shares[:, number], shares[:, -1]))
        *down, mid = (reduce(torch.add, layer) for layer in zip(*answers, strict=True))
        added = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
        return self.base.answer(x, timestep, told, added)


def _weighed(answers: Sequence[Tensor], scales: Tensor, softly: Tensor) -> list[Tensor]:
    """A network's answers [B, C, h, w], times its scale [B], and where `softly` [B] is 1 from a tenth of it for the
    shallowest to all of it for the deepest (diffusers' guess mode)."""
    depths = torch.logspace(-1, 0, len(answers), device=scales.device)
    weights = scales * torch.where(softly[None] > 0, depths[:, None], 1.0)
    return [
        (answer * weight[:, None, None, None]).to(answer.dtype) for answer, weight in zip(answers, weights, strict=True)
    ]


def pass_memory(
    unet: Mapping[str, Any],
    dtype: str,
    capacity: int,
    size: int,
    length: int,
    vae: Mapping[str, Any] | None = None,
    vae_dtype: str = "float32",
    nets: Sequence[Mapping[str, Any]] = (),
) -> Memory:
    """What a stage's predictor needs on a device. unet, vae: their configurations; nets: of all control networks.

    capacity: evaluations a pass; size: of the state; length: positions of an embedding.
    """
    networks, run = _meta_pass(unet, dtype, capacity, size, length, nets)
    needed = measure(networks, run)
    return needed if vae is None else with_decoding(needed, vae, vae_dtype, (size, size))


def with_decoding(needed: Memory, vae: Mapping[str, Any], vae_dtype: str, size: tuple[int, int]) -> Memory:
    """What a network needs, and a VAE that decodes states of this height and width beside it."""
    with torch.device("meta"):
        latents = Latents(in_dtype(AutoencoderKL.from_config(dict(vae)), vae_dtype))
    at_once = 1 if vae_dtype == "float32" else DECODED_AT_ONCE
    states = torch.empty(at_once, latents.vae.config.latent_channels, *size, device="meta")
    decoding = measure(latents.vae, lambda: latents.decode(states))
    return Memory(needed.weights + decoding.weights, needed.activations + decoding.activations)


def evaluation_flops(unet: Mapping[str, Any], size: int, length: int) -> int:
    """Floating point operations of one evaluation, 2 a multiply-add; arguments as of `pass_memory`."""
    return count_flops(_meta_pass(unet, "float32", 1, size, length)[1])


def _meta_pass(
    unet: Mapping[str, Any], dtype: str, capacity: int, size: int, length: int, nets: Sequence[Mapping[str, Any]] = ()
) -> tuple[nn.Module, Callable[[], None]]:
    """A predictor's networks on the meta device, and a pass of it."""
    meta = torch.device("meta")
    with meta:
        controls = {str(number): in_dtype(build_net(config), dtype) for number, config in enumerate(nets)}
        base = UNetPredictor(in_dtype(UNet2DConditionModel.from_config(dict(unet)), dtype), None, meta, nets=controls)
        predictor = base.controlled(tuple(controls)) if controls else base
        side = size * hint_factor(nets[0]) if nets else 0
        fields = (*unet_fields(unet, length).values(), *control_fields(len(controls), (side, side)))

    def run() -> None:
        x = torch.empty(capacity, unet["in_channels"], size, size, device=meta)
        times = torch.zeros(capacity, dtype=torch.int64, device=meta)
        predictor(x, times, *(field.new_zeros(capacity, *field.shape) for field in fields))

    return nn.ModuleList([base.unet, *controls.values()]), run
