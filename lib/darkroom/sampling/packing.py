"""A pass's inputs: the questions of many rows in the one shape that every pass has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.sampling.device import places, to_device
from darkroom.sampling.guidance import group
from darkroom.sampling.views import View


class Slot(NamedTuple):
    """One question: the state [C, H, W], the channels beside it (or None), the view to show both in, the time, and what
    else the model is told, in the order of its fields. Tensors lie on the device. shares: see `Control`, () without."""

    x: Tensor
    extra: Tensor | None
    view: View
    time: float
    fields: Sequence[Tensor]
    shares: tuple[float, ...] = ()


class Packing:
    """Puts questions into buffers that are made once, [capacity, ...]; places that are left over hold zeros.

    fields: names of what a slot's model is told beside state and time.
    """

    def __init__(self, capacity: int, device: torch.device, fields: Sequence[str]) -> None:
        self.capacity, self.device, self.fields = capacity, device, tuple(fields)
        self._buffers: dict[str, Tensor] = {}

    def pack(self, slots: list[Slot]) -> tuple[Tensor, ...]:
        """x, timestep, the fields in their order, and shares where there are some, as a predictor takes them;
        overwritten by the next call.
        ValueError where a slot's tensors are not of the shape that the first call's were."""
        x = self._packed("x", [slot.x for slot in slots])
        if slots[0].extra is not None:  # a stage's rows all have some, or none has
            x = torch.cat([x, self._packed("extra", [slot.extra for slot in slots])], dim=1)
        for view, chosen in group(slot.view for slot in slots).items():
            if view.name != "identity":
                at = places(chosen, self.device)
                x.index_copy_(0, at, view.apply(x[at]))
        told = [self._packed(name, [slot.fields[at] for slot in slots]) for at, name in enumerate(self.fields)]
        if slots[0].shares:
            told.append(self._numbers([slot.shares for slot in slots]))
        return x, self._numbers([slot.time for slot in slots]), *told

    def _packed(self, name: str, parts: list[Tensor]) -> Tensor:
        if name not in self._buffers:
            self._buffers[name] = parts[0].new_zeros(self.capacity, *parts[0].shape)
        buffer = self._buffers[name]
        for part in parts:  # `stack` would make the buffer another one's, and nobody would see what it holds
            if part.shape != buffer.shape[1:]:
                raise ValueError(f"{name} is {list(part.shape)}, wanted {list(buffer.shape[1:])} as all others")
        torch.stack(parts, out=buffer[: len(parts)])
        buffer[len(parts) :].zero_()
        return buffer

    def _numbers(self, values: Sequence[float] | Sequence[tuple[float, ...]]) -> Tensor:
        """float32 [capacity, ...], whole or not: the type of a pass must not hang on who is in it."""
        given = torch.tensor(values, dtype=torch.float32)
        padded = torch.cat([given, given.new_zeros(self.capacity - len(given), *given.shape[1:])])
        return to_device(padded, self.device)
