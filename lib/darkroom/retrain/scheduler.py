"""Which ticks of a pipeline are due, and running them, each as a process of its own that has a deadline.

Cron, systemd or another clock calls `darkroom schedule run` every hour or so. What is due is told by the file's
schedule and by the records of ticks in storage; nothing is kept here. A tick that did not end (exit code 3: the
environment failed; a signal; its time was up) is due again at the next call. One that failed by its input or its
numbers is left to a person, who runs `darkroom retrain PIPELINE --tick ID`, or to the next tick.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType

from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.schema import Pipeline
from darkroom.retrain.tick_record import last_over, load
from darkroom.retrain.times import due, read_tick, tick_id
from darkroom.storage import Store, open_store

DONE, ENVIRONMENT = 0, 3  # a job's exit codes
GRACE_SECONDS = 60.0  # from SIGTERM to SIGKILL, for a tick whose time is up


def due_ticks(pipeline: Pipeline, tick: str | None = None, now: datetime | None = None) -> list[datetime]:
    """The times of the ticks to run now, in order. tick: this one and no other; without it, or a schedule, the present
    moment is a tick's.

    Raises ValueError for a tick that is no time, StorageError.
    """
    if tick is not None:
        return [read_tick(tick)]
    now = now or datetime.now(UTC)
    schedule = pipeline.schedule
    if schedule is None:
        return [now.replace(microsecond=0)]
    last = last_over(open_store(pipeline.out), now)
    return due(schedule.cron, schedule.time_zone, schedule.missed, schedule.deadline_seconds, last, now)


class TickProcess:
    """Runs ticks, one at a time, as processes: command, --tick, the id. told: a signal came, so begin no other."""

    def __init__(self, command: Sequence[str], seconds: float, say: Callable[[str], None]) -> None:
        self.command, self.seconds, self.say, self.told = command, seconds, say, False
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, tick: str) -> int:
        """Its exit code, ENVIRONMENT if its time was up; that of a process killed by a signal is negative."""
        # In a group of its own: Ctrl-C in a terminal reaches the whole group, and the tick is told by us.
        self._child = child = subprocess.Popen([*self.command, "--tick", tick], process_group=0)
        if self.told:  # the signal came before there was anybody to pass it to
            child.terminate()
        try:
            return child.wait(self.seconds)
        except subprocess.TimeoutExpired:
            self.say(
                f"tick {tick} still ran after {self.seconds:,.0f} seconds, the timeout_seconds of its schedule, and is "
                "ended; it goes on when it is run again"
            )
            _end(child)
            return ENVIRONMENT

    def pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """A signal's handler: the first is passed to the tick, which is waited for; the second kills it."""
        again, self.told = self.told, True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL if again else number)


def run_due(
    uri: str, say: Callable[[str], None], now: datetime | None = None, command: Sequence[str] | None = None
) -> int:
    """Runs what is due of the pipeline file at `uri`, for the main thread of a process. Each line for `say` begins with
    the time; command: what runs a tick, in place of `darkroom retrain`.

    Returns the exit code of the first tick that failed, after which none is begun, else 0. ValueError, StorageError.
    """
    pipeline = read_pipeline(uri)
    if pipeline.schedule is None:
        raise ValueError(f"the pipeline {pipeline.name} has no 'schedule', which says when it is due")

    def stamped(line: str) -> None:
        say(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} schedule: {line}")

    command = command or [sys.executable, "-m", "darkroom.jobs.retrain", uri]
    ticks, store = TickProcess(command, pipeline.schedule.timeout_seconds, stamped), open_store(pipeline.out)
    with _signals_to(ticks):
        for tick in map(tick_id, due_ticks(pipeline, now=now)):
            if ticks.told or _has_failed(store, tick):
                continue
            stamped(f"tick {tick} begins")
            code = ticks(tick)
            stamped(f"tick {tick} ended with {_in_words(code)}{', as this was told to stop' if ticks.told else ''}")
            if code != DONE:
                return code
    return DONE


@contextmanager
def _signals_to(ticks: TickProcess) -> Iterator[None]:
    before = {number: signal.signal(number, ticks.pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):  # its group too: what it started must not hold on to a GPU
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _has_failed(store: Store, tick: str) -> bool:
    record = load(store, tick)
    return record is not None and record.outcome == "failed"


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
