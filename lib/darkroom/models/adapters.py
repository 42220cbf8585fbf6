"""Adapters in a pass: rows with different low-rank additions to the UNet, or none, are answered together.

    y = W x + sum over a row's adapters of   scale  up (down x)

W x is computed as ever, for all rows at once; the rest by two batched products, with each row's own matrices. A row
without an adapter adds exact zeros, so its answer has the bits that it has without any of this.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from darkroom.models import MOST_ADAPTERS
from darkroom.models.adapter_files import Adapter, LowRank

if TYPE_CHECKING:
    from darkroom.sampling.plans import Plan

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

    Before each pass, `choose` says which of them each slot has, and how much of each. most_bytes: that they may take on
    the device; where not all fit, a row's are brought there when it begins (`admit`), in the place of those that
    nobody has used for longest. What is where changes no answer.
    """

    def __init__(self, unet: nn.Module, adapters: Sequence[Adapter], most_bytes: float = math.inf) -> None:
        self.adapters = tuple(adapters)
        self.numbers: Tensor | None = None
        self.scales: Tensor | None = None
        hung = {
            name: module for name, module in unet.named_modules() if any(name in adapter.layers for adapter in adapters)
        }
        shapes = {name: _shape(name, adapters) for name in hung}
        weight = next(iter(hung.values())).weight  # what is computed with, however it is held
        each = sum(rank * (into + out) for rank, into, out in shapes.values()) * weight.element_size()
        fitting = int(min(most_bytes, len(adapters) * each) // each)
        self.places = min(len(adapters), max(MOST_ADAPTERS, fitting))
        self._layers: dict[str, _Layer] = {}
        for name, module in hung.items():
            layer = self._layers[name] = _Layer(*shapes[name], self.places, module.weight)
            module.register_forward_hook(partial(_add, self, layer))
        self._place_of = torch.zeros(len(adapters) + 1, dtype=torch.int64, device=weight.device)
        self._held: dict[int, int] = {}  # places by number, the one used last at the end
        self._users = Counter[int]()  # how many rows under way, by number
        for number in range(1, self.places + 1):
            self._bring(number, number)

    def admit(self, plan: Plan) -> bool:
        """A row is to begin: its adapters come to the device and stay until `release`. False where rows under way hold
        the places that it wants."""
        wanted = _numbers(plan)
        away = [number for number in wanted if number not in self._held]
        unused = [number for number in self._held if not self._users[number] and number not in wanted]
        if len(away) > len(unused):
            return False
        for number, other in zip(away, unused, strict=False):
            self._bring(number, self._held.pop(other))
        for number in wanted:
            self._held[number] = self._held.pop(number)
        self._users.update(wanted)
        return True

    def release(self, plan: Plan) -> None:
        """A row that was admitted has ended."""
        self._users.subtract(_numbers(plan))

    def _bring(self, number: int, place: int) -> None:
        """In order with the passes, as the device does what it is asked one after the other."""
        self._held[-place] = place  # nobody's, until all of it is there: memory may end in between
        for name, layer in self._layers.items():
            layer.put(place, self.adapters[number - 1].layers.get(name))
        self._held[number] = self._held.pop(-place)
        self._place_of[number] = place

    def choose(self, numbers: Tensor, scales: Tensor) -> None:
        """numbers: int64 [B, S], NONE where a slot has fewer; scales: float32 [B, S]; both on the device."""
        self.numbers, self.scales = self._place_of[numbers], scales


class _Layer:
    """down: [places + 1, rank, in]; up: [places + 1, rank, out]; zeros at NONE, and where a rank is smaller than the
    largest. They never move, as CUDA graphs read them where they lie."""

    def __init__(self, rank: int, into: int, out: int, places: int, like: Tensor) -> None:
        how = {"dtype": like.dtype, "device": like.device}
        self.down = torch.zeros(places + 1, rank, into, **how)
        self.up = torch.zeros(places + 1, rank, out, **how)

    def put(self, place: int, adapter: LowRank | None) -> None:
        """An adapter's own of this layer; None: it has none."""
        self.down[place].zero_()
        self.up[place].zero_()
        if adapter is not None:
            rank = len(adapter.down)
            self.down[place, :rank] = adapter.down.to(self.down)
            self.up[place, :rank] = adapter.up.T.to(self.up)

    def __call__(self, x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
        """x: [B, N, in] -> [B, N, out]."""
        batch, rank = len(x), self.down.shape[1]
        down = self.down[numbers].flatten(1, 2)
        up = self.up[numbers].flatten(1, 2)
        share = scales.to(x.dtype).repeat_interleave(rank, dim=1).reshape(batch, 1, -1)
        return torch.bmm(torch.bmm(x, down.transpose(1, 2)) * share, up)


def _add(adapters: Adapters, layer: _Layer, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert adapters.numbers is not None and adapters.scales is not None, "no pass was announced by `choose`"
    return with_addition(module, inputs[0], output, partial(layer, numbers=adapters.numbers, scales=adapters.scales))


def with_addition(module: nn.Module, x: Tensor, output: Tensor, addition: Callable[[Tensor], Tensor]) -> Tensor:
    """What an adaptable layer gives for x, and beside it what `addition` makes of x, [B, N, in] -> [B, N, out]."""
    if isinstance(module, nn.Conv2d):
        return output + addition(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(output.shape)
    return output + addition(x.reshape(len(x), -1, x.shape[-1])).reshape(output.shape)


def _shape(name: str, adapters: Sequence[Adapter]) -> tuple[int, int, int]:
    """The largest rank that any has at a layer, and how many values that takes and gives."""
    own = [adapter.layers[name] for adapter in adapters if name in adapter.layers]
    return max(len(layer.down) for layer in own), own[0].down.shape[1], own[0].up.shape[0]


def _numbers(plan: Plan) -> list[int]:
    """Of a row's adapters."""
    numbers = plan.fields.get(NUMBERS)
    return [] if numbers is None else [number for number in numbers.tolist() if number != NONE]


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
