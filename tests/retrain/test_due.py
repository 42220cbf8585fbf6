from __future__ import annotations

from datetime import UTC, datetime

from darkroom.retrain.scheduler import due_ticks
from darkroom.retrain.tick_record import fresh
from darkroom.retrain.times import tick_id
from darkroom.storage import open_store
from small_world import World

NOW = datetime(2026, 11, 21, 9, 0, 0, 1234, tzinfo=UTC)


def days(here: World, missed: str) -> list[int]:
    schedule = {"cron": "0 2 * * *", "time_zone": "UTC", "missed": missed}
    return [moment.day for moment in due_ticks(here.pipeline(schedule=schedule), now=NOW)]


def over(here: World, day: int, outcome: str) -> None:
    record = fresh(open_store(f"{here.uri}/out"), tick_id(datetime(2026, 11, day, 2, tzinfo=UTC)))
    record.end(outcome)


def test_what_is_due_follows_from_what_is_over(here: World) -> None:
    assert days(here, "all") == [21]
    over(here, 17, "promoted")
    over(here, 18, "skipped")
    assert (days(here, "last"), days(here, "all"), days(here, "none")) == ([21], [19, 20, 21], [])
    over(here, 20, "failed")
    assert days(here, "all") == [19, 20, 21], "a tick that failed is not over"
    over(here, 21, "refused")
    assert days(here, "last") == days(here, "all") == []


def test_without_a_schedule_it_is_now_and_a_named_tick_is_that_one(here: World) -> None:
    assert due_ticks(here.pipeline(), now=NOW) == [NOW.replace(microsecond=0)]
    (named,) = due_ticks(here.pipeline(), "2026-11-21T03:00:00+01:00")
    assert tick_id(named) == "20261121T020000Z"
