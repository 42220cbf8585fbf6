"""A pass's inputs: the questions of many rows in the one shape that every pass has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.sampling.device import places, to_device
from darkroom.sampling.guidance import group
from darkroom.sampling.views import View


class Slot(NamedTuple):
    """One question: the state [C, H, W], the low-resolution picture beside it (or None), the view to show both in, what
    the model is told, and when. Tensors lie on the device."""

    x: Tensor
    low_res: Tensor | None
    view: View
    condition: Tensor
    time: int | float
    level: int


class Packing:
    """Puts questions into buffers that are made once, [capacity, ...]; places that are left over hold zeros."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self._buffers: dict[str, Tensor] = {}

    def pack(self, slots: list[Slot]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, timestep, condition and noise level, as a predictor takes them; overwritten by the next call. ValueError
        where a slot's tensors are not of the shape that the first call's were."""
        x = self._packed("x", [slot.x for slot in slots])
        if slots[0].low_res is not None:  # a stage's rows all have one, or none has
            x = torch.cat([x, self._packed("low_res", [slot.low_res for slot in slots])], dim=1)
        for view, chosen in group(slot.view for slot in slots).items():
            if view.name != "identity":
                at = places(chosen, self.device)
                x.index_copy_(0, at, view.apply(x[at]))
        condition = self._packed("condition", [slot.condition for slot in slots])
        return x, self._numbers([slot.time for slot in slots]), condition, self._numbers([slot.level for slot in slots])

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

    def _numbers(self, values: list[int | float]) -> Tensor:
        """int64 or float32 [capacity]."""
        padded = values + [type(values[0])(0)] * (self.capacity - len(values))
        return to_device(torch.tensor(padded), self.device)
