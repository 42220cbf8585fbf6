"""What a job tells Ray's Prometheus endpoint, beside what Ray tells itself; cluster/grafana/darkroom.json draws both.

Counters wherever a rate or a share is wanted: slot use is rate(evaluations) / rate(slots), right over any window and
over any choice of workers. Ray forgets a gauge two export intervals (20 s) after it was last set, so gauges are asked
for by last_over_time. Recording costs microseconds, in this process alone; where nothing collects, it ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

from ray.util import metrics


@dataclass(frozen=True)
class Described:
    """A metric as Prometheus is to know it."""

    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[str, ...]

    def exported(self, name: str) -> str:
        """Its name on the endpoint."""
        return f"ray_{name}_total" if self.kind == "counter" else f"ray_{name}"


METRICS = {
    "darkroom_rows_committed": Described("counter", "Rows committed to the run, failed ones too", ("run",)),
    "darkroom_rows_failed": Described("counter", "Rows committed as failed, by what failed", ("run", "cause")),
    "darkroom_rows_left": Described("gauge", "Rows of this job that are not committed yet", ("run",)),
    "darkroom_prompts_embedded": Described("counter", "Prompts that a text encoder has encoded", ("run", "encoder")),
    "darkroom_evaluations": Described("counter", "Model evaluations that some row asked for", ("run", "stage")),
    "darkroom_slots": Described("counter", "Places in passes, those filled up with nothing too", ("run", "stage")),
    "darkroom_busy_seconds": Described("counter", "Seconds that engines spent in passes", ("run", "stage")),
    "darkroom_units_in_flight": Described("gauge", "Units that a stage's worker is at", ("run", "stage")),
    "darkroom_rows_waiting": Described("gauge", "Rows that a stage's worker has not begun yet", ("run", "stage")),
    "darkroom_training_images": Described("counter", "Training images that went into steps", ("run",)),
    "darkroom_training_loss": Described("gauge", "Training loss of the last steps", ("run",)),
}


class EngineCounts(Protocol):
    """What an engine has done since it began; `sampling.engine.Statistics` is one."""

    evaluations: int
    slots: int
    total_seconds: float


class RunMetrics:
    """Rows of one run, for the process that sees them committed. run: its uri."""

    def __init__(self, run: str, rows: int) -> None:
        self.run, self.left = run, rows
        self.show_left()

    def commit(self, ok: int, failed: Mapping[str, int]) -> None:
        """A unit is committed. failed: rows by cause, the kind of `row_state.Failure`."""
        rows = ok + sum(failed.values())
        _count("darkroom_rows_committed", rows, run=self.run)
        for cause, count in failed.items():
            _count("darkroom_rows_failed", count, run=self.run, cause=cause)
        self.left -= rows
        self.show_left()

    def show_left(self) -> None:
        """Again every few seconds, for a run that commits nothing too: it is the one that somebody is to be told of."""
        _show("darkroom_rows_left", max(0, self.left), run=self.run)


class StageMetrics:
    """One worker of one stage: `enter` with each unit, `leave` when it is done, `count` now and then."""

    def __init__(self, run: str, stage: str) -> None:
        self.labels = {"run": run, "stage": stage}
        self.units = 0
        self._told = (0, 0, 0.0)

    def enter(self, waiting: int) -> None:
        """A unit came in. waiting: rows that the engine has not begun yet."""
        self.units += 1
        self._show(waiting)

    def leave(self, waiting: int) -> None:
        """A unit went out."""
        self.units -= 1
        self._show(waiting)

    def count(self, counts: EngineCounts) -> tuple[int, float]:
        """counts: the engine's, since it began. Returns the evaluations and seconds that are new."""
        now = (counts.evaluations, counts.slots, counts.total_seconds)
        more = tuple(value - before for value, before in zip(now, self._told, strict=True))
        for name, value in zip(("darkroom_evaluations", "darkroom_slots", "darkroom_busy_seconds"), more, strict=True):
            _count(name, value, **self.labels)
        self._told = now
        return more[0], more[2]

    def _show(self, waiting: int) -> None:
        _show("darkroom_units_in_flight", self.units, **self.labels)
        _show("darkroom_rows_waiting", waiting, **self.labels)


def embedded(run: str, encoder: str, prompts: int) -> None:
    """A text encoder has encoded so many prompts."""
    _count("darkroom_prompts_embedded", prompts, run=run, encoder=encoder)


def trained(run: str, images: int, loss: float) -> None:
    """A training has taken steps: on so many images of all workers, with this mean loss."""
    _count("darkroom_training_images", images, run=run)
    _show("darkroom_training_loss", loss, run=run)


def _count(name: str, amount: float, **labels: str) -> None:
    if amount > 0:  # Ray takes nothing else
        _metric(name).inc(amount, labels)


def _show(name: str, value: float, **labels: str) -> None:
    _metric(name).set(value, labels)


@cache
def _metric(name: str) -> metrics.Counter | metrics.Gauge:
    described = METRICS[name]
    kind = metrics.Counter if described.kind == "counter" else metrics.Gauge
    return kind(name, described.text, described.labels)
