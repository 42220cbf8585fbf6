"""The engine: step-level continuous batching of many rows through one model.

A pass holds `capacity` evaluations and always has that shape. The engine takes the next questions of its rows, oldest
row first, whatever task they belong to and whatever time they stand at; when the last question of a row's move is
answered, the row takes its step together with all the others that do. A row whose questions straddle the end of a pass
waits for the next one with the answers it has, so no place stays empty for want of a row that fits.

Why a row's picture is the same to the bit whatever its neighbours: the pass has one shape, so the model computes each
sample alike; all other arithmetic is elementwise, per-plane or per-sample; and its noise depends on the row alone.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.plans import Plan, start_state
from darkroom.sampling.processes import Column, Process
from darkroom.sampling.reduction import Answers, combine, constrain, group


class Predictor(Protocol):
    """A model as the engine sees it."""

    process: Process
    device: torch.device

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        """One packed evaluation.

        x float32 [B, C (+ C of the low-resolution picture), H, W]; timestep [B], int64 for discrete diffusion and
        float32 for flow matching; condition [B, ...], the rows' prompt embeddings or labels; noise_level int64 [B].
        Returns float32 [B, C, H, W], or [B, 2C, H, W] where the process has a learned variance.
        """
        ...


@dataclass(frozen=True, eq=False)
class Finished:
    """A developed row: image float32 [C, H, W] (not clamped), what it cost, and the states that were asked for."""

    tag: Any
    image: Tensor
    evaluations: int
    seconds: float
    states: dict[int, Tensor]


@dataclass
class Statistics:
    """What the engine has done; `slot_use` is the share of evaluations that were some row's question."""

    passes: int = 0
    evaluations: int = 0
    slots: int = 0
    model_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def slot_use(self) -> float:
        return self.evaluations / self.slots if self.slots else 0.0


@dataclass(eq=False)
class _Walker:
    """A row under way: where it stands, and the answers it has towards its next step."""

    tag: Any
    plan: Plan
    coefficients: Tensor
    x: Tensor
    anchor: Tensor
    since: float
    move: int = 0
    questions: tuple = ()
    answers: list[Tensor] = field(default_factory=list)
    evaluations: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ask()

    @property
    def done(self) -> bool:
        return self.move == len(self.plan.moves)

    @property
    def open(self) -> tuple:
        """The questions of the present move that have no answer yet."""
        return self.questions[len(self.answers) :]

    def stands_at(self, x: Tensor, anchor: Tensor) -> None:
        """The move is made; the next one's questions are open."""
        self.x, self.anchor = x, anchor
        if self.move in self.plan.keep:
            self.states[self.move] = x.cpu()
        self.move += 1
        self._ask()

    def _ask(self) -> None:
        self.questions, self.answers = () if self.done else self.plan.questions(self.move), []


class Engine:
    """Keeps `capacity` evaluations per pass full. `add` rows at any time; `advance` makes one pass."""

    def __init__(self, predictor: Predictor, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 evaluation per pass; got {capacity}")
        self.predictor, self.capacity = predictor, capacity
        self.statistics = Statistics()
        self._waiting: deque[tuple[Any, Plan]] = deque()
        self._walkers: list[_Walker] = []

    def add(self, plan: Plan, tag: Any = None) -> None:
        """Queues a row; `tag` comes back with its picture."""
        self._waiting.append((tag, plan))

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._walkers

    @torch.inference_mode()
    def advance(self) -> list[Finished]:
        """One pass: admits rows, asks the model `capacity` questions, steps every row whose questions are answered.

        Returns the rows that finished. Does nothing when idle.
        """
        began = time.perf_counter()
        finished = self._admit()
        asked = self._choose()
        if asked:
            self._answer(asked)
            self._step([walker for walker in self._walkers if not walker.open])
        finished += [walker for walker in self._walkers if walker.done]
        self._walkers = [walker for walker in self._walkers if not walker.done]
        results = [self._finish(walker) for walker in finished]
        self.statistics.total_seconds += time.perf_counter() - began
        return results

    def run(self) -> list[Finished]:
        """Advances until every row is done; for tests, benchmarks and scripts."""
        results = []
        while not self.idle:
            results += self.advance()
        return results

    def _admit(self) -> list[_Walker]:
        """Starts waiting rows until a pass can be filled; returns those that have no move to make at all."""
        finished = []
        open_questions = sum(len(walker.open) for walker in self._walkers)
        while self._waiting and open_questions < self.capacity:
            walker = self._start(*self._waiting.popleft())
            if walker.done:
                finished.append(walker)
                continue
            self._walkers.append(walker)
            open_questions += len(walker.open)
        return finished

    def _start(self, tag: Any, plan: Plan) -> _Walker:
        process, device = self.predictor.process, self.predictor.device
        x = start_state(plan, process)
        coefficients = process.coefficients(plan.moves, plan.sampler, plan.eta)
        return _Walker(tag, plan, coefficients, x.to(device), torch.zeros_like(x, device=device), time.perf_counter())

    def _choose(self) -> list[tuple[_Walker, tuple]]:
        """The questions of the next pass, oldest row first."""
        chosen: list[tuple[_Walker, tuple]] = []
        for walker in self._walkers:
            for question in walker.open:
                if len(chosen) == self.capacity:
                    return chosen
                chosen.append((walker, question))
        return chosen

    def _answer(self, asked: list[tuple[_Walker, tuple]]) -> None:
        """One forward pass; its answers go to the rows that asked."""
        inputs = self._pack(asked)
        began = time.perf_counter()
        output = self.predictor(*inputs)
        if output.device.type == "cuda":
            torch.cuda.synchronize(output.device)
        self.statistics.model_seconds += time.perf_counter() - began
        for slot, (walker, _) in enumerate(asked):
            walker.answers.append(output[slot])
            walker.evaluations += 1
        self.statistics.passes += 1
        self.statistics.evaluations += len(asked)
        self.statistics.slots += self.capacity

    def _pack(self, asked: list[tuple[_Walker, tuple]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The pass's inputs, padded with empty places to the one shape."""
        x = torch.stack([_seen(walker) for walker, _ in asked])
        for view, slots in group(view for _, (view, _) in asked).items():
            if view.name != "identity":
                x[slots] = view.apply(x[slots])
        condition = torch.stack([walker.plan.conditions[key] for walker, (_, key) in asked])
        times = torch.tensor([walker.plan.moves[walker.move].model_time for walker, _ in asked])
        levels = torch.tensor([walker.plan.noise_level for walker, _ in asked])
        packed = (x, times, condition, levels)
        return tuple(_padded(part, self.capacity).to(self.predictor.device) for part in packed)

    def _step(self, walkers: list[_Walker]) -> None:
        """One vectorised step for all rows that have their answers, then any way back up the schedule."""
        if not walkers:
            return
        prediction, variance = combine([_to_answers(walker) for walker in walkers], self.predictor.process)
        self._move(walkers, prediction, variance)
        while walkers := [w for w in walkers if not w.done and not w.plan.moves[w.move].asks]:
            self._move(walkers, None, None)

    def _move(self, walkers: list[_Walker], prediction: Tensor | None, variance: Tensor | None) -> None:
        x = torch.stack([walker.x for walker in walkers])
        anchor = torch.stack([walker.anchor for walker in walkers])
        lines = torch.stack([walker.coefficients[walker.move] for walker in walkers])
        if prediction is None:  # the way back up asks nothing; its coefficients ignore these
            prediction = variance = torch.zeros_like(x)
        drawn = _draw(walkers, noise.STEP, Column.NOISE)
        x, anchor = self.predictor.process.step(x, anchor, prediction, variance, lines.to(x.device), drawn)
        held = [i for i, walker in enumerate(walkers) if walker.plan.constraint is not None]
        if held:
            holders = [walkers[i] for i in held]
            levels = lines[held][:, [Column.SIGNAL_NEXT, Column.NOISE_NEXT]].to(x.device)
            known = _draw(holders, noise.KNOWN, Column.NOISE_NEXT)
            x[held] = constrain(x[held], [w.plan.constraint for w in holders], levels, known)
        for i, walker in enumerate(walkers):
            walker.stands_at(x[i], anchor[i])

    def _finish(self, walker: _Walker) -> Finished:
        seconds = time.perf_counter() - walker.since
        return Finished(walker.tag, walker.x.cpu(), walker.evaluations, seconds, walker.states)


def _seen(walker: _Walker) -> Tensor:
    """What the model sees before any view: the state, with the low-resolution picture's channels where there is one."""
    if walker.plan.low_res is None:
        return walker.x
    return torch.cat([walker.x, walker.plan.low_res.to(walker.x.device)])


def _padded(part: Tensor, capacity: int) -> Tensor:
    if len(part) == capacity:
        return part
    return torch.cat([part, part.new_zeros(capacity - len(part), *part.shape[1:])])


def _to_answers(walker: _Walker) -> Answers:
    plan = walker.plan
    return Answers(plan.active(walker.move), walker.questions, walker.answers, plan.guidance)


def _draw(walkers: list[_Walker], stream: int, amount: Column) -> Tensor:
    """Each row's own noise for its move, [R, C, H, W]; zeros, undrawn, where the move's amount of it is zero."""
    drawn = torch.zeros(len(walkers), *walkers[0].plan.shape)
    for place, walker in enumerate(walkers):
        if walker.coefficients[walker.move, amount] != 0:
            plan = walker.plan
            drawn[place] = torch.from_numpy(noise.normal(plan.seed, plan.stage, stream, walker.move, plan.shape))
    return drawn.to(walkers[0].x.device)
