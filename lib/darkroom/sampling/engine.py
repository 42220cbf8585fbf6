"""The engine: step-level continuous batching of many rows through one model.

A pass holds `capacity` evaluations and always has that shape. The engine takes the next questions of its rows, oldest
row first, whatever task they belong to and whatever time they stand at; when the last question of a row's move is
answered, the row takes its step together with all the others that do. A row whose questions straddle the end of a pass
waits for the next one with the answers it has, so no place stays empty for want of a row that fits.

Why a row's picture is the same to the bit whatever its neighbours: the pass has one shape, so the model computes each
sample alike; all other arithmetic is elementwise, per-plane or per-sample; and its noise depends on the row alone.

On a GPU the host only puts work in line. While a pass is computed it draws the noise of the steps that follow, which
costs it milliseconds, and asks for the next pass; pictures that are done are handed out when they have arrived.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.device import Arrival, Stopwatch, placed, places, to_device
from darkroom.sampling.guidance import Answers, combine, constrain
from darkroom.sampling.packing import Packing, Slot
from darkroom.sampling.plans import Plan, start_state
from darkroom.sampling.processes import Column, Process
from darkroom.sampling.views import View


class Predictor(Protocol):
    """A model as the engine sees it."""

    process: Process
    device: torch.device

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        """One packed evaluation.

        x float32 [B, C (+ C of the low-resolution picture), H, W]; timestep [B], int64 for discrete diffusion and
        float32 for flow matching; condition [B, ...], the rows' prompt embeddings or labels; noise_level int64 [B].
        Returns float32 [B, C, H, W], or [B, 2C, H, W] where the process has a learned variance, in memory that neither
        is an input's nor is written again by a later call.
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
    lines: list[list[float]]
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
            self.states[self.move] = x
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
        self._packing, self._watch = Packing(capacity, predictor.device), Stopwatch(predictor.device)
        self._waiting: deque[tuple[Any, Plan]] = deque()
        self._walkers: list[_Walker] = []
        self._leaving: deque[tuple[_Walker, Arrival]] = deque()

    def add(self, plan: Plan, tag: Any = None) -> None:
        """Queues a row; `tag` comes back with its picture."""
        self._waiting.append((tag, plan))

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._walkers and not self._leaving

    @torch.inference_mode()
    def advance(self) -> list[Finished]:
        """One pass: admits rows, asks the model `capacity` questions, steps every row whose questions are answered.

        Returns the rows that finished; on a GPU they may come a pass later. Does nothing when idle.
        """
        began = time.perf_counter()
        done = self._admit()
        asked = self._choose()
        if asked:
            self._answer(asked)
            self._step([walker for walker in self._walkers if not walker.open])
        done += [walker for walker in self._walkers if walker.done]
        self._walkers = [walker for walker in self._walkers if not walker.done]
        self._leaving += [(walker, Arrival([walker.x, *walker.states.values()])) for walker in done]
        results = self._arrived(wait=not asked)
        self.statistics.model_seconds += self._watch.read()
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
        x = to_device(start_state(plan, process), device)
        lines = process.coefficients(plan.moves, plan.sampler, plan.eta).tolist()
        return _Walker(tag, placed(plan, device), lines, x, torch.zeros_like(x), time.perf_counter())

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
        inputs = self._packing.pack([_slot(walker, *question) for walker, question in asked])
        self._watch.start()
        output = self.predictor(*inputs)
        self._watch.stop()
        for slot, (walker, _) in enumerate(asked):
            walker.answers.append(output[slot])
            walker.evaluations += 1
        self.statistics.passes += 1
        self.statistics.evaluations += len(asked)
        self.statistics.slots += self.capacity

    def _step(self, walkers: list[_Walker]) -> None:
        """One vectorised step for all rows that have their answers, then any way back up the schedule."""
        if not walkers:
            return
        prediction, variance = combine([_to_answers(walker) for walker in walkers], self.predictor.process)
        self._move(walkers, prediction, variance)
        while walkers := [w for w in walkers if not w.done and not w.plan.moves[w.move].asks]:
            self._move(walkers, None, None)

    def _move(self, walkers: list[_Walker], prediction: Tensor | None, variance: Tensor | None) -> None:
        device = self.predictor.device
        x = torch.stack([walker.x for walker in walkers])
        anchor = torch.stack([walker.anchor for walker in walkers])
        lines = to_device(torch.tensor([walker.lines[walker.move] for walker in walkers]), device)
        if prediction is None:  # the way back up asks nothing; its coefficients ignore these
            prediction = variance = torch.zeros_like(x)
        drawn = _draw(walkers, noise.STEP, Column.NOISE, device)
        x, anchor = self.predictor.process.step(x, anchor, prediction, variance, lines, drawn)
        held = [i for i, walker in enumerate(walkers) if walker.plan.constraint is not None]
        if held:
            holders, at = [walkers[i] for i in held], places(held, device)
            levels = lines[at][:, [Column.SIGNAL_NEXT, Column.NOISE_NEXT]]
            known = _draw(holders, noise.KNOWN, Column.NOISE_NEXT, device)
            x = x.index_copy(0, at, constrain(x[at], [w.plan.constraint for w in holders], levels, known))
        for i, walker in enumerate(walkers):
            walker.stands_at(x[i], anchor[i])

    def _arrived(self, wait: bool) -> list[Finished]:
        """The rows whose pictures are on the host, in the order in which they left."""
        finished = []
        while self._leaving and (wait or self._leaving[0][1].here):
            walker, arrival = self._leaving.popleft()
            image, *states = arrival.get()
            seconds = time.perf_counter() - walker.since
            kept = dict(zip(walker.states, states, strict=True))
            finished.append(Finished(walker.tag, image, walker.evaluations, seconds, kept))
        return finished


def _slot(walker: _Walker, view: View, key: str) -> Slot:
    plan = walker.plan
    time = plan.moves[walker.move].model_time
    return Slot(walker.x, plan.low_res, view, plan.conditions[key], time, plan.noise_level)


def _to_answers(walker: _Walker) -> Answers:
    plan = walker.plan
    return Answers(plan.active(walker.move), walker.questions, walker.answers, plan.guidance)


def _draw(walkers: list[_Walker], stream: int, amount: Column, device: torch.device) -> Tensor:
    """Each row's own noise for its move, [R, C, H, W]; zeros, undrawn, where the move's amount of it is zero."""
    drawn = torch.zeros(len(walkers), *walkers[0].plan.shape)
    for place, walker in enumerate(walkers):
        if walker.lines[walker.move][amount]:
            plan = walker.plan
            drawn[place] = torch.from_numpy(noise.normal(plan.seed, plan.stage, stream, walker.move, plan.shape))
    return to_device(drawn, device)
