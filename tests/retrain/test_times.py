from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from darkroom.retrain.times import check_cron, due, fires_after, last_fire, read_tick, read_zone, tick_id

NIGHTLY = "30 2 * * *"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def hours(cron: str, zone: str, after: str, count: int) -> list[str]:
    return [f"{fire:%d %H:%M}" for fire in itertools.islice(fires_after(cron, zone, at(after)), count)]


def test_a_night_whose_hour_is_missing_runs_right_after_it() -> None:
    # Berlin, 29 March 2026: 02:00 becomes 03:00, which is 01:00 UTC.
    assert hours(NIGHTLY, "Europe/Berlin", "2026-03-27T12:00Z", 3) == ["28 01:30", "29 01:00", "30 00:30"]


def test_a_night_whose_hour_comes_twice_runs_once() -> None:
    # Berlin, 25 October 2026: 03:00 becomes 02:00 at 01:00 UTC.
    assert hours(NIGHTLY, "Europe/Berlin", "2026-10-24T12:00Z", 2) == ["25 00:30", "26 01:30"]


def test_every_half_hour_runs_through_a_doubled_hour() -> None:
    found = hours("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00Z", 4)
    assert found == ["25 00:30", "25 01:00", "25 01:30", "25 02:00"]


def test_the_last_fire_may_be_now() -> None:
    assert last_fire(NIGHTLY, "UTC", at("2026-11-21T02:30:00Z")) == at("2026-11-21T02:30Z")
    assert last_fire(NIGHTLY, "UTC", at("2026-11-21T02:29:59Z")) == at("2026-11-20T02:30Z")
    assert last_fire(NIGHTLY, "Asia/Kolkata", at("2026-11-21T00:00Z")) == at("2026-11-20T21:00Z")


@pytest.mark.parametrize(
    ("missed", "now", "wanted"),
    [
        ("last", "2026-11-21T09:00Z", [21]),
        ("all", "2026-11-21T09:00Z", [19, 20, 21]),
        ("none", "2026-11-21T09:00Z", []),
        ("none", "2026-11-21T02:35Z", [21]),
        ("last", "2026-11-18T09:00Z", []),
        ("all", "2026-11-18T09:00Z", []),
    ],
)
def test_missed_ticks(missed: str, now: str, wanted: list[int]) -> None:
    found = due(NIGHTLY, "UTC", missed, 600, at("2026-11-18T02:30Z"), at(now))
    assert [moment.day for moment in found] == wanted and all(moment.hour == 2 for moment in found)


def test_before_the_first_tick_nothing_was_missed() -> None:
    assert due(NIGHTLY, "UTC", "all", 600, None, at("2026-11-21T09:00Z")) == [at("2026-11-21T02:30Z")]


def test_a_long_pause_is_made_up_for_in_parts() -> None:
    found = due("* * * * *", "UTC", "all", 600, at("2026-11-01T00:00Z"), at("2026-11-21T00:00Z"))
    assert len(found) == 100 and found[0] == at("2026-11-01T00:01Z")


def test_ids_go_there_and_back() -> None:
    moment = read_tick("2026-11-21T03:00:00+01:00")
    assert tick_id(moment) == "20261121T020000Z" and read_tick("20261121T020000Z") == moment
    assert moment.tzinfo is UTC


@pytest.mark.parametrize("text", ["tonight", "2026-11-21", "2026-11-21T02:00:00"])
def test_a_tick_without_a_zone_or_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"--tick {text}: "):
        read_tick(text)


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("every night", "has 2 fields, a cron line has five: minute hour"),
        ("0 0 2 * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("61 2 * * *", "is no cron line: minute '61' is not within 0 to 59"),
        ("0 2 * * MON-FUN", "day-of-week 'MON-FUN' is not within 0 to 6"),
        ("0 4 * * 7", r"day-of-week '7' is not within 0 to 6 \(Sunday is 0\)"),
        ("0 4 * * 5-7", r"day-of-week '5-7' is not within 0 to 6 \(Sunday is 0\)"),
        ("0 4 * * 1,7", "day-of-week '7'"),
        ("0 4 * * FRI-MON", "goes down; name it in two, as FRI-6,0-MON"),
        ("0 4 L * *", "day-of-month 'L' is not within 1 to 31"),
        ("0 4 LW * *", "day-of-month 'LW'"),
        ("0 4 * * MON#1", "day-of-week 'MON#1' is none of"),
        ("0 4 * * 5L", "day-of-week '5L'"),
        ("0 4 ? * 1", "day-of-month '.' is none of"),
        ("*/90 * * * *", r"minute '\*/90' has a step beyond the field's 59"),
        ("0 */24 * * *", "has a step beyond the field's 23"),
        ("*/0 * * * *", "has a step beyond"),
        ("0 0-23/40 * * *", "has a step beyond the field's 23"),
        ("5/15 * * * *", r"wanted \*/15 or 5-59/15"),
        ("0 2 */2 * 1", "cron takes a day that is both"),
        ("0 2 1 * */2", "cron takes a day that is both"),
        ("0 2 30 2 *", "bad day-of-month"),  # no year has it
    ],
)
def test_cron_nonsense(cron: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_cron(cron)


@pytest.mark.parametrize(
    "cron",
    [
        "0 2 * * *",
        "*/15 0-6 * * 1-5",
        "0 2 1,15 * *",
        "0 2 * JAN-MAR,DEC sun,Sat",
        "0 4 1 * 1",
        "0 0 */2 * *",
        "1-9/2 * * * 0",
    ],
)
def test_cron_that_means_the_same_everywhere(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize("zone", ["Europe/Berlni", "Europe", "", "../etc/passwd", "CEST+2"])
def test_no_such_zone(zone: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone .*wanted a name as Europe/Berlin or UTC"):
        read_zone(zone)
    with pytest.raises(ValueError, match="did you mean 'Europe/Berlin'"):
        read_zone("Europe/Berlni")
