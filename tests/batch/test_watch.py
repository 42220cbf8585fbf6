from __future__ import annotations

import io
from typing import Any

import pytest

from darkroom.batch import watch
from darkroom.batch.watch import Counter, Progress, Watchdog, duration


class Clock:
    """Time that passes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch.time, "monotonic", clock)
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
    counter = Counter(["prepare", "stage 1"])
    for stage in counter.stages.values():
        stage.last = clock.now
    counter.enter("prepare")
    counter.enter("prepare")
    clock.now = 4
    counter.leave("prepare", 1.5)
    clock.now = 10
    assert counter.lines() == [
        "prepare: took 2 units, gave back 1, last heard of 6 s ago",
        "stage 1: took 0 units, gave back 0, last heard of 10 s ago",
    ]
    assert counter.busy() == {"prepare": 1.5, "stage 1": 0.0}


def progress(clock: Clock, total: int, terminal: bool = False) -> tuple[Progress, Any]:
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


def test_on_a_terminal_it_is_a_bar_that_ends_its_line(clock: Clock) -> None:
    shown, out = progress(clock, 4, terminal=True)
    shown.add(2, 0)
    assert "[###############...............] 2/4 rows committed" in out.getvalue()
    shown.add(2, 0)
    assert out.getvalue().endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min"), (3725, "1 h 2 min"),
     (3.6e7, "10,000 h 0 min")],
)  # fmt: skip
def test_durations_as_one_says_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
