"""The four ways to make the same pictures, and what each does: forwards, evaluations, seconds in the model.

A  diffusers' pipelines in a loop, a row at a time       B  the same, 32-row batches grouped by (task, steps)
C  the engine, four batches of 32 rows in flight         D  the engine as a strong static loop: filled once, run empty
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from mix import Row, Studio
from peers import Peers
from torch import Tensor

from darkroom.sampling.engine import Engine, Finished

BATCH, IN_FLIGHT = 32, 4
ARMS = {
    "A": "diffusers, a row at a time",
    "B": "diffusers, static batches",
    "C": "engine",
    "D": "engine without refill",
}


@dataclass
class Made:
    """What an arm did: evaluations are questions answered, empty places left out; inside: seconds in the forward."""

    images: dict[str, Tensor] = field(default_factory=dict)
    forwards: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    inside: float = 0.0
    steady: float = float("nan")  # slot use as long as batches wait


class Arms:
    def __init__(self, studio: Studio, capacity: int) -> None:
        self.studio, self.capacity, self.peers = studio, capacity, Peers(studio)
        self.unet = studio.predictor.unet
        self.ways = {"A": self._loop, "B": self._static, "C": self._continuous, "D": self._without_refill}

    def run(self, name: str, rows: list[Row]) -> Made:
        made = Made()
        with metered(self.unet, made):
            began = time.perf_counter()
            engine = self.ways[name](rows, made)
            made.seconds = time.perf_counter() - began
        if engine is not None:
            made.evaluations = engine.statistics.evaluations
        return made

    def _loop(self, rows: list[Row], made: Made) -> None:
        for row in rows:
            made.images[row["id"]] = self.peers.develop([row])[0]

    def _static(self, rows: list[Row], made: Made) -> None:
        for batch in _chunks(rows):
            for group in self.peers.groups(batch):
                made.images.update(zip((row["id"] for row in group), self.peers.develop(group), strict=True))

    def _continuous(self, rows: list[Row], made: Made) -> Engine:
        """As the actor is fed: a batch comes in when another is done."""
        engine, waiting, left = Engine(self.studio.predictor, self.capacity), _chunks(rows), {}
        while waiting or left:
            while waiting and len(left) < IN_FLIGHT:
                batch = waiting.popleft()
                number = len(waiting)
                left[number] = len(batch)
                made.steady = engine.statistics.slot_use or made.steady
                for row in batch:
                    engine.add(self.studio.plan(row), (number, row["id"]))
            for finished in engine.advance():
                number, row_id = finished.tag
                made.images[row_id] = finished.image
                left[number] -= 1
                left = {number: count for number, count in left.items() if count}
        return engine

    def _without_refill(self, rows: list[Row], made: Made) -> Engine:
        engine = Engine(self.studio.predictor, self.capacity)
        waiting = deque((row["id"], self.studio.plan(row)) for row in rows)
        while waiting:
            room = self.capacity
            while waiting and (room == self.capacity or len(waiting[0][1].questions(0)) <= room):
                row_id, plan = waiting.popleft()
                engine.add(plan, row_id)
                room -= len(plan.questions(0))
            made.images.update(_by_tag(engine.run()))
        return engine


def _by_tag(finished: list[Finished]) -> Iterator[tuple[str, Tensor]]:
    return ((one.tag, one.image) for one in finished)


def _chunks(rows: list[Row]) -> deque[list[Row]]:
    return deque(rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


@contextmanager
def metered(unet: torch.nn.Module, made: Made) -> Iterator[None]:
    began = 0.0

    def before(_: object, given: tuple) -> None:
        nonlocal began
        made.forwards += 1
        made.evaluations += len(given[0])
        began = time.perf_counter()

    def after(*_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        made.inside += time.perf_counter() - began

    hooks = [unet.register_forward_pre_hook(before), unet.register_forward_hook(after)]
    yield
    for hook in hooks:
        hook.remove()


@contextmanager
def silenced(unet: torch.nn.Module) -> Iterator[None]:
    """The UNet answers zeros, at once."""

    def forward(x: Tensor, *_: object, return_dict: bool = True, **__: object) -> object:
        answer = x.new_zeros(len(x), unet.config.out_channels, *x.shape[2:])
        return UNet2DConditionOutput(answer) if return_dict else (answer,)

    with patch.object(unet, "forward", forward):
        yield
