"""Weights that take a byte each: held in eight bits, and computed with in bfloat16.

fp8: float8_e4m3fn (arXiv 2209.05433), each weight by itself, of linear layers and convolutions.

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
from torch.nn.utils import parametrize

from darkroom.models import EIGHT_BITS

_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {"fp8": (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}


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
        if isinstance(layer, _LAYERS[dtype]) and not any(re.search(pattern, name) for pattern in skipped)
    }


def in_eight_bits(weight: Tensor, dtype: str) -> Tensor:
    """A weight in bfloat16, as it is held."""
    assert dtype == "fp8"
    return weight.to(torch.float8_e4m3fn)


def compute_in_bfloat16(layers: Iterable[nn.Module]) -> None:
    """Lets layers compute whose weights are held in eight bits."""
    for layer in layers:
        # unsafe: what is held and what is used differ in dtype.
        parametrize.register_parametrization(layer, "weight", _InBfloat16(), unsafe=True)


class _InBfloat16(nn.Module):
    """What a layer's `weight` is, of what is held."""

    def forward(self, held: Tensor) -> Tensor:
        return held.to(torch.bfloat16)
