"""What a tick decided: OUT/ticks/ID.json, written after every step, so that a tick that died goes on where it stood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from darkroom.retrain.times import read_tick
from darkroom.storage import NotFound, Store

FOLDER = "ticks"
# With these a tick is over. One that failed is not: the same tick, run again, tries again.
FINAL = {"promoted", "refused", "skipped", "rolled_back", "abandoned"}


@dataclass
class TickRecord:
    """One tick's record in the store of a pipeline. data: "id", "began_at", "outcome", "reason", "steps", "rounds"."""

    store: Store
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return self.data["id"]

    @property
    def outcome(self) -> str:
        """ "" while it is not over, else promoted, refused, skipped, rolled_back, abandoned or failed."""
        return self.data["outcome"]

    @property
    def is_over(self) -> bool:
        return self.outcome in FINAL

    @property
    def has_failures(self) -> bool:
        """Whether somebody should look: its model did not work, or some rows of the data set failed."""
        return self.outcome == "rolled_back" or bool(self.steps.get("generate", {}).get("failed"))

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Results of the steps that are done, by name."""
        return self.data["steps"]

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Each time the candidate was held against a champion; more than one only after a lost race."""
        return self.data["rounds"]

    def step(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: what it was when it was done, else `do` is done now."""
        if name not in self.steps:
            began = time.monotonic()
            result = json.loads(as_json(do()))  # as whoever reads it later has it: no tuples
            self.steps[name] = {**result, "seconds": round(time.monotonic() - began, 1)}
            self.save()
        return self.steps[name]

    def end(self, outcome: str, reason: str = "") -> None:
        """Writes how it ended."""
        self.data |= {"outcome": outcome, "reason": reason, "ended_at": _now()}
        self.save()

    def save(self) -> None:
        self.store.write(f"{FOLDER}/{self.id}.json", as_json(self.data))


def fresh(store: Store, tick: str, **more: Any) -> TickRecord:
    """A record in which nothing is decided yet; it is not written."""
    data = {"id": tick, "began_at": _now(), "outcome": "", "reason": "", "steps": {}, "rounds": []}
    return TickRecord(store, {**data, **more})


def load(store: Store, tick: str) -> TickRecord | None:
    """The record of a tick, None if it never began."""
    try:
        return TickRecord(store, json.loads(store.read(f"{FOLDER}/{tick}.json")))
    except NotFound:
        return None


def records(store: Store) -> Iterator[TickRecord]:
    """Those of all ticks, in the order of their times."""
    for name in store.files(FOLDER):  # beside them lie the nights' data sets, which may be of millions of pictures
        if name.endswith(".json"):
            yield TickRecord(store, json.loads(store.read(f"{FOLDER}/{name}")))


def last_over(store: Store, now: datetime) -> datetime | None:
    """The time of the newest tick that is over. One of a time to come, by a clock that was wrong, is not looked at:
    nothing would be due until then."""
    times = (read_tick(record.id) for record in records(store) if record.is_over)
    return max((time for time in times if time <= now), default=None)


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
