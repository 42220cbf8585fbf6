"""How long a server that is away is waited for: a budget of time and not of tries, the same for every request.

A rolling restart takes half a minute, a lost node a few: work of hours should not end of it, nor wait for ever for an
address with a typing error. It is said once that a server is away, then when half of the time that was left is gone.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from darkroom.phases import Say, phase, to_stderr

T = TypeVar("T")

_PAUSES = 0.1, 5.0  # seconds before the first and, after doublings, the last tries
_SILENT = 2.0  # what lasts less long is nobody's business
_DOUBTFUL = 10.0  # for what is rather a mistake in the address, as long as nothing ever answered there
_COUNTED = 15.0  # seconds left that are not halved any more
_jitter = random.Random()  # workers that were all refused at once should not come back at once
_SLICE = 0.5  # seconds, after which a wait looks whether it should end
_stopping = False  # no event: a handler of signals may set it, and would wait for itself at an event's lock
_hearers: list[Say] = [to_stderr]  # the last one is told


class Away(NamedTuple):
    """Why a server is taken to be away, as words. doubtful: a wrong address would look the same."""

    reason: str
    doubtful: bool = False


def announce_by(say: Say) -> None:
    """From now on what is said of a server goes there: a worker's stderr is read by nobody."""
    _hearers.append(say)


def stop_waiting() -> None:
    """From now on a request of this process is sent once: for whoever must end soon, whatever is away."""
    global _stopping
    _stopping = True


def wait_again() -> None:
    """Takes `stop_waiting` back."""
    global _stopping
    _stopping = False


class Patience:
    """What a process knows of a server that it asks: whether it answers, and if not, since when.

    A request gives up when it, or all requests of the process together, had no answer for `seconds`. So one that the
    server never answers does not go on for ever beside others that succeed, and once the time is up no later one,
    such as those that clean up, waits for as long again.
    """

    def __init__(self, name: str, seconds: float, setting: str, say: Say | None = None) -> None:
        self.name, self.seconds, self.setting, self._hearer = name, seconds, setting, say
        self._lock = threading.Lock()
        self._known = False  # whether it has ever answered
        self._since: float | None = None  # when the first request began of those that had no answer
        self._failed = 0.0  # when the last of them failed
        self._next: float | None = None  # so few seconds left are said next; None: nothing was said yet

    def ask(self, request: Callable[[], T], away: Callable[[Exception], Away | None]) -> T:
        """What `request` returns. Sent again while it raises what `away` takes for a server that is away; what it
        raised last gets a note of how long that was tried."""
        since = time.monotonic()
        for pause in _pauses():
            began = time.monotonic()
            try:
                answer = request()
            except Exception as error:
                found = away(error)
                if found is None:
                    self._answers()
                    raise
                if not self._waits(since, began, pause, found):
                    if (tried := time.monotonic() - since) >= 1:
                        error.add_note(f"tried for {_span(tried)}")
                    raise
                since = min(since, began)
            else:
                self._answers()
                return answer
        raise AssertionError("pauses do not end")

    def _waits(self, since: float, began: float, pause: float, away: Away) -> bool:
        """Whether to try again, after a pause."""
        with self._lock:
            now = time.monotonic()
            if self._since is None or now - self._failed > max(self.seconds, 60):  # an outage of long ago
                self._since, self._next = began, None
            self._failed = now
            budget = min(self.seconds, _DOUBTFUL) if away.doubtful and not self._known else self.seconds
            left = budget - (now - min(self._since, since))
            if left <= 0 or _stopping:
                return False
            self._tell(now - self._since, budget - (now - self._since), away)
        _wait(min(pause * _jitter.uniform(0.5, 1), left))
        return True

    def _tell(self, gone: float, left: float, away: Away) -> None:
        if self._next is None and gone >= min(_SILENT, self.seconds / 2):
            limit = f"at most {_span(left)} more ({self.setting} sets the whole)"
            phase(self._say, f"{self.name} does not answer ({away.reason}): waiting for it, {limit}")
            self._next = left / 2
        elif self._next is not None and left <= self._next and left > _COUNTED:
            phase(self._say, f"{self.name} still does not answer: {_span(left)} left")
            self._next = left / 2

    def _say(self, line: str) -> None:
        (self._hearer or _hearers[-1])(line)

    def _answers(self) -> None:
        with self._lock:
            if self._next is not None and self._since is not None:
                phase(self._say, f"{self.name} answers again, after {_span(time.monotonic() - self._since)}")
            self._known, self._since, self._next = True, None, None


def _wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while not _stopping and (left := end - time.monotonic()) > 1e-3:
        time.sleep(min(left, _SLICE))


def _pauses() -> Iterator[float]:
    first, last = _PAUSES
    while True:
        yield first
        first = min(2 * first, last)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes else f"{rest} s"
