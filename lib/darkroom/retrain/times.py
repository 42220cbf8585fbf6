"""When a pipeline is due: cron lines in a time zone, and the names of ticks. All moments are UTC, of whole seconds.

Cron is read as Debian's reads it, by cronsim; what Kubernetes' schedulers do not know, or read otherwise, is refused,
so that a line means the same wherever it runs. At a change of clocks a line that names its hour runs once a day: what
would fall into the missing hour runs right after it, what falls into the doubled hour runs the first time only.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from darkroom.sampling.names import unknown

Missed = Literal["last", "all", "none"]
_FIELDS = "minute hour day-of-month month day-of-week"
_RANGES = dict(zip(_FIELDS.split(), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)), strict=True))
_NAMES = {
    "month": ["", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "day-of-week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
_ID = "%Y%m%dT%H%M%SZ"
_LONGEST_CHANGE = timedelta(days=1)  # of clocks: Samoa left out the 30th of December 2011
MOST_AT_ONCE = 100  # missed ticks that are made up for: a line that fires each minute, after a week's pause


def read_zone(name: str) -> ZoneInfo:
    """The time zone of that name, as Europe/Berlin. ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: "Europe" is a folder
        near = str(unknown("time zone", name, available_timezones())).partition(" (known:")[0]
        raise ValueError(f"{near}; wanted a name as Europe/Berlin or UTC") from None


def check_cron(cron: str) -> None:
    """ValueError, in a sentence, for what is no cron line of five fields."""
    parts = cron.split()
    if len(parts) != 5:
        count = f"{len(parts)} field{'' if len(parts) == 1 else 's'}"
        raise ValueError(f"{cron!r} has {count}, a cron line has five: {_FIELDS}")
    for field, part in zip(_RANGES, parts, strict=True):
        for item in part.split(","):
            if reason := _refused(field, item):
                raise ValueError(f"{cron!r} is no cron line: {field} {item!r} {reason}; its fields are {_FIELDS}")
    if "*" not in parts[2:5:2] and any(parts[field].startswith("*/") for field in (2, 4)):
        raise ValueError(
            f"{cron!r}: of a day-of-month and a day-of-week, where one begins with */, cron takes a day that is both "
            "and Kubernetes one that is either; name the days, or leave one field *"
        )
    try:
        CronSim(cron, datetime(2026, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{cron!r} is no cron line: {str(error).lower()}; its fields are {_FIELDS}") from None


def _refused(field: str, item: str) -> str:
    """Why an item of a field's list is not known everywhere, "" where it is."""
    low, high = _RANGES[field]
    found = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]+))?", item)
    if found is None:
        return "is none of *, 5, 1-5 and */10"
    star, first, last, step = found.groups()
    values = [_value(field, text) for text in (first, last) if text is not None]
    if None in values or not all(low <= value <= high for value in values if value is not None):
        hint = " (Sunday is 0)" if field == "day-of-week" and "7" in (first, last) else ""
        return f"is not within {low} to {high}{hint}"
    if len(values) == 2 and values[0] > values[1]:
        return f"goes down; name it in two, as {first}-{high},{low}-{last}"
    if step is not None and not star and last is None:
        return f"begins nowhere to end; wanted */{step} or {first}-{high}/{step}"
    if step is not None and not 1 <= int(step) <= high:
        return f"has a step beyond the field's {high}"
    return ""


def _value(field: str, text: str) -> int | None:
    names = _NAMES.get(field, [])
    return int(text) if text.isdecimal() else names.index(text.upper()) if text.upper() in names else None


def fires_after(cron: str, zone: str, moment: datetime) -> Iterator[datetime]:
    """The times at which it fires, later than `moment`, ascending, without end."""
    # cronsim is given times of the wall clock alone: of a zone's doubled hour it takes the second pass for the first,
    # and where clocks change by half an hour (Australia/Lord_Howe) its hours are no longer whole.
    place, named_hour = read_zone(zone), not any(part.startswith("*") for part in cron.split()[:2])
    walls = CronSim(cron, moment.astimezone(place).replace(tzinfo=None) - _LONGEST_CHANGE)
    waiting: list[datetime] = []  # a doubled hour's second pass comes after all of its first
    for wall in walls:
        passes = _moments(wall, place, named_hour)
        while waiting and passes and waiting[0] < passes[0]:
            yield heapq.heappop(waiting)
        for fire in passes:
            if fire > moment and fire not in waiting:
                heapq.heappush(waiting, fire)


def last_fire(cron: str, zone: str, now: datetime) -> datetime | None:
    """The last time that it fired, `now` included. None if it never did."""
    wall = now.astimezone(read_zone(zone)).replace(tzinfo=None) - _LONGEST_CHANGE
    before = next(CronSim(cron, wall, reverse=True), None)
    if before is None:
        return None
    since = before.replace(tzinfo=UTC) - 2 * _LONGEST_CHANGE
    fired = itertools.takewhile(lambda fire: fire <= now, fires_after(cron, zone, since))
    return next(iter(collections.deque(fired, maxlen=1)), None)


def _moments(wall: datetime, zone: ZoneInfo, named_hour: bool) -> list[datetime]:
    """When a wall clock of the zone shows this: once; twice in a doubled hour, never in a missing one.

    A line that names its hour fires once all the same: in the first pass, or right after the missing hour.
    """
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return [first] if named_hour or first == second else [first, second]
    if not named_hour:
        return []
    while wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall:
        wall += timedelta(minutes=1)
    return [wall.replace(tzinfo=zone).astimezone(UTC)]


def due(
    cron: str, zone: str, missed: Missed, deadline_seconds: int, last_tick: datetime | None, now: datetime
) -> list[datetime]:
    """The ticks to run now, in order. last_tick: the newest that has an outcome; None before the first.

    last: the newest that fired since; all: each that did, at most `MOST_AT_ONCE`; none: the newest, if it fired no
    longer than `deadline_seconds` ago.
    """
    newest = last_fire(cron, zone, now)
    if newest is None or (last_tick is not None and newest <= last_tick):
        return []
    if missed == "none" and now - newest > timedelta(seconds=deadline_seconds):
        return []
    if missed != "all" or last_tick is None:
        return [newest]
    fired = itertools.takewhile(lambda fire: fire <= newest, fires_after(cron, zone, last_tick))
    return list(itertools.islice(fired, MOST_AT_ONCE))


def tick_id(moment: datetime) -> str:
    """20261121T020000Z: sorts by time, and is a file's name anywhere."""
    return moment.astimezone(UTC).strftime(_ID)


def read_tick(text: str) -> datetime:
    """The moment of a tick's id, or of any ISO 8601 time with its zone. ValueError for another text."""
    return read_moment("--tick", text).astimezone(UTC).replace(microsecond=0)


def read_moment(option: str, text: str) -> datetime:
    """The moment that an option of a command names, as ISO 8601 with its zone. ValueError names the option."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} {text}: wanted a time as 2026-11-21T02:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{option} {text}: in which time zone? Wanted 2026-11-21T02:00:00Z, or +01:00 in place of Z")
    return moment
