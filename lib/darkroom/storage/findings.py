"""What a place to store things was found to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from darkroom.storage.errors import StorageError

Place = TypeVar("Place")

OK, NOTE, BAD = "ok", "note", "BAD"
PROBES = "doctor"  # how the names of what is written for a while begin
_SKEW = 5.0  # seconds between clocks, above which it is said


class Finding(NamedTuple):
    """of: what was tried. level: OK; NOTE, where darkroom makes up for something; BAD, where jobs cannot work here.
    says: what was found and what is done about it."""

    of: str
    level: str
    says: str

    def __str__(self) -> str:
        return f"{self.level:4}  {self.of:19}  {self.says}"


def tried(of: str, probe: Callable[[], Finding | str]) -> Finding:
    """What a probe found: text is OK; what storage refuses is BAD."""
    try:
        found = probe()
    except StorageError as error:
        return Finding(of, BAD, str(error))
    return found if isinstance(found, Finding) else Finding(of, OK, found)


def examined(store: Place, probes: Mapping[str, Callable[[Place], Finding | str]]) -> Iterator[Finding]:
    """What each probe, by the name of what it tries, finds of a store."""
    return (tried(of, partial(probe, store)) for of, probe in probes.items())


def milliseconds(act: Callable[[], object], times: int = 5) -> float:
    """The median time of an act."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - began))
    return sorted(taken)[times // 2]


def clock_finding(ahead: float, whose: str, limit: str) -> Finding:
    """ahead: seconds of the clock that is not this machine's."""
    if abs(ahead) < _SKEW:
        return Finding("clock", OK, f"{whose} and this machine's agree")
    differ = f"{whose} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return Finding("clock", NOTE, f"{differ}; {limit}")
