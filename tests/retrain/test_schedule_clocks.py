"""Schedules where clocks change, against a count of every minute on the wall clock of real zones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from darkroom.retrain.times import due, fires_after, last_fire, tick_id

MINUTE = timedelta(minutes=1)
# Forward and back: by an hour, by an hour elsewhere at another time of day, by half an hour; a day left out; none.
CHANGES = [
    ("Europe/Zurich", "2026-03-29"),
    ("Europe/Zurich", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Pacific/Apia", "2011-12-30"),
    ("UTC", "2026-10-25"),
]
FEW = ("15 1,2,3 * * *", "*/20 * * * *")
ALL = frozenset(range(60))
# A line, and the hours and minutes that it names.
LINES = {
    "0 2 * * *": ({2}, {0}),
    "30 2 * * *": ({2}, {30}),
    "15 1,2,3 * * *": ({1, 2, 3}, {15}),
    "45 1 * * *": ({1}, {45}),
    "0 */6 * * *": ({0, 6, 12, 18}, {0}),
    "30 * * * *": (ALL, {30}),
    "*/20 * * * *": (ALL, {0, 20, 40}),
}


def minutes(start: datetime, days: int) -> Iterator[datetime]:
    return (start + MINUTE * count for count in range(days * 24 * 60))


def counted(line: str, zone: str, start: datetime, days: int) -> list[datetime]:
    """When it fires, by looking at the wall clock each minute. A line with a star in its hour or minute fires whenever
    the clock shows its time; another fires once for each time of each day: the first time that the clock is there, or
    has jumped over it."""
    hours, at = LINES[line]
    often = "*" in line.split()[0] + line.split()[1]
    found: list[datetime] = []
    latest = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None)  # how far the clock has ever come
    for moment in minutes(start + MINUTE, days):
        wall = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        shown = [wall] if often else list(minutes_between(latest, wall))
        latest = max(latest, wall)
        if any(each.hour in hours and each.minute in at for each in shown):
            found.append(moment)
    return found


def minutes_between(first: datetime, last: datetime) -> Iterator[datetime]:
    """Without the first."""
    return (first + MINUTE * count for count in range(1, (last - first) // MINUTE + 1))


@pytest.mark.parametrize(
    ("zone", "day", "line"),
    [(*change, line) for change in CHANGES for line in LINES if change[0] == "Australia/Lord_Howe" or line in FEW],
)
def test_no_tick_is_lost_and_none_comes_twice(zone: str, day: str, line: str) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1, minutes=1)
    wanted = counted(line, zone, start, 3)
    end = start + timedelta(days=3)
    assert list(itertools.takewhile(lambda fire: fire < end, fires_after(line, zone, start))) == wanted
    for moment in list(minutes(start, 2))[24 * 60 :: 263]:
        later = [fire for fire in wanted if fire > moment]
        assert next(fires_after(line, zone, moment)) in later[:1] or not later
        assert last_fire(line, zone, moment) == [fire for fire in wanted if fire <= moment][-1]


def test_a_second_start_in_the_doubled_hour_is_the_same_tick() -> None:
    """Kubernetes fires a second time when the clock shows 02:30 again; what is due then is the tick of the first."""
    first, second = (datetime.fromisoformat(f"2026-10-25T{hour}:30:05Z") for hour in ("00", "01"))
    found = [due("30 2 * * *", "Europe/Zurich", "last", 600, None, now) for now in (first, second)]
    assert [[tick_id(moment) for moment in each] for each in found] == [["20261025T003000Z"]] * 2
    assert due("30 2 * * *", "Europe/Zurich", "last", 600, found[0][0], second) == []
