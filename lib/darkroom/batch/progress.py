"""Seeing that a job goes on: what each stage is at, a true progress line, and an end to silence.

Ray Data does not fail a starved pipeline by itself: an actor that was killed, or that holds the only processor while
the readers wait, prints the same progress for ever. What shows that a job goes on is evaluations of the model, which a
healthy one makes every few seconds, and not commits, of which the first may take an hour.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from darkroom import phases
from darkroom.phases import duration, plural

PROMPTS = "prompts"  # what encoding them is called among the stages
LOADING = 6  # times as long: weights are downloaded, read, compiled
STANDSTILL = 3  # times the limit: workers show that they live, or are replaced, and nothing is made
SECONDS_BETWEEN_LINES = 10  # where no terminal redraws a bar
SILENCE = 5  # seconds, before there is anything to count
WINDOW, SHORTEST_WINDOW = 30.0, 5.0  # seconds of work that the time which is left is told by
BAR, LEAST_BAR = 30, 4  # characters


class Stalled(RuntimeError):
    """Nothing was committed for a long multiple of the expected time; says which stage waits for what."""


class TooManyFailed(RuntimeError):
    """More rows failed than the job was allowed to lose."""


class News(NamedTuple):
    """What a counter has heard. lines: (seconds ago, sentence) of what workers began with, since the last asking;
    evaluations: of the stages; work: these and prompts encoded; signs: grows whenever a worker shows that it lives;
    loading: some worker is not ready yet; by_stage: evaluations of each."""

    lines: list[tuple[float, str]]
    evaluations: int
    work: int
    signs: int
    loading: bool
    by_stage: dict[str, int]


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
        by_stage = {name: one.evaluations for name, one in self.stages.items()}
        return News(lines, work - prompts, work, self._signs, loading, by_stage)

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
    """What is true of the job, in one line: its phase until rows are made; then rows committed of all to be made, rows
    per second, time that is left. On a terminal it is a bar's, from the first moment, below all else that is said
    between `with` and its end; elsewhere a line now and then: never is there silence for longer than SILENCE seconds
    before the first evaluation, and SECONDS_BETWEEN_LINES after it.

    expected: the work that the rows will take, see `evaluated`; 0: not known. The time that is left is by what was done
    of it in the last WINDOW seconds: the first ones, while passes fill up and nothing is enlarged yet, say little.
    """

    def __init__(
        self, total: int | None = None, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.out, self.clock = total, out or _own_stderr(), clock
        self.expected = 0.0
        self.ok = self.failed = self.evaluations = 0
        self.first = self.printed = clock()
        self.before_first = 0
        self._all_said = False  # that all rows are committed
        self._work = deque[tuple[float, float]]()
        self._console = Console(file=self.out)
        self._column = BarColumn(BAR)
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._bar = Bar(self._column, text, console=self._console, auto_refresh=False)
        self._task = self._bar.add_task("", total=total)
        self._ended = threading.Event()
        self._depth = 0

    def begin(self, total: int) -> None:
        """So many rows are to be made; whatever was counted before is another job's."""
        self.total, self.expected = total, 0.0
        self.ok = self.failed = self.evaluations = 0
        self._all_said = False
        self._work.clear()
        self.show()

    def __enter__(self) -> Progress:
        self._depth += 1
        if self._depth == 1:
            if self.out.isatty():
                self._bar.start()
                self.show()
            threading.Thread(target=self._ticks, name="screen", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._ended.set()
        self._bar.update(self._task, visible=self.total is not None)
        self._bar.stop()

    def add(self, ok: int, failed: int) -> None:
        """Rows were committed."""
        if not self.ok + self.failed:
            self.first, self.before_first = self.clock(), ok + failed
        self.ok, self.failed = self.ok + ok, self.failed + failed
        self.show()

    def evaluated(self, evaluations: int, work: float | None = None) -> None:
        """So many evaluations have been made. work: the same in a unit that a stage's evaluation of any size has a like
        share of, as floating point operations are; None: each is one."""
        if evaluations > self.evaluations:
            self.evaluations = evaluations
            self._work.append((self.clock(), float(evaluations if work is None else work)))
            while len(self._work) > 2 and self._work[1][0] <= self.clock() - WINDOW:
                self._work.popleft()
            self.show()

    def line(self) -> str:
        """E.g. `96/480 rows committed, 3.1 rows/s, 2 min 4 s left, 1 failed`; before that `starting Ray, 4 s`."""
        done = self.ok + self.failed
        parts = [] if self.total is None else [f"{done:,}/{self.total:,} rows committed"]
        if rate := self.rate():
            parts.append(f"{rate:.3g} rows/s")
        elif self.evaluations:
            parts.append(f"{self.evaluations:,} evaluations")
        elif not done and phases.current:
            parts.append(self._phase())
        left = self._seconds_left()
        if left is not None and done < (self.total or 0):
            parts.append(f"{duration(left)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)

    def _phase(self) -> str:
        return f"{phases.current}, {duration(self.clock() - phases.current_since)}"

    def rate(self) -> float:
        """Rows per second since the first commit, which loading and warming up came before; 0 while unknown."""
        later, elapsed = self.ok + self.failed - self.before_first, self.clock() - self.first
        return later / elapsed if later and elapsed > 0 else 0.0

    def _seconds_left(self) -> float | None:
        """By work where it is counted; that of a last stage which is yet to be asked is among it."""
        if self._work and self.expected > self._work[-1][1]:
            (since, before), (_, now) = self._work[0], self._work[-1]
            elapsed = self.clock() - since
            enough = now > before and elapsed >= SHORTEST_WINDOW
            return (self.expected - now) * elapsed / (now - before) if enough else None
        rate = self.rate()
        return ((self.total or 0) - self.ok - self.failed) / rate if rate else None

    def show(self) -> None:
        """Draws the bar anew; elsewhere says the line if it is time to, and once when all is done."""
        done, line = self.ok + self.failed, self.line()
        if self.out.isatty():
            self._column.bar_width = max(LEAST_BAR, min(BAR, self._console.width - len(line) - 1))
            self._bar.update(self._task, completed=done, total=self.total, description=line, refresh=True)
        elif (self.evaluations or done) and not self._all_said:
            self._all_said = done == self.total
            if self._all_said or self._silence() >= SECONDS_BETWEEN_LINES:
                self._print(line)

    def tick(self) -> None:
        """Shows that time passes, where nobody else does; to be called about once a second."""
        if (
            not self.out.isatty()
            and not (self.evaluations or self.ok)
            and phases.current
            and self._silence() >= SILENCE
        ):
            self._print(f"{self.clock() - phases.BEGAN:7.1f} s  still {self._phase()}")
        else:
            self.show()

    def _ticks(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()

    def _silence(self) -> float:
        return self.clock() - max(self.printed, phases.current_since)

    def _print(self, line: str) -> None:
        self.printed = self.clock()
        self.out.write(f"{line}\n")
        self.out.flush()


def _own_stderr() -> TextIO:
    """Where people look. Of its own: while Ray starts, what its C++ side says on file 2 goes nowhere."""
    if sys.stderr is not sys.__stderr__:  # a notebook's, a test's
        return sys.stderr
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    except (OSError, ValueError, AttributeError):  # there is none, or it is closed
        return sys.stderr
