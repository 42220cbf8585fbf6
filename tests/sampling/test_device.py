"""Copies and times of a GPU that is not the current one, told by what a GPU would be asked: there is none here."""

from __future__ import annotations

import pytest
import torch

from darkroom.sampling.device import Arrival, Stopwatch

SECOND = torch.device("cuda", 1)


class Event:
    """In the place of CUDA's: keeps the streams on which it was recorded."""

    recorded: list[object]

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self, stream: object = None) -> None:
        Event.recorded.append(stream)


class OnSecond(torch.Tensor):
    """Says that it lies on the second GPU."""

    is_cuda, device = True, SECOND


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    Event.recorded = []
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))
    return Event.recorded


def test_pictures_are_here_when_their_own_gpu_has_copied_them(recorded: list[object]) -> None:
    Arrival([torch.ones(3, 4, 4).as_subclass(OnSecond)])
    assert recorded == ["stream of cuda:1"]


def test_a_pass_is_timed_on_its_own_gpu(recorded: list[object]) -> None:
    watch = Stopwatch(SECOND)
    watch.start()
    watch.stop()
    assert recorded == ["stream of cuda:1"] * 2
