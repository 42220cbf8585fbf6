"""Rows whose states have other shapes, that ask other control networks or have more adapters do not share a pass: an
engine for each kind, all of one model on one device."""

from __future__ import annotations

import math
from typing import Any

from darkroom.sampling.engine import Engine, Failed, Finished, Predictor, Statistics
from darkroom.sampling.plans import Kind, Plan
from darkroom.sampling.stage import Shape


def count_of(shape: Shape, count: int, usual: Shape | None) -> int:
    """How many states of a shape go where `count` of the usual one do: of larger ones fewer, at least one."""
    return max(1, min(count, count * math.prod(usual or shape) // math.prod(shape)))


class Buckets:
    """As an `Engine`, of plans of any shapes; tags are hashable, and other for each row.

    capacity: evaluations a pass of states of `shape`, and of smaller ones; None: of the first plan's. Passes of larger
    states have as many fewer as these are larger, at least one: what fits a device is about so many numbers.
    """

    def __init__(self, predictor: Predictor, capacity: int, shape: Shape | None = None) -> None:
        self.predictor, self.capacity, self.shape = predictor, capacity, shape
        self.statistics = Statistics()
        self._engines: dict[Kind, Engine] = {}
        self._under_way: dict[Any, Kind] = {}  # in the order in which they came

    def capacity_of(self, shape: Shape) -> int:
        """Evaluations a pass of states of a shape."""
        return count_of(shape, self.capacity, self.shape)

    def predictor_of(self, plan: Plan) -> Predictor:
        """What answers for a plan."""
        return self.predictor.controlled(plan.nets) if plan.nets else self.predictor

    def add(self, plan: Plan, tag: Any = None) -> None:
        """Queues a row; `tag` comes back with its picture."""
        if self.shape is None:
            self.shape = plan.shape
        kind = plan.kind
        if kind not in self._engines:
            engine = self._engines[kind] = Engine(self.predictor_of(plan), self.capacity_of(plan.shape))
            engine.statistics = self.statistics
        self._under_way[tag] = kind
        self._engines[kind].add(plan, tag)

    def moves_made(self, tag: Any) -> int | None:
        """By a row that is under way; None of any other. Other threads may ask."""
        kind = self._under_way.get(tag)
        return None if kind is None else self._engines[kind].moves_made(tag)

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
        return self._engines[next(iter(self._under_way.values()))]

    def abandon(self) -> None:
        """Its rows will not be taken further."""
        for engine in self._engines.values():
            engine.abandon()

    def advance(self) -> list[Finished | Failed]:
        """A pass of the engine whose row has waited longest. See `Engine.advance`. Where what that row wants is held by
        rows of other engines, those go on meanwhile, and none of theirs begins."""
        if self.idle:
            return []
        results = self._oldest.advance()
        if self._oldest.is_blocked and not results:
            results = [result for engine in self._engines.values() for result in engine.advance(admits=False)]
        for result in results:
            del self._under_way[result.tag]
        return results
