"""The engine: step-level continuous batching of many rows through one model.

A pass holds `capacity` evaluations and always has that shape. The engine takes the next questions of its rows, oldest
row first, whatever task they belong to and whatever time they stand at; when the last question of a row's move is
answered, the row takes its step together with all the others that do. A row whose questions straddle the end of a pass
waits for the next one with the answers it has, so no place stays empty for want of a row that fits.

A row that cannot be packed, asked or stepped is handed back as `Failed` and costs no other row anything: what a pass
does together is then done for each of its rows alone, which changes no bit. What is the device's fault, or the model's
own, which it shows by failing on a pass of nothing too, is raised.

Why a row's picture is the same to the bit whatever its neighbours: the pass has one shape, so the model computes each
sample alike; all other arithmetic is elementwise, per-plane or per-sample; and its noise depends on the row alone.

On a GPU the host only puts work in line. While a pass is computed it draws the noise of the steps that follow, which
costs it milliseconds, and asks for the next pass; pictures that are done are handed out when they have arrived.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.device import Arrival, Stopwatch, placed, places, to_device, told
from darkroom.sampling.guidance import Answers, added_by_guidance, combine, constrain
from darkroom.sampling.out_of_memory import is_out_of_memory
from darkroom.sampling.packing import Packing, Slot
from darkroom.sampling.plans import Plan, start_state
from darkroom.sampling.processes import Process
from darkroom.sampling.solvers import REMEMBERED, Column, reads, used_columns, writes
from darkroom.sampling.stage import FIELDS
from darkroom.sampling.views import View
from darkroom.sampling.walkers import Failed, Finished, Walker

_Item = TypeVar("_Item")
_NUMBERS = range(1, REMEMBERED + 1)  # of what a row remembers


class ModelBroken(RuntimeError):
    """The model fails whatever it is asked, which no row is to blame for."""


class Predictor(Protocol):
    """A model as the engine sees it. It may say in `fields` what it is told beside state and time, by name and in
    order; else that is FIELDS, a condition and a noise level. Where plans are controlled, `controlled(nets)` is the
    predictor that asks these networks too."""

    process: Process
    device: torch.device

    def __call__(self, x: Tensor, timestep: Tensor, *fields: Tensor) -> Tensor:
        """One packed evaluation.

        x float32 [B, C (+ channels beside the state), H, W]; timestep float32 [B], the process's own time;
        fields [B, ...]: prompt embeddings or labels float32 or int64, noise levels int64, and others; of plans that
        are controlled float32 [B, K + 1] after them, see `Control.shares`.
        Returns float32 [B, C, H, W], or [B, 2C, H, W] where the process has a learned variance, in memory that neither
        is an input's nor is written again by a later call.
        """
        ...


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


class Engine:
    """Keeps `capacity` evaluations per pass full. `add` rows at any time; `advance` makes one pass."""

    def __init__(self, predictor: Predictor, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 evaluation per pass; got {capacity}")
        self.predictor, self.capacity = predictor, capacity
        self.statistics = Statistics()
        self._fields = getattr(predictor, "fields", FIELDS)
        self._packing = Packing(capacity, predictor.device, self._fields)
        self._watch = Stopwatch(predictor.device)
        self._waiting: deque[tuple[Any, Plan]] = deque()
        self._walkers: list[Walker] = []
        self._leaving: deque[tuple[Walker, Arrival]] = deque()
        self._failed: list[Failed] = []
        # Of predictors that bring to the device what a row alone has.
        self._may_begin: Callable[[Plan], bool] = getattr(predictor, "admit", lambda plan: True)
        self._release: Callable[[Plan], None] = getattr(predictor, "release", lambda plan: None)

    def add(self, plan: Plan, tag: Any = None) -> None:
        """Queues a row; `tag` comes back with its picture."""
        self._waiting.append((tag, plan))

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._walkers or self._leaving or self._failed)

    @property
    def has_room(self) -> bool:
        """Whether the next pass would not be full, as far as can be known of rows that have not begun."""
        return sum(len(walker.open) for walker in self._walkers) + len(self._waiting) < self.capacity

    @property
    def is_blocked(self) -> bool:
        """Whether rows wait that could not begin, and none is under way."""
        return bool(self._waiting) and not (self._walkers or self._leaving or self._failed)

    def moves_made(self, tag: Any) -> int | None:
        """By a row that is under way; None of any other. Other threads may ask."""
        return next((walker.move for walker in self._walkers if walker.tag is tag), None)

    def withdraw(self, tag: Any) -> None:
        """A row that nobody waits for any more goes no further, and does not come back."""
        for walker in self._walkers:
            if walker.tag is tag:
                self._release(walker.plan)
        self._waiting = deque(row for row in self._waiting if row[0] is not tag)
        self._walkers = [walker for walker in self._walkers if walker.tag is not tag]
        self._leaving = deque(leaving for leaving in self._leaving if leaving[0].tag is not tag)
        self._failed = [failed for failed in self._failed if failed.tag is not tag]

    def abandon(self) -> None:
        """Its rows will not be taken further."""
        for walker in self._walkers:
            self._release(walker.plan)

    @torch.inference_mode()
    def advance(self, admits: bool = True) -> list[Finished | Failed]:
        """One pass: admits rows, asks the model `capacity` questions, steps every row whose questions are answered.

        Returns the rows that finished or failed; on a GPU they may come a pass later. Does nothing when idle. Raises
        what says that memory has ended (`is_out_of_memory`), ModelBroken, and what a device that is lost says; the rows
        under way are lost then.
        """
        began = time.perf_counter()
        if admits:
            self._admit()
        asked = self._choose()
        if asked:
            self._each(list(asked), lambda walkers: self._answer(walkers, asked), self._drop)
            self._step([w for w in self._walkers if not (w.open or w.done or w.failed)])
        done = [walker for walker in self._walkers if walker.done and not walker.failed]
        for walker in self._walkers:
            if walker.done or walker.failed:
                self._release(walker.plan)
        self._walkers = [walker for walker in self._walkers if not walker.done and not walker.failed]
        self._leaving += [(walker, Arrival(walker.left)) for walker in done]
        results = self._arrived(wait=not asked)
        failed, self._failed = self._failed, []
        self.statistics.model_seconds += self._watch.read()
        self.statistics.total_seconds += time.perf_counter() - began
        return [*results, *failed]

    def run(self) -> list[Finished]:
        """Advances until every row is done; for tests, benchmarks and scripts. Raises what a row failed by."""
        results = []
        while not self.idle:
            for result in self.advance():
                if isinstance(result, Failed):
                    raise result.error
                results.append(result)
        return results

    def _admit(self) -> None:
        """Starts waiting rows until a pass can be filled. Where memory ends as one begins, it holds nothing."""
        while self._waiting and sum(len(walker.open) for walker in self._walkers) < self.capacity:
            tag, plan = row = self._waiting[0]
            if not self._may_begin(plan):
                break
            try:
                self._each([row], lambda rows: self._walkers.extend([self._start(*row) for row in rows]), self._refuse)
            except Exception:
                self._release(plan)
                raise
            self._waiting.popleft()

    def _refuse(self, row: tuple[Any, Plan], error: Exception) -> None:
        tag, plan = row
        self._release(plan)
        self._failed.append(Failed(tag, error))

    def _start(self, tag: Any, plan: Plan) -> Walker:
        process, device = self.predictor.process, self.predictor.device
        handed = plan.handed
        x = to_device(start_state(plan, process) if handed is None else handed.x, device)
        lines = process.coefficients(plan.moves, plan.sampler, plan.eta)
        fields = told(plan, self._fields, device)
        walker = Walker(tag, placed(plan, device), lines.numpy(), used_columns(lines), x, fields, time.perf_counter())
        if handed is not None and handed.memory:
            walker.memory = [None if own is None else to_device(own, device) for own in handed.memory]
        return walker

    def _each(
        self, items: Sequence[_Item], act: Callable[[Sequence[_Item]], None], fail: Callable[[_Item, Exception], None]
    ) -> None:
        """act(items); where that fails, act on each alone, and `fail` those for which it fails again. act does all that
        it does to its items, or nothing."""
        try:
            act(items)
            return
        except Exception as error:
            if _is_nobodys(error):
                raise
            alone = error.with_traceback(None)  # whose frames hold what a pass allocated
        if len(items) == 1:
            return fail(items[0], alone)
        for item in items:
            self._each([item], act, fail)

    def _drop(self, walker: Walker, error: Exception) -> None:
        walker.failed = True
        self._failed.append(Failed(walker.tag, error, walker.evaluations, time.perf_counter() - walker.since))

    def _choose(self) -> dict[Walker, tuple]:
        """The questions of the next pass by who asks them, oldest row first."""
        chosen: list[tuple[Walker, tuple]] = []
        for walker in self._walkers:
            chosen += [(walker, question) for question in walker.open[: self.capacity - len(chosen)]]
        return {walker: tuple(q for _, q in pairs) for walker, pairs in groupby(chosen, lambda pair: pair[0])}

    def _answer(self, walkers: Sequence[Walker], asked: dict[Walker, tuple]) -> None:
        """One forward pass; its answers go to the rows that asked."""
        askers = [walker for walker in walkers for _ in asked[walker]]
        slots = [_slot(walker, *question) for walker in walkers for question in asked[walker]]
        output = self._ask(self._packing.pack(slots))
        for slot, walker in enumerate(askers):
            walker.answers.append(output[slot])
            walker.evaluations += 1
        self.statistics.passes += 1
        self.statistics.evaluations += len(slots)
        self.statistics.slots += self.capacity

    def _ask(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The model's answer. ModelBroken where it fails on a pass of nothing too."""
        self._watch.start()
        try:
            return self.predictor(*inputs)
        except Exception as error:
            if not _is_nobodys(error) and not self._answers_nothing(inputs):
                raise ModelBroken(f"{type(error).__name__}: {error}") from error
            raise
        finally:
            self._watch.stop()

    def _answers_nothing(self, inputs: tuple[Tensor, ...]) -> bool:
        try:
            self.predictor(*map(torch.zeros_like, inputs))
        except Exception as error:
            if _is_nobodys(error):
                raise
            return False
        return True

    def _step(self, walkers: list[Walker]) -> None:
        """One vectorised step for all rows that have their answers, then any way back up the schedule."""
        if walkers:
            self._each(walkers, self._move_on, self._drop)
        while walkers := [w for w in walkers if not w.failed and not w.done and not w.plan.moves[w.move].asks]:
            self._each(walkers, lambda back: self._move(back, None, None), self._drop)

    def _move_on(self, walkers: Sequence[Walker]) -> None:
        self._move(walkers, *combine([_to_answers(walker) for walker in walkers], self.predictor.process))

    def _move(self, walkers: Sequence[Walker], prediction: Tensor | None, variance: Tensor | None) -> None:
        device = self.predictor.device
        used = frozenset().union(*(walker.used for walker in walkers))
        x = torch.stack([walker.x for walker in walkers])
        memory = [_remembered(walkers, number, x) if reads(used, number) else None for number in _NUMBERS]
        lines = to_device(torch.from_numpy(np.stack([walker.lines[walker.move] for walker in walkers])), device)
        if prediction is None:  # the way back up asks nothing; its coefficients ignore these
            prediction = variance = torch.zeros_like(x)
        drawn = _draw(walkers, noise.STEP, Column.NOISE, device) if Column.NOISE in used else None
        x, memory = self.predictor.process.step(x, memory, prediction, variance, lines, drawn, used)
        held = [i for i, walker in enumerate(walkers) if walker.plan.constraint is not None]
        if held:
            holders, at = [walkers[i] for i in held], places(held, device)
            levels = lines[at][:, [Column.SIGNAL_NEXT, Column.NOISE_NEXT]]
            known = _draw(holders, noise.KNOWN, Column.NOISE_NEXT, device)
            x = x.index_copy(0, at, constrain(x[at], [w.plan.constraint for w in holders], levels, known))
        questions = [walker.questions_at(walker.move + 1) for walker in walkers]
        for i, walker in enumerate(walkers):  # nothing in here fails, as `_each` asks
            own = [
                None if whole is None or not writes(walker.used, number) else whole[i]
                for number, whole in zip(_NUMBERS, memory, strict=True)
            ]
            walker.stands_at(x[i], own, questions[i])

    def _arrived(self, wait: bool) -> list[Finished]:
        """The rows whose pictures are on the host, in the order in which they left."""
        finished = []
        while self._leaving and (wait or self._leaving[0][1].here):
            walker, arrival = self._leaving.popleft()
            finished.append(walker.finished(arrival.get()))
        return finished


def _is_nobodys(error: Exception) -> bool:
    """Whether no row is to blame: memory, a lost device, after which nothing works any more, a model that is broken."""
    return isinstance(error, ModelBroken) or is_out_of_memory(error) or str(error).startswith("CUDA error")


def _slot(walker: Walker, view: View, key: str) -> Slot:
    plan = walker.plan
    shares = () if plan.control is None else plan.control.shares(walker.move, key)
    return Slot(walker.x, plan.extra, view, plan.moves[walker.move].model_time, walker.told[key], shares)


def _remembered(walkers: Sequence[Walker], number: int, like: Tensor) -> Tensor:
    """The rows' remembered tensors of this number, [R, C, H, W]; zeros for a row that has none."""
    own = [walker.memory[number - 1] for walker in walkers]
    none = torch.zeros_like(like[0])
    return torch.stack([none if tensor is None else tensor for tensor in own])


def _to_answers(walker: Walker) -> Answers:
    plan, move = walker.plan, walker.move
    answers = Answers(
        plan.active(move), walker.questions, walker.answers, plan.guidance_at(move), plan.guidance_rescale
    )
    if move in plan.reused:
        return replace(answers, added=walker.added)
    if plan.reused and move not in plan.unguided:
        walker.added = added_by_guidance(answers)
    return answers


def _draw(walkers: Sequence[Walker], stream: int, amount: Column, device: torch.device) -> Tensor:
    """Each row's own noise for its move, [R, C, H, W]; zeros, undrawn, where the move's amount of it is zero."""
    drawn = torch.zeros(len(walkers), *walkers[0].plan.shape)
    for place, walker in enumerate(walkers):
        plan = walker.plan
        holds = stream == noise.KNOWN and plan.constraint.noise is not None  # its own, at all times
        if walker.lines[walker.move, amount] and not holds:
            drawn[place] = torch.from_numpy(noise.normal(plan.seed, plan.stage, stream, walker.move, plan.shape))
    return to_device(drawn, device)
