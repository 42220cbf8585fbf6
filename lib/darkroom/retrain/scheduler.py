"""A small scheduler in the foreground: when a tick is due it runs as a process of its own, and the scheduler goes on
whatever becomes of it.

What is due it finds from the records of ticks in storage, at its start too, so it keeps nothing itself. A tick that
could not be ended (the environment failed, the process was killed) is tried again a few times; one that failed by its
input or its numbers is left to a person, who runs `darkroom retrain PIPELINE --tick ID`, or to the next tick.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import FrameType

from darkroom.retrain.due import due_ticks
from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.schema import Pipeline, Schedule
from darkroom.retrain.tick_record import load
from darkroom.retrain.times import fires_after, tick_id
from darkroom.storage import StorageError, Store, open_store

DONE, WRONG_INPUT = 0, 2  # a job's exit codes
TRIES = 3
RETRY = timedelta(minutes=5)
_LOOK_SECONDS = 60.0  # it sleeps no longer at once: a clock may be set, or the machine suspended


class Stop:
    """Becomes set by a signal. A pipe, because a handler that sets a threading.Event can meet the lock it holds."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        os.write(self._write, b"x")

    def wait(self, seconds: float = 0.0) -> bool:
        """Waits so long at most; whether it is set."""
        return bool(select.select([self._read], [], [], seconds)[0])


class TickProcess:
    """Runs ticks, one at a time, as processes: command, --tick, the id."""

    def __init__(self, command: list[str], stop: Stop) -> None:
        self.command, self.stop = command, stop
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, tick: str) -> int:
        """Its exit code; that of a process killed by a signal is negative."""
        # In a group of its own: Ctrl-C in a terminal reaches the whole group, and the tick is told by us.
        self._child = subprocess.Popen([*self.command, "--tick", tick], process_group=0)
        if self.stop.wait():  # the signal came before there was anybody to pass it to
            self._child.terminate()
        code = self._child.wait()
        self._child = None
        return code

    def end(self, number: int, frame: FrameType | None = None) -> None:
        """A signal's handler: the first is passed to the tick, which is waited for; the second kills it."""
        again = self.stop.wait()
        self.stop.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL if again else number)


@dataclass
class Scheduler:
    """read: the pipeline, which is read anew before each round of ticks; wait: seconds at most, True to stop."""

    read: Callable[[], Pipeline]
    run_tick: Callable[[str], int]
    now: Callable[[], datetime]
    wait: Callable[[float], bool]
    say: Callable[[str], None]
    _last_read: tuple[Pipeline, Schedule] | None = None
    _tries: Counter[datetime] = field(default_factory=Counter)

    def once(self) -> int:
        """Runs what is due. The exit code of the first tick that failed, else 0. ValueError, StorageError."""
        pipeline, _ = self._read()
        for moment in self._due(pipeline):
            if self.wait(0):
                break
            if (code := self._run(moment)) != DONE:
                return code
        return DONE

    def forever(self) -> None:
        """Until it is told to stop. ValueError if the pipeline cannot be read at the start; later that is said."""
        _, schedule = self._read()
        self.say(f"{schedule.cron!r} in {schedule.time_zone}, missed ticks: {schedule.missed}")
        while True:
            wake = self._round()
            if not self.wait(0):
                self.say(f"waits until {wake:%Y-%m-%dT%H:%M:%SZ}")
            if self._sleep_until(wake):
                self.say("ends")
                return

    def _round(self) -> datetime:
        """Runs what is due, and says when to look again."""
        try:
            pipeline, schedule = self._read()
        except (ValueError, StorageError) as error:
            self.say(f"goes on with the pipeline as it was: {error}")
            assert self._last_read is not None, "it was read at the start"
            pipeline, schedule = self._last_read
        try:
            for moment in self._due(pipeline):
                if self.wait(0) or _may_go_on(self._run(moment)):
                    break  # the next tick would end it for good
            again = bool(self._due(pipeline))
        except StorageError as error:
            self.say(f"does not know which ticks are over: {error}")
            again = True
        following = next(fires_after(schedule.cron, schedule.time_zone, self.now()))
        return min(following, self.now() + RETRY) if again else following

    def _due(self, pipeline: Pipeline) -> list[datetime]:
        store = open_store(pipeline.out)
        moments = [moment for moment in due_ticks(pipeline, now=self.now()) if self._tries[moment] < TRIES]
        return [moment for moment in moments if not _has_failed(store, moment)]

    def _run(self, moment: datetime) -> int:
        tick = tick_id(moment)
        self.say(f"tick {tick} begins")
        code = self.run_tick(tick)
        stopped = self.wait(0)
        self._tries[moment] += 1 if code == DONE or _may_go_on(code) else TRIES
        self.say(f"tick {tick} ended with {_told(code)}{', as this was told to stop' if stopped else ''}")
        return code

    def _read(self) -> tuple[Pipeline, Schedule]:
        pipeline = self.read()
        if pipeline.schedule is None:
            raise ValueError(f"the pipeline {pipeline.name} has no 'schedule', which says when it is due")
        self._last_read = pipeline, pipeline.schedule
        return self._last_read

    def _sleep_until(self, moment: datetime) -> bool:
        while (left := (moment - self.now()).total_seconds()) > 0:
            if self.wait(min(left, _LOOK_SECONDS)):
                return True
        return self.wait(0)


def keep(uri: str, once: bool, say: Callable[[str], None]) -> int:
    """Keeps the schedule of the pipeline file at `uri` until SIGTERM or Ctrl-C; once: runs what is due, and ends.

    For the main thread of a process. Returns 0, or how the tick ended that was run once; each line for `say` begins
    with the time. ValueError, StorageError.
    """
    stop = Stop()
    ticks = TickProcess([sys.executable, "-m", "darkroom.jobs.retrain", uri], stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ticks.end)

    def stamped(line: str) -> None:
        say(f"{_now():%Y-%m-%dT%H:%M:%SZ} schedule: {line}")

    scheduler = Scheduler(lambda: read_pipeline(uri), ticks, _now, stop.wait, stamped)
    if once:
        return scheduler.once()
    scheduler.forever()
    return DONE


def _now() -> datetime:
    return datetime.now(UTC)


def _has_failed(store: Store, moment: datetime) -> bool:
    record = load(store, tick_id(moment))
    return record is not None and record.outcome == "failed"


def _may_go_on(code: int) -> bool:
    """The environment failed, or a signal ended it; else the tick has an outcome that another try would not change."""
    return code < DONE or code > WRONG_INPUT


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
