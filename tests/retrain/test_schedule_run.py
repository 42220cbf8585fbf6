"""The scheduler, by a clock that the test moves; and real processes of ticks, told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from darkroom.retrain import tick_record
from darkroom.retrain.pipeline_file import read_pipeline
from darkroom.retrain.scheduler import TRIES, Scheduler, Stop, TickProcess
from darkroom.retrain.schema import Pipeline
from darkroom.storage import StorageError, open_store

NIGHTLY = """\
name: nightly
out: runs
registry: registry
schedule: {{cron: "0 2 * * *", time_zone: {zone}, missed: {missed}}}
data: {{kind: mnist}}
train: {{recipe: mnist-flow-class}}
gate: {{class_accuracy: {{at_least: 0.9}}}}
"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-{text}Z")


class Nights:
    """A scheduler whose clock is here. codes: how the ticks end, one after the other; then they end well."""

    def __init__(self, folder: Path, start: str, end: str, missed: str = "last", codes: tuple[int, ...] = ()) -> None:
        self.file = folder / "nightly.yaml"
        self.file.write_text(NIGHTLY.format(zone="UTC", missed=missed))
        self.time, self.end, self.codes = at(start), at(end), list(codes)
        self.ticks: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.scheduler = Scheduler(self.read, self.run, lambda: self.time, self.wait, self.said.append)

    def read(self) -> Pipeline:
        return read_pipeline(str(self.file))

    def run(self, tick: str) -> int:
        """A tick of ten minutes, and the record that it leaves."""
        self.ticks.append((f"{self.time:%d %H:%M}", tick))
        self.time += timedelta(minutes=10)
        code = self.codes.pop(0) if self.codes else 0
        record = tick_record.fresh(open_store(str(self.file.parent / "runs")), tick)
        if code == 0:
            record.end("promoted")
        elif code == 1:
            record.end("failed")  # as a training that diverged; a file that cannot be read leaves no record
        else:
            record.save()
        return code

    def wait(self, seconds: float) -> bool:
        """As `Stop.wait`: told to stop at the end."""
        self.time += timedelta(seconds=seconds)
        return self.time >= self.end

    def forever(self) -> list[tuple[str, str]]:
        self.scheduler.forever()
        return self.ticks


def test_each_night_has_its_tick(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T12:00", "23T12:00")
    assert nights.forever() == [
        ("20 12:00", "20261120T020000Z"),  # the last that was due, as nothing was ever run
        ("21 02:00", "20261121T020000Z"),
        ("22 02:00", "20261122T020000Z"),
        ("23 02:00", "20261123T020000Z"),
    ]
    assert nights.said[0] == "'0 2 * * *' in UTC, missed ticks: last"
    assert nights.said[1:4] == [
        "tick 20261120T020000Z begins",
        "tick 20261120T020000Z ended with exit code 0",
        "waits until 2026-11-21T02:00:00Z",
    ]


@pytest.mark.parametrize(("missed", "made_up"), [("last", [20]), ("all", [18, 19, 20]), ("none", [])])
def test_a_start_after_a_pause_makes_up_for_what_the_policy_says(tmp_path: Path, missed: str, made_up: list) -> None:
    tick_record.fresh(open_store(str(tmp_path / "runs")), "20261117T020000Z").end("refused")
    nights = Nights(tmp_path, "20T12:00", "20T20:00", missed)
    assert [tick for _, tick in nights.forever()] == [f"202611{day}T020000Z" for day in made_up]


def test_a_tick_that_died_is_tried_again(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T02:00", "20T20:00", codes=(3, -9))
    assert nights.forever() == [(f"20 02:{minute:02}", "20261120T020000Z") for minute in (0, 15, 30)]
    assert "tick 20261120T020000Z ended with signal SIGKILL" in nights.said


def test_a_tick_that_never_lives_is_given_up(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T02:00", "21T01:00", codes=(3,) * 9)
    assert len(nights.forever()) == TRIES
    assert nights.said[-2:] == ["waits until 2026-11-21T02:00:00Z", "ends"]


@pytest.mark.parametrize("code", [1, 2])
def test_a_tick_that_failed_by_itself_is_not_tried_again(tmp_path: Path, code: int) -> None:
    nights = Nights(tmp_path, "20T02:00", "21T12:00", codes=(code,))
    assert nights.forever() == [("20 02:00", "20261120T020000Z"), ("21 02:00", "20261121T020000Z")]


def test_a_failed_tick_is_not_tried_again_by_another_scheduler(tmp_path: Path) -> None:
    assert Nights(tmp_path, "20T12:00", "30T12:00", codes=(1,)).scheduler.once() == 1
    assert Nights(tmp_path, "20T13:00", "21T01:00").forever() == []


def test_a_later_tick_does_not_overtake_one_that_may_go_on(tmp_path: Path) -> None:
    tick_record.fresh(open_store(str(tmp_path / "runs")), "20261118T020000Z").end("refused")
    nights = Nights(tmp_path, "20T12:00", "20T20:00", "all", codes=(3,))
    assert nights.forever() == [
        ("20 12:00", "20261119T020000Z"),
        ("20 12:15", "20261119T020000Z"),
        ("20 12:25", "20261120T020000Z"),
    ]


def test_the_file_may_change_and_break(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T02:00", "23T12:00")
    run = nights.run

    def changing(tick: str) -> int:
        text = nights.file.read_text()
        nights.file.write_text(text.replace("0 2 *", "0 99 *") if tick.startswith("20261120") else text)
        return run(tick)

    nights.scheduler.run_tick = changing
    assert [began for began, _ in nights.forever()] == [f"{day} 02:00" for day in (20, 21, 22, 23)]
    (line,) = {line for line in nights.said if line.startswith("goes on with the pipeline as it was")}
    assert "line 4: schedule.cron: '0 99 * * *' is no cron line: bad hour" in line


def test_an_outage_of_storage_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.retrain import due

    answers = iter([StorageError("no bucket"), StorageError("no bucket")])

    def last_over(store: object) -> datetime | None:
        if (error := next(answers, None)) is not None:
            raise error
        return tick_record.last_over(store)  # type: ignore[arg-type]

    monkeypatch.setattr(due, "last_over", last_over)
    nights = Nights(tmp_path, "20T02:00", "20T20:00")
    assert nights.forever() == [("20 02:10", "20261120T020000Z")]
    assert nights.said[1] == "does not know which ticks are over: no bucket"


def test_once_runs_what_is_due_and_ends_as_it_did(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T12:00", "30T12:00", codes=(2,))
    assert [nights.scheduler.once() for _ in range(2)] == [2, 0] and len(nights.ticks) == 1
    nights.time = at("21T02:00")
    assert [nights.scheduler.once() for _ in range(2)] == [0, 0] and len(nights.ticks) == 2


def test_told_to_stop_it_begins_no_tick(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T12:00", "20T12:00")
    assert nights.scheduler.once() == 0 and nights.forever() == [] and nights.said[-1] == "ends"


def test_without_a_schedule_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "20T12:00", "30T12:00")
    nights.file.write_text("\n".join(line for line in nights.file.read_text().split("\n") if "schedule" not in line))
    with pytest.raises(ValueError, match="the pipeline nightly has no 'schedule'"):
        nights.scheduler.forever()


# A tick that says when it has begun, and ends as it likes when it is told.
POLITE = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {begun}; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {begun}; time.sleep(60)"


def child(program: str, begun: Path) -> list[str]:
    return [sys.executable, "-c", program.format(begun=f"open({str(begun)!r}, 'w').close()")]


def wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("program", "signals", "code"), [(POLITE, 1, 7), (STUBBORN, 2, -signal.SIGKILL)])
def test_a_signal_is_passed_to_the_tick_and_a_second_kills_it(
    tmp_path: Path, program: str, signals: int, code: int
) -> None:
    stop, begun = Stop(), tmp_path / "begun"
    tick = TickProcess(child(program, begun), stop)

    def tell() -> None:
        wait_for(begun.exists)
        for _ in range(signals):
            tick.end(signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    assert tick("20261120T020000Z") == code and stop.wait()
    teller.join()


def test_a_signal_before_the_tick_has_begun_is_not_lost(tmp_path: Path) -> None:
    stop = Stop()
    tick = TickProcess(child(POLITE, tmp_path / "begun"), stop)
    tick.end(signal.SIGTERM)
    assert tick("20261120T020000Z") in (7, -signal.SIGTERM)


def test_the_command_runs_a_tick_waits_and_ends_at_a_signal(tmp_path: Path) -> None:
    """The real one and the real job, whose data is not there."""
    file = tmp_path / "nightly.yaml"
    text = NIGHTLY.format(zone="UTC", missed="last")
    file.write_text(text.replace("{kind: mnist}", f"{{kind: idx, source: {tmp_path}/absent}}"))
    command = [sys.executable, "-m", "darkroom.jobs.schedule", "run", str(file)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert running.stderr is not None
    lines: list[str] = []
    while not lines or "waits until" not in lines[-1]:
        lines.append(running.stderr.readline())
        assert lines[-1], lines
    assert "'0 2 * * *' in UTC, missed ticks: last" in lines[0]
    assert any("darkroom: no data under" in line for line in lines) and "ended with exit code 2" in lines[-2]
    (record,) = tick_record.records(open_store(str(tmp_path / "runs")))
    assert record.outcome == "failed" and f"tick {record.id} begins" in lines[1]
    running.send_signal(signal.SIGTERM)
    assert "ends" in running.stderr.read() and running.wait(60) == 0
