"""Adapters in a pass: rows with different low-rank additions to the UNet, or none, are answered together.

    y = W x + sum over a row's adapters of   scale  up (down x)

W x is computed as ever, for all rows at once; the rest by two batched products, with each row's own matrices. A row
without an adapter adds exact zeros, so its answer has the bits that it has without any of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from darkroom.models import MOST_ADAPTERS
from darkroom.models.adapter_files import Adapter

NONE = 0  # the number of no adapter
PLACES = (1, 2, MOST_ADAPTERS)  # that a question may have for adapters

NUMBERS, SCALES = "adapters", "adapter_scales"  # fields of a question


def adaptable_layers(unet: nn.Module) -> dict[str, tuple[int, int]]:
    """Layers that an adapter may add to, and how many values each takes and gives: linear ones, and convolutions of
    one pixel, which are linear in the channels."""
    found = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            found[name] = (module.in_channels, module.out_channels)
    return found


class Adapters:
    """Hangs adapters on a UNet, on its device and in its dtype. The first has the number 1.

    Before each pass, `choose` says which of them each slot has, and how much of each.
    """

    def __init__(self, unet: nn.Module, adapters: Sequence[Adapter]) -> None:
        self.numbers: Tensor | None = None
        self.scales: Tensor | None = None
        for name, module in unet.named_modules():
            if any(name in adapter.layers for adapter in adapters):
                down, up = _stacked(name, adapters)
                weight = next(module.parameters())
                layer = _Layer(down.to(weight), up.to(weight))
                module.register_forward_hook(partial(_add, self, layer))

    def choose(self, numbers: Tensor, scales: Tensor) -> None:
        """numbers: int64 [B, S], NONE where a slot has fewer; scales: float32 [B, S]; both on the device."""
        self.numbers, self.scales = numbers, scales


class _Layer:
    """down: [K + 1, rank, in]; up: [K + 1, rank, out]; zeros at NONE, and where a rank is smaller than the largest."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down, self.up = down, up

    def __call__(self, x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
        """x: [B, N, in] -> [B, N, out]."""
        batch, rank = len(x), self.down.shape[1]
        down = self.down[numbers].flatten(1, 2)
        up = self.up[numbers].flatten(1, 2)
        share = scales.to(x.dtype).repeat_interleave(rank, dim=1).reshape(batch, 1, -1)
        return torch.bmm(torch.bmm(x, down.transpose(1, 2)) * share, up)


def _add(adapters: Adapters, layer: _Layer, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert adapters.numbers is not None and adapters.scales is not None, "no pass was announced by `choose`"
    (x, *_) = inputs
    if isinstance(module, nn.Conv2d):
        flat = x.flatten(2).transpose(1, 2)
        added = layer(flat, adapters.numbers, adapters.scales).transpose(1, 2).reshape(output.shape)
    else:
        flat = x.reshape(len(x), -1, x.shape[-1])
        added = layer(flat, adapters.numbers, adapters.scales).reshape(output.shape)
    return output + added


def _stacked(name: str, adapters: Sequence[Adapter]) -> tuple[Tensor, Tensor]:
    own: list[tuple[int, Tensor, Tensor]] = [
        (number, *adapter.layers[name]) for number, adapter in enumerate(adapters, 1) if name in adapter.layers
    ]
    rank = max(len(down) for _, down, _ in own)
    downs = torch.zeros(len(adapters) + 1, rank, own[0][1].shape[1])
    ups = torch.zeros(len(adapters) + 1, rank, own[0][2].shape[0])
    for number, down, up in own:
        downs[number, : len(down)] = down
        ups[number, : len(down)] = up.T
    return downs, ups


def places_of(count: int) -> int:
    """S, of a row with so many adapters: 1, 2 or 4. Few kinds of rows, as rows of one kind share passes; and a row with
    one adapter, or none, does not pay for four."""
    return next(places for places in PLACES if places >= count)


def adapter_fields(own: Mapping[str, float], names: Sequence[str]) -> dict[str, Tensor]:
    """A row's adapters, its scales by name, as fields of its questions: NUMBERS int64 [S] and SCALES float32 [S], see
    `places_of`.

    names: of all adapters, in the order of their numbers, which the row's come in too. Nothing where there are none.
    """
    if not names:
        return {}
    pairs = [(number, own[name]) for number, name in enumerate(names, 1) if name in own]
    pairs += [(NONE, 0.0)] * (places_of(len(pairs)) - len(pairs))
    numbers, scales = zip(*pairs, strict=True)
    return {NUMBERS: torch.tensor(numbers), SCALES: torch.tensor(scales, dtype=torch.float32)}
