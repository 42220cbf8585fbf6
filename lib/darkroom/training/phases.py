"""A training in phases: each is a run of the one loop, with checkpoints of its own.

Everything random in a phase is keyed by (seed, phase, step), so a training that was interrupted goes on as if it had
not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from darkroom.storage import Store
from darkroom.training.epochs import Say
from darkroom.training.feeds import Batch, Worker
from darkroom.training.loop import fit
from darkroom.training.objectives import Objective
from darkroom.training.steps import Optimization


class Settings(Protocol):
    """What is read of a recipe of phases."""

    seed: int
    batch: int
    learning_rate: float
    warmup: int
    checkpoint_every: int

    def speed(self, worker: Worker) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Phase:
    """One run of the loop. `key` seeds its random numbers beside the recipe's seed; no two phases share one. average:
    decay of the weights' running average."""

    name: str
    key: int
    steps: int
    average: float = field(default=0.999, kw_only=True)


class Painter:
    """A feed of pictures painted anew for every step; an epoch ends where a checkpoint is due.

    draw: the worker's share of the batch with that key.
    """

    def __init__(self, draw: Callable[[tuple[int, ...]], Batch], recipe: Settings, phase: Phase) -> None:
        self._draw, self._key = draw, (recipe.seed, phase.key)
        self.steps, self.batch = min(recipe.checkpoint_every, phase.steps), recipe.batch

    def epoch(self, number: int) -> Iterator[Batch]:
        for step in range((number - 1) * self.steps, number * self.steps):
            yield self._draw((*self._key, step))


def train_phase(
    phase: Phase, objective: Objective, feed: Painter, recipe: Settings, store: Store, worker: Worker, say: Say,
    rate: Callable[[int], float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One phase to its end, from its checkpoint if there is one; leaves the averaged weights in the objective's
    network. rate: by step, default `learning_rate`. Returns what of the wished speed was had."""
    epochs = -(-phase.steps // feed.steps)
    how = Optimization(
        epochs=epochs,
        rate=rate or (lambda step: learning_rate(step, epochs * feed.steps, recipe)),
        weight_decay=0.01,
        average=phase.average,
        clip=1.0,
        keep_last=1,
        **recipe.speed(worker),
    )
    about, folder = {"phase": phase.name}, f"checkpoints/{phase.name}"
    last = fit(
        objective, feed, how, worker, store, about, lambda line: say(f"{phase.name}  {line}"), folder=folder
    )  # fmt: skip
    objective.network.load_state_dict(last.sampling_weights, strict=False)  # a tied tensor has one of its names only
    return last.config.get("ran", {})


def learning_rate(step: int, steps: int, recipe: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return warm_up(step, recipe) * 0.5 * (1 + math.cos(math.pi * step / steps))


def warm_up(step: int, recipe: Settings) -> float:
    """Linear, then constant."""
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup)
