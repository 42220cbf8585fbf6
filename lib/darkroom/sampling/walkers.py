"""A row on its way through the engine, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from darkroom.sampling.plans import Plan
from darkroom.sampling.solvers import REMEMBERED


@dataclass(frozen=True, eq=False)
class Finished:
    """A developed row: image float32 [C, H, W] or, of a video, [C, F, H, W] (not clamped), what it cost, and the states
    that were asked for; memory: what its solver remembers, where moves are left to others."""

    tag: Any
    image: Tensor
    evaluations: int
    seconds: float
    states: dict[int, Tensor]
    memory: tuple[Tensor | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Failed:
    """A row that could not be developed, why, and what it had cost until then."""

    tag: Any
    error: Exception
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Walker:
    """A row under way: where it stands, and the answers it has towards its next step; added: see `Answers`."""

    tag: Any
    plan: Plan
    lines: np.ndarray
    used: frozenset[int]
    x: Tensor
    told: dict[str, tuple[Tensor, ...]]
    since: float
    move: int = 0
    questions: tuple = ()
    answers: list[Tensor] = field(default_factory=list)
    evaluations: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)
    failed: bool = False
    memory: list[Tensor | None] = field(default_factory=lambda: [None] * REMEMBERED)
    added: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        self.move = self.plan.span.start
        self.questions = self.questions_at(self.move)

    @property
    def done(self) -> bool:
        return self.move == self.plan.span.stop

    @property
    def open(self) -> tuple:
        """The questions of the present move that have no answer yet."""
        return self.questions[len(self.answers) :]

    def questions_at(self, move: int) -> tuple:
        """What the model is asked at a move; nothing after the last."""
        return () if move == self.plan.span.stop else self.plan.questions(move)

    @property
    def left(self) -> list[Tensor]:
        """What leaves the device with it: its state, those that were asked for, and what others need to go on."""
        memory = [tensor for tensor in self.memory if tensor is not None] if self.plan.hands_over else []
        return [self.x, *self.states.values(), *memory]

    def finished(self, left: Sequence[Tensor]) -> Finished:
        """left: as of `left`, on the host."""
        image, *rest = left
        tensors = iter(rest)
        states = {move: next(tensors) for move in self.states}
        hands_over = self.plan.hands_over
        memory = tuple(None if own is None else next(tensors) for own in self.memory) if hands_over else ()
        return Finished(self.tag, image, self.evaluations, time.perf_counter() - self.since, states, memory)

    def stands_at(self, x: Tensor, memory: list[Tensor | None], questions: tuple) -> None:
        """The move is made; the next one's questions are open."""
        self.x, self.memory = x, memory
        if self.move in self.plan.keep:
            self.states[self.move] = x
        self.move += 1
        self.questions, self.answers = questions, []
