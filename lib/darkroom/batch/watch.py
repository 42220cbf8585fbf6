"""Seeing that a job goes on: what each stage is at, a true progress line, and an end to silence.

Ray Data does not fail a starved pipeline by itself: an actor that was killed, or that holds the only processor while
the readers wait, prints the same progress for ever.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

SECONDS_BETWEEN_LINES = 10  # where no terminal redraws a bar


@dataclass
class StageCount:
    """Units that went into and came out of a stage, and the seconds its workers were busy, summed."""

    entered: int = 0
    left: int = 0
    busy: float = 0.0
    last: float = field(default_factory=time.monotonic)


class Counter:
    """Counts per stage. Lives in an actor of its own; stages tell it, the driver asks it."""

    def __init__(self, stages: list[str]) -> None:
        self.stages = {name: StageCount() for name in stages}

    def enter(self, stage: str) -> None:
        self.stages[stage].entered += 1
        self.stages[stage].last = time.monotonic()

    def leave(self, stage: str, busy: float) -> None:
        count = self.stages[stage]
        count.left += 1
        count.busy += busy
        count.last = time.monotonic()

    def lines(self) -> list[str]:
        """A sentence per stage, for a stalled job's message."""
        now = time.monotonic()
        return [
            f"{name}: took {count.entered} units, gave back {count.left}, last heard of {now - count.last:.0f} s ago"
            for name, count in self.stages.items()
        ]

    def busy(self) -> dict[str, float]:
        return {name: count.busy for name, count in self.stages.items()}


class Watchdog:
    """Ends the wait when no unit was committed for `floor` seconds or `patience` times the longest gap so far.

    The first gap also holds the loading of models, so it alone gets `first` seconds.
    """

    def __init__(self, floor: float, first: float, patience: float = 20.0) -> None:
        self.floor, self.first, self.patience = floor, first, patience
        self.longest, self.beats, self.since = 0.0, 0, time.monotonic()

    def beat(self) -> None:
        """A unit was committed."""
        now = time.monotonic()
        if self.beats:
            self.longest = max(self.longest, now - self.since)
        self.beats, self.since = self.beats + 1, now

    @property
    def silence(self) -> float:
        return time.monotonic() - self.since

    @property
    def limit(self) -> float:
        return max(self.floor, self.patience * self.longest) if self.beats else max(self.first, self.floor)

    @property
    def expired(self) -> bool:
        return self.silence > self.limit


class Progress:
    """One line that is true: rows committed of all to be made, rows per second, time that is left."""

    def __init__(self, total: int, out: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.out, self.clock = total, out, clock
        self.ok = self.failed = 0
        self.began = self.first = self.printed = clock()
        self.before_first = 0
        self._lock = threading.Lock()

    def add(self, ok: int, failed: int) -> None:
        with self._lock:
            if not self.ok + self.failed:
                self.first, self.before_first = self.clock(), ok + failed
            self.ok, self.failed = self.ok + ok, self.failed + failed
            self._show()

    def line(self) -> str:
        """E.g. `96/480 rows committed, 3.1 rows/s, 2 min 4 s left, 1 failed`."""
        done = self.ok + self.failed
        parts = [f"{done:,}/{self.total:,} rows committed"]
        rate = self.rate()
        if rate:
            parts.append(f"{rate:.3g} rows/s")
            if done < self.total:
                parts.append(f"{duration((self.total - done) / rate)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)

    def rate(self) -> float:
        """Rows per second since the first commit, which loading and warming up came before; 0 while unknown."""
        later, elapsed = self.ok + self.failed - self.before_first, self.clock() - self.first
        return later / elapsed if later and elapsed > 0 else 0.0

    def _show(self) -> None:
        done = self.ok + self.failed
        if self.out.isatty():
            width = 30
            filled = width * done // max(self.total, 1)
            self.out.write(f"\r\x1b[K[{'#' * filled}{'.' * (width - filled)}] {self.line()}")
            self.out.write("\n" if done >= self.total else "")
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
