from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from darkroom import phases
from darkroom.batch import progress as progress_module
from darkroom.batch.progress import PROMPTS, JobCounter, Progress, Watchdog


class Clock:
    """Time that passes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    monkeypatch.setattr(phases, "current", "")
    monkeypatch.setattr(phases, "current_since", 0.0)
    monkeypatch.setattr(phases, "BEGAN", 0.0)
    return clock


def test_the_first_wait_is_longer_because_models_load(clock: Clock) -> None:
    dog = Watchdog(floor=10, first=60)
    clock.now = 60
    assert not dog.expired
    clock.now = 61
    assert dog.expired


def test_later_waits_are_held_against_the_longest_gap(clock: Clock) -> None:
    dog = Watchdog(floor=10, first=60, patience=20)
    clock.now = 50
    dog.beat()
    assert dog.limit == 10, "the first gap held the loading of models and says nothing"
    clock.now = 53
    dog.beat()
    assert dog.limit == 60
    clock.now = 113.5
    assert dog.expired and dog.silence == 60.5


def test_a_first_limit_below_the_floor_is_the_floor(clock: Clock) -> None:
    assert Watchdog(floor=10, first=1).limit == 10


def test_the_counter_says_where_units_stand(clock: Clock) -> None:
    counter = JobCounter(["prepare", "stage 1"])
    for stage in counter.stages.values():
        stage.last = clock.now
    counter.enter("prepare")
    counter.enter("prepare")
    clock.now = 4
    counter.evaluated("prepare", 0, 1.5)
    counter.leave("prepare")
    counter.evaluated("stage 1", 1200, 3.0)
    clock.now = 10
    assert counter.lines() == [
        "prepare: took 2 units, gave back 1, 0 evaluations, last heard of 6 s ago",
        "stage 1: took 0 units, gave back 0, 1,200 evaluations, last heard of 6 s ago",
    ]
    assert counter.busy() == {"prepare": 1.5, "stage 1": 3.0}


def test_what_workers_begin_with_is_said_once_a_stage_and_how_long_ago(clock: Clock) -> None:
    counter = JobCounter([PROMPTS, "stage 1", "stage 2"])
    assert counter.news(0)[:5] == ([], 0, 0, 0, False)
    for stage in ("stage 1", "stage 1", "stage 2"):  # two workers of stage 1
        counter.load(stage)
        counter.begin(stage, "loading")
        clock.now += 1
    counter.ready("stage 1", " in 9.0 s")
    news = counter.news(0)
    assert news.lines == [(3, "stage 1: loading"), (1, "stage 2: loading"), (0, "stage 1: ready in 9.0 s")]
    assert news.loading and news.signs == 7
    counter.ready("stage 1", " in 9.5 s")
    counter.ready("stage 2", " in 4.0 s")
    counter.evaluated("stage 2", 32, 0.5)
    counter.evaluated(PROMPTS, 16, 0.5)
    news = counter.news(3)
    assert [line for _, line in news.lines] == ["stage 2: ready in 4.0 s"]
    assert (news.evaluations, news.work, news.loading) == (32, 48, False)
    assert news.by_stage == {PROMPTS: 16, "stage 1": 0, "stage 2": 32}


def test_loading_has_longer_whenever_it_comes(clock: Clock) -> None:
    dog = Watchdog(floor=10, first=20)
    dog.beat()
    dog.loading = True  # a worker that was lost is replaced
    clock.now = 50
    dog.wait()
    clock.now = 100
    assert not dog.expired and (dog.silence, dog.limit) == (50, 60)
    dog.beat()
    dog.loading = False
    assert dog.limit == 10, "its silence says nothing of how long a pass takes"


def progress(clock: Clock, total: int | None, terminal: bool = False) -> tuple[Progress, Any]:
    out = io.StringIO()
    out.isatty = lambda: terminal
    return Progress(total, out, clock), out


def test_the_line_counts_and_estimates_from_the_first_commit_on(clock: Clock) -> None:
    shown, _ = progress(clock, 480)
    assert shown.line() == "0/480 rows committed"
    clock.now = 100  # loading
    shown.add(16, 0)
    assert shown.line() == "16/480 rows committed"
    clock.now = 110
    shown.add(30, 2)
    assert shown.rate() == 3.2
    assert shown.line() == "48/480 rows committed, 3.2 rows/s, 2 min 15 s left, 2 failed"


def test_what_is_left_is_told_by_the_work_of_the_last_seconds(clock: Clock) -> None:
    """Stage I's evaluations cost 1, stage II's 5; 1,000 of each are to be made, of the first at first."""
    shown, out = progress(clock, 100)
    shown.expected = 6000
    clock.now = 60  # loading
    shown.evaluated(100, 100)
    clock.now = 62
    shown.evaluated(500, 500)
    assert shown.line() == "0/100 rows committed, 500 evaluations", "too little was seen to tell"
    clock.now = 70
    shown.evaluated(1000, 1000)
    assert shown.line() == "0/100 rows committed, 1,000 evaluations, 56 s left"
    for clock.now in range(71, 111):  # from here on half as fast, as it is stage II's turn
        shown.evaluated(1000 + (clock.now - 70) * 10, 1000 + (clock.now - 70) * 50)
    assert shown.line() == "0/100 rows committed, 1,400 evaluations, 1 min 0 s left", "30 s ago is forgotten"
    shown.add(90, 10)
    assert shown.line() == "100/100 rows committed, 1,400 evaluations, 10 failed"
    assert out.getvalue().splitlines()[0].startswith("0/100 rows committed, 100 evaluations")


def test_until_there_is_something_to_count_the_phase_is_shown(clock: Clock) -> None:
    shown, _ = progress(clock, None)
    clock.now = 3
    phases.phase(lambda line: None, "reading the manifest")
    clock.now = 7
    assert shown.line() == "reading the manifest, 4 s"
    shown.begin(480)
    phases.phase(lambda line: None, "starting Ray")
    clock.now = 12
    assert shown.line() == "0/480 rows committed, starting Ray, 5 s"
    shown.add(16, 0)
    assert shown.line() == "16/480 rows committed"


def test_a_phase_that_lasts_is_not_silent(clock: Clock) -> None:
    shown, out = progress(clock, None)
    phases.phase(lambda line: None, "starting Ray")
    for clock.now in range(1, 13):
        shown.tick()
    assert out.getvalue().splitlines() == [
        "    5.0 s  still starting Ray, 5 s",
        "   10.0 s  still starting Ray, 10 s",
    ]
    shown.begin(4)
    shown.evaluated(32)
    out.truncate(0)
    for clock.now in range(13, 25):
        shown.tick()
    assert out.getvalue().strip("\0").splitlines() == ["0/4 rows committed, 32 evaluations"]


def test_that_all_is_done_is_said_once(clock: Clock) -> None:
    shown, out = progress(clock, 4)
    shown.evaluated(32)
    shown.add(4, 0)
    for clock.now in range(1, 25):  # while the page is drawn
        shown.tick()
    assert out.getvalue().splitlines() == ["4/4 rows committed, 32 evaluations"]


def test_all_at_once_has_no_rate(clock: Clock) -> None:
    shown, _ = progress(clock, 8)
    shown.add(8, 0)
    assert (shown.rate(), shown.line()) == (0.0, "8/8 rows committed")


def test_elsewhere_than_on_a_terminal_lines_are_few(clock: Clock) -> None:
    shown, out = progress(clock, 100)
    for clock.now in range(1, 26):
        shown.add(4, 0)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and lines[0].startswith("40/100") and lines[-1].startswith("100/100")
    assert "\r" not in out.getvalue()


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_it_is_a_bar_below_what_is_said(
    clock: Clock, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown, out = progress(clock, None, terminal=True)
    monkeypatch.setattr(sys, "stderr", out)
    with shown:
        shown.begin(123_456)
        shown.add(100_000, 0)
        print("stage 1: ready", file=sys.stderr)
        clock.now = 3600
        shown.add(17_890, 1)
    plain = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    assert any("0/123,456 rows committed" in line for line in lines), "a bar at once"
    assert "stage 1: ready" in lines
    assert columns < 80 or lines[-1].endswith("117,891/123,456 rows committed, 4.97 rows/s, 18 min 40 s left, 1 failed")
    assert max(map(len, lines)) <= columns, "it never reaches over the terminal's edge"
    assert out.getvalue().endswith(("\n", "\x1b[?25h"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min"), (3725, "1 h 2 min"),
     (3.6e7, "10,000 h 0 min")],
)  # fmt: skip
def test_durations_as_one_says_them(seconds: float, said: str) -> None:
    assert phases.duration(seconds) == said


def test_workers_that_only_ever_begin_anew_end_the_job(clock: Clock) -> None:
    """Each that is replaced shows that it lives, and none makes anything."""
    dog = Watchdog(floor=10, first=20)
    dog.beat()
    for _ in range(5):
        clock.now += 11
        dog.wait()
        assert dog.limit == 20 and not dog.expired
    clock.now += 6
    assert dog.silence == 6 and dog.expired
