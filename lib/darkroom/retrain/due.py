"""Which ticks of a pipeline are to be run now."""

from __future__ import annotations

from datetime import UTC, datetime

from darkroom.retrain.schema import Pipeline
from darkroom.retrain.tick_record import last_over
from darkroom.retrain.times import due, read_tick
from darkroom.storage import open_store


def due_ticks(pipeline: Pipeline, tick: str | None = None, now: datetime | None = None) -> list[datetime]:
    """Their times, in order. tick: this one and no other; without it, or a schedule, the present moment is a tick's.

    Raises ValueError for a tick that is no time, StorageError.
    """
    if tick is not None:
        return [read_tick(tick)]
    now = now or datetime.now(UTC)
    schedule = pipeline.schedule
    if schedule is None:
        return [now.replace(microsecond=0)]
    last = last_over(open_store(pipeline.out))
    return due(schedule.cron, schedule.time_zone, schedule.missed, schedule.deadline_seconds, last, now)
