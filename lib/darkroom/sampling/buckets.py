"""Rows whose states have other shapes, that ask other control networks or have more adapters do not share a pass: an
engine for each kind, all of one model on one device."""

from __future__ import annotations

import math
from typing import Any

import torch

from darkroom.sampling.engine import Engine, Failed, Finished, Predictor, Statistics
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.sampling.plans import Kind, Plan
from darkroom.sampling.stage import Shape


def count_of(shape: Shape, count: int, usual: Shape | None) -> int:
    """How many states of a shape go where `count` of the usual one do: of larger ones fewer, at least one."""
    return max(1, min(count, count * math.prod(usual or shape) // math.prod(shape)))


def is_larger(shape: Shape, usual: Shape | None) -> bool:
    """Whether states of a shape are to blame themselves where they do not fit the device."""
    return usual is not None and math.prod(shape) > math.prod(usual)


def too_large(shape: Shape, shortage: str) -> torch.OutOfMemoryError:
    """What a row of such states fails by. shortage: what the device said."""
    return torch.OutOfMemoryError(f"a state of shape {list(shape)} does not fit the device, not even alone: {shortage}")


class Buckets:
    """As an `Engine`, of plans of any shapes; tags are hashable, and other for each row.

    capacity: evaluations a pass of states of `shape`, and of smaller ones; None: of the first plan's. Passes of larger
    states have as many fewer as these are larger, at least one: what fits a device is about so many numbers. Where so
    many do not fit either, the passes of that kind alone become smaller.
    """

    def __init__(self, predictor: Predictor, capacity: int, shape: Shape | None = None) -> None:
        self.predictor, self.capacity, self.shape = predictor, capacity, shape
        self.statistics = Statistics()
        self._engines: dict[Kind, Engine] = {}
        self._under_way: dict[Any, Plan] = {}  # in the order in which they came

    def capacity_of(self, plan: Plan) -> int:
        """Evaluations a pass of the plan's kind."""
        engine = self._engines.get(plan.kind)
        return count_of(plan.shape, self.capacity, self.shape) if engine is None else engine.capacity

    def predictor_of(self, plan: Plan) -> Predictor:
        """What answers for a plan."""
        return self.predictor.controlled(plan.nets) if plan.nets else self.predictor

    def add(self, plan: Plan, tag: Any = None) -> None:
        """Queues a row; `tag` comes back with its picture."""
        if self.shape is None:
            self.shape = plan.shape
        if plan.kind not in self._engines:
            self._engines[plan.kind] = self._engine(plan, self.capacity_of(plan))
        self._under_way[tag] = plan
        self._engines[plan.kind].add(plan, tag)

    def _engine(self, plan: Plan, capacity: int) -> Engine:
        engine = Engine(self.predictor_of(plan), capacity)
        engine.statistics = self.statistics
        return engine

    def moves_made(self, tag: Any) -> int | None:
        """By a row that is under way; None of any other. Other threads may ask."""
        plan = self._under_way.get(tag)
        return None if plan is None else self._engines[plan.kind].moves_made(tag)

    @property
    def idle(self) -> bool:
        return not self._under_way

    @property
    def has_room(self) -> bool:
        """Whether the next pass would not be full."""
        return self.idle or self._oldest.has_room

    @property
    def _oldest(self) -> Engine:
        """Of the row that came first: none waits for ever."""
        return self._engines[self._oldest_kind]

    @property
    def _oldest_kind(self) -> Kind:
        return next(iter(self._under_way.values())).kind

    def withdraw(self, tag: Any) -> None:
        """A row that nobody waits for any more goes no further, and does not come back."""
        self._engines[self._under_way.pop(tag).kind].withdraw(tag)

    def abandon(self) -> None:
        """Its rows will not be taken further."""
        for engine in self._engines.values():
            engine.abandon()

    def advance(self) -> list[Finished | Failed]:
        """A pass of the engine whose row has waited longest. See `Engine.advance`. Where what that row wants is held by
        rows of other engines, those go on meanwhile, and none of theirs begins. Raises torch.OutOfMemoryError for all
        that says that memory has ended."""
        if self.idle:
            return []
        results = self._advance(self._oldest_kind)
        if self._oldest.is_blocked and not results:
            results = [result for kind in self._engines for result in self._advance(kind, admits=False)]
        for result in results:
            del self._under_way[result.tag]
        return results

    def _advance(self, kind: Kind, admits: bool = True) -> list[Finished | Failed]:
        """A pass of one engine. Where memory ends, larger rows are to blame themselves: smaller passes of the others
        would cost these, and not help those."""
        shape, *_ = kind
        try:
            with naming_out_of_memory():
                return self._engines[kind].advance(admits)
        except torch.OutOfMemoryError as error:
            if not is_larger(shape, self.shape):
                raise
            shortage = str(error)
        return self._shrink(kind, shortage)  # out here, where the error's frames no longer hold what they allocated

    def _shrink(self, kind: Kind, shortage: str) -> list[Failed]:
        """Half as many evaluations a pass of a kind; its rows begin anew. Those that do not fit alone fail."""
        engine, (shape, *_) = self._engines[kind], kind
        rows = [(tag, plan) for tag, plan in self._under_way.items() if plan.kind == kind]
        for tag, _ in rows:
            engine.withdraw(tag)
        if engine.capacity == 1:
            return [Failed(tag, too_large(shape, shortage)) for tag, _ in rows]
        smaller = self._engines[kind] = self._engine(rows[0][1], engine.capacity // 2)
        del engine
        for tag, plan in rows:
            smaller.add(plan, tag)
        getattr(self.predictor, "forget_graphs", lambda: None)()  # each holds what a pass of the former size takes
        torch.cuda.empty_cache()
        return []
