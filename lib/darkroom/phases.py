"""What a job is at, said as it begins, each line with the seconds since the program began: the time up to the next line
is what it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

BEGAN = time.monotonic()  # the console command imports this first

Say = Callable[[str], None]


def plural(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`. many: where it is not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def phase(say: Say, what: str, ago: float = 0.0) -> None:
    """Says that `what` began, so many seconds ago: `   3.2 s  starting Ray`."""
    say(f"{time.monotonic() - BEGAN - ago:7.1f} s  {what}")


def phase_of_ray(say: Say, address: str | None) -> None:
    """Says that Ray is joined at that address, or started here."""
    phase(say, "starting Ray" if address is None else f"joining the Ray cluster at {address}")


def to_stderr(line: str) -> None:
    """A line for the user, whole even where two threads have something to say."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
