"""Weights that take a byte each: held in eight bits, and computed with in bfloat16.

    fp8     float8_e4m3fn (arXiv 2209.05433), each weight by itself: of linear layers and convolutions
    int8    a whole number, and a scale for each row of a matrix, by torchao: of linear layers alone

They are weights of those layers that diffusers' layerwise casting takes: all but norms and what modulates them, patches
and places at the input, and the output. That casting itself casts a layer's weights when it is called, and back
afterwards. So they move in every pass, which a model that is compiled in one piece does not allow, nor a CUDA graph,
which reads them where they lay. Here they stay, and what is computed with lasts as long as the layer's call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from darkroom.models import EIGHT_BITS, lacks_library
from darkroom.models.errors import ModelError


class _InBfloat16:
    """A layer whose `weight` is in bfloat16, of what it holds. torch's parametrizations do the same by a class for each
    layer, and dynamo would compile each block of a transformer anew for them."""

    _parameters: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        return self._parameters["weight"].to(torch.bfloat16)


class _Linear(_InBfloat16, nn.Linear):
    pass


class _Conv1d(_InBfloat16, nn.Conv1d):
    pass


class _Conv2d(_InBfloat16, nn.Conv2d):
    pass


class _Conv3d(_InBfloat16, nn.Conv3d):
    pass


_LAYERS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "fp8": {nn.Linear: _Linear, nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d},
    "int8": {nn.Linear: nn.Linear},  # torchao's weights know how to be computed with
}
"""By dtype, the layers whose weights are held in it, and what they become."""


def layers_in_eight_bits(network: nn.Module, dtype: str) -> dict[str, nn.Module]:
    """The layers of a network of diffusers whose weights are held in eight bits, by their names; none where the dtype
    is another."""
    if dtype not in EIGHT_BITS:
        return {}
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN  # not at the top: seconds

    skipped = [*DEFAULT_SKIP_MODULES_PATTERN]
    for own in ("_keep_in_fp32_modules", "_skip_layerwise_casting_patterns"):
        skipped += getattr(network, own, None) or ()
    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) in _LAYERS[dtype] and not any(re.search(pattern, name) for pattern in skipped)
    }


def in_eight_bits(weight: Tensor, dtype: str) -> Tensor:
    """A weight in bfloat16, as it is held. ModelError where int8 is asked for and torchao is missing."""
    if dtype == "fp8":
        return weight.to(torch.float8_e4m3fn)
    if why := lacks_library(dtype):
        raise ModelError(why)
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    # Else it would change what inductor does to every other model of this process.
    quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))
    return layer.weight.data


def compute_in_bfloat16(layers: Iterable[nn.Module], dtype: str) -> None:
    """Lets layers compute whose weights are held in a dtype of eight bits."""
    for layer in layers:
        layer.__class__ = _LAYERS[dtype][type(layer)]
