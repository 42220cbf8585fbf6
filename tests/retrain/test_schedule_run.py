"""What `darkroom schedule run` does at each call. Ticks are real processes, which leave a record and end as told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from darkroom.retrain import scheduler, tick_record
from darkroom.retrain.scheduler import ENVIRONMENT, TickProcess, run_due
from darkroom.storage import open_store

NIGHTLY = """\
name: nightly
out: runs
registry: registry
schedule: {{cron: "0 2 * * *", missed: {missed}, timeout_seconds: {timeout}}}
data: {{kind: mnist}}
train: {{recipe: mnist-flow-class}}
gate: {{class_accuracy: {{at_least: 0.9}}}}
"""
# The next of ends.json is how it ends, [exit code, outcome]; a negative code is a signal that kills it.
TICK = """
import json, os, sys
folder, _, tick = sys.argv[1:]
left = json.load(open(f"{folder}/ends.json"))
code, outcome = left.pop(0) if left else (0, "promoted")
json.dump(left, open(f"{folder}/ends.json", "w"))
os.makedirs(f"{folder}/runs/ticks", exist_ok=True)
record = {"id": tick, "outcome": outcome, "reason": "", "steps": {}, "rounds": []}
json.dump(record, open(f"{folder}/runs/ticks/{tick}.json", "w"))
print(tick, file=open(f"{folder}/began", "a"), flush=True)
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""
LIGHT = (sys.executable, "-I", "-S", "-c")


class Calls:
    """Calls of the scheduler over one pipeline. ends: how its ticks end, one after the other; then they end well."""

    def __init__(self, folder: Path, *ends: tuple[int, str], missed: str = "last") -> None:
        self.folder = folder
        (folder / "nightly.yaml").write_text(NIGHTLY.format(missed=missed, timeout=60))
        (folder / "ends.json").write_text(json.dumps(ends))
        self.said: list[str] = []

    def at(self, moment: str) -> tuple[int, list[int]]:
        """(exit code, days of the ticks that were run) of a call at this time of November."""
        (self.folder / "began").write_text("")
        now = datetime.fromisoformat(f"2026-11-{moment}Z")
        command = [*LIGHT, TICK, str(self.folder)]
        code = run_due(str(self.folder / "nightly.yaml"), self.said.append, now, command)
        return code, [int(tick[6:8]) for tick in (self.folder / "began").read_text().split()]


def test_a_tick_is_run_once_by_whichever_call_comes_first(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    found = [calls.at(moment) for moment in ("20T12:00", "20T13:00", "21T01:59", "21T02:00", "21T03:00")]
    assert found == [(0, [20]), (0, []), (0, []), (0, [21]), (0, [])]
    first, second = calls.said[:2]
    assert first.endswith("Z schedule: tick 20261120T020000Z begins")
    assert second.endswith("Z schedule: tick 20261120T020000Z ended with exit code 0")


@pytest.mark.parametrize(("missed", "made_up"), [("last", [20]), ("all", [18, 19, 20]), ("none", [])])
def test_a_call_after_a_pause_makes_up_for_what_the_policy_says(tmp_path: Path, missed: str, made_up: list) -> None:
    tick_record.fresh(open_store(str(tmp_path / "runs")), "20261117T020000Z").end("refused")
    assert Calls(tmp_path, missed=missed).at("20T12:00") == (0, made_up)


def test_a_tick_of_a_time_to_come_does_not_stop_the_schedule(tmp_path: Path) -> None:
    """As a clock that was wrong once leaves it."""
    tick_record.fresh(open_store(str(tmp_path / "runs")), "20281120T020000Z").end("refused")
    calls = Calls(tmp_path, missed="all")
    assert [calls.at(moment) for moment in ("20T12:00", "20T13:00", "22T02:00")] == [(0, [20]), (0, []), (0, [21, 22])]


def test_what_the_environment_ended_is_tried_again_at_the_next_call(tmp_path: Path) -> None:
    """3, as every crash is, and a signal."""
    calls = Calls(tmp_path, (3, ""), (-signal.SIGKILL, ""))
    found = [calls.at(moment) for moment in ("20T02:00", "20T03:00", "20T04:00", "20T05:00")]
    assert found == [(3, [20]), (-signal.SIGKILL, [20]), (0, [20]), (0, [])]
    assert calls.said[3].endswith("tick 20261120T020000Z ended with signal SIGKILL")


@pytest.mark.parametrize(("code", "outcome"), [(1, "failed"), (2, "failed"), (1, "rolled_back"), (1, "promoted")])
def test_what_finished_with_failures_is_left_to_a_person(tmp_path: Path, code: int, outcome: str) -> None:
    """1: it diverged, its model was rolled back, or rows of its data set failed; 2: its input is wrong."""
    calls = Calls(tmp_path, (code, outcome))
    found = [calls.at(moment) for moment in ("20T02:00", "20T03:00", "21T02:00")]
    assert found == [(code, [20]), (0, []), (0, [21])]


def test_a_later_tick_does_not_overtake_one_that_may_go_on(tmp_path: Path) -> None:
    tick_record.fresh(open_store(str(tmp_path / "runs")), "20261118T020000Z").end("refused")
    calls = Calls(tmp_path, (3, ""), missed="all")
    assert [calls.at(moment) for moment in ("20T12:00", "20T13:00")] == [(3, [19]), (0, [19, 20])]


def test_without_a_schedule_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    file = tmp_path / "nightly.yaml"
    file.write_text("\n".join(line for line in file.read_text().split("\n") if "schedule" not in line))
    with pytest.raises(ValueError, match="the pipeline nightly has no 'schedule'"):
        calls.at("20T12:00")


# A tick that says when it has begun, and ends as it likes when it is told.
POLITE = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {begun}; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {begun}; time.sleep(600)"


def child(program: str, begun: Path) -> list[str]:
    return [*LIGHT, program.format(begun=f"open({str(begun)!r}, 'w').close()")]


@pytest.mark.parametrize("program", [POLITE, STUBBORN])
def test_a_tick_that_hangs_is_ended_so_that_the_next_night_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(scheduler, "GRACE_SECONDS", 1.0)
    (tmp_path / "nightly.yaml").write_text(NIGHTLY.format(missed="last", timeout=2))
    said: list[str] = []
    now, command = datetime.fromisoformat("2026-11-20T02:00Z"), child(program, tmp_path / "begun")
    assert run_due(str(tmp_path / "nightly.yaml"), said.append, now, command) == ENVIRONMENT
    assert "tick 20261120T020000Z still ran after 2 seconds, the timeout_seconds of its schedule" in said[1]
    assert Calls(tmp_path).at("20T03:00") == (0, [20]), "it goes on"
    assert Calls(tmp_path).at("21T02:00") == (0, [21])


def wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("program", "signals", "code"), [(POLITE, 1, 7), (STUBBORN, 2, -signal.SIGKILL)])
def test_a_signal_is_passed_to_the_tick_and_a_second_kills_it(
    tmp_path: Path, program: str, signals: int, code: int
) -> None:
    (tmp_path / "nightly.yaml").write_text(NIGHTLY.format(missed="last", timeout=600))
    begun, before = tmp_path / "begun", signal.getsignal(signal.SIGTERM)

    def tell() -> None:
        wait_for(begun.exists)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # two at once are one

    teller, said = threading.Thread(target=tell), []
    teller.start()
    now = datetime.fromisoformat("2026-11-20T02:00Z")
    assert run_due(str(tmp_path / "nightly.yaml"), said.append, now, child(program, begun)) == code
    teller.join()
    assert said[-1].endswith(", as this was told to stop") and signal.getsignal(signal.SIGTERM) == before


def test_a_signal_before_the_tick_has_begun_is_not_lost(tmp_path: Path) -> None:
    tick = TickProcess(child(POLITE, tmp_path / "begun"), 600, print)
    tick.pass_on(signal.SIGTERM)
    assert tick("20261120T020000Z") in (7, -signal.SIGTERM)


def test_the_command_runs_the_real_job_and_ends_as_it_did(tmp_path: Path) -> None:
    """Its data is not there. A second call, in the spelling of old crontabs, leaves what failed to a person."""
    file = tmp_path / "nightly.yaml"
    text = NIGHTLY.format(missed="last", timeout=600)
    file.write_text(text.replace("{kind: mnist}", f"{{kind: idx, source: {tmp_path}/absent}}"))
    command = [sys.executable, "-m", "darkroom.jobs.schedule", "run", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2 and "darkroom: no data under" in done.stderr
    (record,) = tick_record.records(open_store(str(tmp_path / "runs")))
    assert record.outcome == "failed" and f"tick {record.id} ended with exit code 2" in done.stderr
    again = subprocess.run([*command, "--once"], capture_output=True, text=True, env=environment, timeout=300)
    assert (again.returncode, again.stderr) == (0, "")
