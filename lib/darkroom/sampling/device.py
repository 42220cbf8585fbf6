"""To the device and back without the host waiting for all that the device has still to do.

A plain copy from ordinary memory to a GPU waits until the GPU has done everything asked before; one from pinned memory
is put in line with the rest. PyTorch keeps pinned memory for reuse, and not before its copies are made.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from darkroom.sampling.plans import Plan

AHEAD = 2  # passes asked of a GPU and not yet done: more would hold memory and gain nothing


def computes_in_bfloat16(device: torch.device) -> bool:
    """GPUs before Ampere take such tensors too, and are many times slower by them."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; itself if it is there."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def numbers(values: Sequence[float], device: torch.device) -> Tensor:
    """float32 [N] on the device: one number per sample."""
    return to_device(torch.tensor(values, dtype=torch.float32), device)


def places(positions: Sequence[int], device: torch.device) -> Tensor:
    """Positions as an int64 index on the device; a list as an index would be copied there, and waited for."""
    return to_device(torch.tensor(positions, dtype=torch.int64), device)


def placed(plan: Plan, device: torch.device) -> Plan:
    """The plan with the pictures that every pass wants on the device, as long as the row is under way."""
    held = plan.constraint
    if held is not None:
        mask = None if held.mask is None else to_device(held.mask, device)
        drawn = None if held.noise is None else to_device(held.noise, device)
        held = replace(held, reference=to_device(held.reference, device), mask=mask, noise=drawn)
    extra = None if plan.extra is None else to_device(plan.extra, device)
    return replace(plan, constraint=held, extra=extra)


def told(plan: Plan, names: Sequence[str], device: torch.device) -> dict[str, tuple[Tensor, ...]]:
    """What the model is told for each prompt or label of the plan: the fields of these names, in their order."""
    asked = dict.fromkeys(key for branch in plan.branches for key in (branch.prompt, branch.negative))
    fields = {key: plan.told(key) for key in asked if key in plan.conditions}
    there: dict[int, Tensor] = {}  # what several are told lies there once

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in there:
            there[id(tensor)] = to_device(tensor, device)
        return there[id(tensor)]

    return {key: tuple(moved(own[name]) for name in names) for key, own in fields.items()}


def _put_in_line(event: torch.cuda.Event, device: torch.device) -> None:
    """Behind what this device was asked: `record` alone means the current device, which need not be it."""
    event.record(torch.cuda.current_stream(device))


class Arrival:
    """Tensors on their way to the host, [C, H, W] each."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        if device is None:
            self._tensors = list(tensors)
            return
        self._tensors = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for host, tensor in zip(self._tensors, tensors, strict=True):
            host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        _put_in_line(self._event, device)

    @property
    def here(self) -> bool:
        return self._event is None or self._event.query()

    def get(self) -> list[Tensor]:
        """The tensors on the host, waited for if need be, in memory of their own that is not pinned."""
        if self._event is None:
            return self._tensors
        self._event.synchronize()
        return [tensor.clone() for tensor in self._tensors]


class Stopwatch:
    """Sums up the time between `start` and `stop`, as the device spends it, and keeps the host from running away."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._began = self._seconds = 0.0
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """Waits first until fewer than AHEAD passes are under way."""
        self._began = time.perf_counter()
        if self._on_gpu:
            while len(self._running) >= AHEAD:
                self._running[0][1].synchronize()
                self._take()
            self._running.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            _put_in_line(self._running[-1][0], self._device)

    def stop(self) -> None:
        if self._on_gpu:
            _put_in_line(self._running[-1][1], self._device)
        else:
            self._seconds += time.perf_counter() - self._began

    def read(self) -> float:
        """Seconds of what was done since the last reading; what is still under way is counted later."""
        while self._running and self._running[0][1].query():
            self._take()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _take(self) -> None:
        begun, ended = self._running.popleft()
        self._seconds += begun.elapsed_time(ended) / 1000
