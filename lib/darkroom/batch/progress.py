"""Seeing that a job goes on: what each stage is at, a true progress line, and an end to silence.

Ray Data does not fail a starved pipeline by itself: an actor that was killed, or that holds the only processor while
the readers wait, prints the same progress for ever. What shows that a job goes on is evaluations of the model, which a
healthy one makes every few seconds, and not commits, of which the first may take an hour.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from darkroom.phases import plural

PROMPTS = "prompts"  # what encoding them is called among the stages
LOADING = 6  # times as long: weights are downloaded, read, compiled
STANDSTILL = 3  # times the limit: workers show that they live, or are replaced, and nothing is made
SECONDS_BETWEEN_LINES = 10  # where no terminal redraws a bar
BAR = 30  # characters


class Stalled(RuntimeError):
    """Nothing was committed for a long multiple of the expected time; says which stage waits for what."""


class TooManyFailed(RuntimeError):
    """More rows failed than the job was allowed to lose."""


class News(NamedTuple):
    """What a counter has heard. lines: (seconds ago, sentence) of what workers began with, since the last asking;
    evaluations: of the stages; work: these and prompts encoded; signs: grows whenever a worker shows that it lives;
    loading: some worker is not ready yet."""

    lines: list[tuple[float, str]]
    evaluations: int
    work: int
    signs: int
    loading: bool


@dataclass
class StageCount:
    """Units that went into and came out of a stage, model evaluations (or prompts encoded), the seconds its workers
    were busy, summed; workers that began to load, and those that are ready."""

    entered: int = 0
    left: int = 0
    evaluations: int = 0
    busy: float = 0.0
    begun: int = 0
    ready: int = 0
    last: float = field(default_factory=time.monotonic)


class JobCounter:
    """Counts per stage. Lives in an actor of its own; stages tell it, the driver asks it."""

    def __init__(self, stages: list[str]) -> None:
        self.stages = {name: StageCount() for name in stages}
        self._signs = 0
        self._said: dict[str, float] = {}
        self._prompts: str | None = None

    def load(self, stage: str) -> None:
        """A worker began to load."""
        self._hear(stage).begun += 1

    def begin(self, stage: str, what: str) -> None:
        """A worker is at something that comes before its first unit. It is said once for a stage, not for each."""
        self._hear(stage)
        self._said.setdefault(f"{stage}: {what}", time.monotonic())

    def ready(self, stage: str, what: str) -> None:
        """A worker has loaded."""
        count = self._hear(stage)
        count.ready += 1
        if count.ready == 1:
            self._said[f"{stage}: ready{what}"] = time.monotonic()

    def enter(self, stage: str) -> None:
        self._hear(stage).entered += 1

    def evaluated(self, stage: str, evaluations: int, busy: float) -> None:
        """More model evaluations are done, and more seconds gone."""
        count = self._hear(stage)
        count.evaluations += evaluations
        count.busy += busy

    def leave(self, stage: str) -> None:
        self._hear(stage).left += 1

    def end_prompts(self, problem: str = "") -> None:
        """All prompts have their embeddings, or never will, for this reason."""
        self._prompts = problem

    def prompts(self) -> str | None:
        """None as long as rows may not ask for the embeddings of their prompts, "" when they may; else why they never
        will."""
        return self._prompts

    def news(self, known: int) -> News:
        """What was heard. known: how many lines the asker has."""
        now = time.monotonic()
        lines = [(now - when, line) for line, when in list(self._said.items())[known:]]
        work = sum(one.evaluations for one in self.stages.values())
        prompts = self.stages[PROMPTS].evaluations if PROMPTS in self.stages else 0
        loading = any(one.begun > one.ready for one in self.stages.values())
        return News(lines, work - prompts, work, self._signs, loading)

    def lines(self) -> list[str]:
        """A sentence per stage, for a stalled job's message."""
        now = time.monotonic()
        return [
            f"{name}: took {plural(count.entered, 'unit')}, gave back {count.left}, {count.evaluations:,} evaluations, "
            f"last heard of {now - count.last:.0f} s ago"
            for name, count in self.stages.items()
        ]

    def busy(self) -> dict[str, float]:
        return {name: count.busy for name, count in self.stages.items()}

    def _hear(self, stage: str) -> StageCount:
        self._signs += 1
        self.stages[stage].last = time.monotonic()
        return self.stages[stage]


@contextmanager
def counted(counter: Any, stage: str) -> Iterator[None]:
    """Tells the counter, an actor, of a unit's time in a stage that does one unit after the other."""
    began = time.monotonic()
    counter.enter.remote(stage)
    yield
    counter.evaluated.remote(stage, 0, time.monotonic() - began)
    counter.leave.remote(stage)


class Watchdog:
    """Ends the wait when no worker showed that it lives for `floor` seconds or `patience` times the longest gap so far.

    Evaluations and commits show it. Before the first of them the limit is `first`: workers are found room and start;
    also after a worker was replaced. Loading and compiling show nothing while they last, so as long as some worker is
    `loading` it is LOADING times `floor` at least. Where nothing is made for STANDSTILL times the limit, it ends too.
    """

    def __init__(self, floor: float, first: float, patience: float = 20.0) -> None:
        self.floor, self.first, self.patience = floor, first, patience
        self.longest, self.beats = 0.0, 0
        self.since = self.worked = time.monotonic()
        self.loading = self.waited = False

    def beat(self) -> None:
        """Work was done."""
        now = time.monotonic()
        if self.beats and not self.loading:
            self.longest = max(self.longest, now - self.since)
        self.beats, self.since, self.worked, self.waited = self.beats + 1, now, now, False

    def wait(self) -> None:
        """A worker lives, but is not at work yet."""
        self.since, self.waited = time.monotonic(), True

    @property
    def silence(self) -> float:
        return time.monotonic() - self.since

    @property
    def standstill(self) -> float:
        return time.monotonic() - self.worked

    @property
    def limit(self) -> float:
        at_work = self.beats and not self.waited
        usual = max(self.floor, self.patience * self.longest, 0.0 if at_work else self.first)
        return max(usual, LOADING * self.floor) if self.loading else usual

    @property
    def expired(self) -> bool:
        return self.silence > self.limit or self.standstill > STANDSTILL * self.limit


class Progress:
    """What is true of the job in one line: rows committed of all to be made, rows per second, time that is left. On a
    terminal it is a bar's, below all else that is said between `with` and its end; elsewhere a line now and then.

    evaluations: that the rows are expected to take; the time that is left is theirs, as a row takes none or thousands.
    """

    def __init__(
        self,
        total: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        evaluations: int = 0,
    ) -> None:
        self.total, self.out, self.clock, self.expected = total, out or sys.stderr, clock, evaluations
        self.ok = self.failed = self.evaluations = 0
        self.first = self.printed = self.at_work = clock()
        self.before_first = self.before_work = 0
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._bar = Bar(BarColumn(BAR), text, console=Console(file=self.out), auto_refresh=False)
        self._task = self._bar.add_task(self.line(), total=total)

    def __enter__(self) -> Progress:
        if self.out.isatty():
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def add(self, ok: int, failed: int) -> None:
        """Rows were committed."""
        if not self.ok + self.failed:
            self.first, self.before_first = self.clock(), ok + failed
        self.ok, self.failed = self.ok + ok, self.failed + failed
        self._show()

    def evaluated(self, evaluations: int) -> None:
        """So many evaluations have been made."""
        if not self.evaluations:
            self.at_work, self.before_work = self.clock(), evaluations
        if evaluations > self.evaluations:
            self.evaluations = evaluations
            self._show()

    def line(self) -> str:
        """E.g. `96/480 rows committed, 3.1 rows/s, 2 min 4 s left, 1 failed`."""
        done = self.ok + self.failed
        parts = [f"{done:,}/{self.total:,} rows committed"]
        if rate := self.rate():
            parts.append(f"{rate:.3g} rows/s")
        elif self.evaluations:
            parts.append(f"{self.evaluations:,} evaluations")
        left = self._seconds_left()
        if left is not None and done < self.total:
            parts.append(f"{duration(left)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)

    def rate(self) -> float:
        """Rows per second since the first commit, which loading and warming up came before; 0 while unknown."""
        later, elapsed = self.ok + self.failed - self.before_first, self.clock() - self.first
        return later / elapsed if later and elapsed > 0 else 0.0

    def _seconds_left(self) -> float | None:
        """By evaluations where they are counted; those of a last stage that is yet to be asked are among them."""
        made, elapsed = self.evaluations - self.before_work, self.clock() - self.at_work
        if self.expected > self.evaluations and made > 0 and elapsed > 0:
            return (self.expected - self.evaluations) * elapsed / made
        rate = self.rate()
        return (self.total - self.ok - self.failed) / rate if rate else None

    def _show(self) -> None:
        done = self.ok + self.failed
        if self.out.isatty():
            self._bar.update(self._task, completed=done, description=self.line(), refresh=True)
        elif self.clock() - self.printed >= SECONDS_BETWEEN_LINES or done >= self.total:
            self.printed = self.clock()
            self.out.write(self.line() + "\n")
            self.out.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 20 s, 5 h 12 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
