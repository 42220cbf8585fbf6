"""A worker whose model hangs ends itself, and Ray starts another in its place.

By faulthandler's timer, which needs no lock of the interpreter: a call that never comes back may hold it. Where each
thread stood is in the worker's log then.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from pathlib import PurePath

PATIENCE = 20  # times the longest that a pass took
STDERR = 2  # what Ray makes a worker's log of; `sys.stderr` may have been replaced
REARM_SECONDS = 1.0  # the timer is a thread: not one for each pass

_lock = threading.Lock()
_ends: dict[int, float] = {}  # of those at work in this process, when their time is up


class Guard:
    """Of one thread's work. begin: before a pass, and end: after it; begin again: its next.

    floor: seconds that a pass may take at least, or 20 times the longest so far; first: of the first, and of any that
    compiles. None: for ever.
    """

    def __init__(self, floor: float | None, first: float | None = None) -> None:
        self.floor, self.first = floor, first or floor
        self.longest = self.began = self._end = 0.0
        self._thread, self._compiles = 0, False

    def begin(self) -> None:
        self._compiles = False
        self.began, self._thread = time.monotonic(), threading.get_ident()
        if self.floor is not None and abs(self.began + self.limit - self._end) > REARM_SECONDS:
            self._set(self.began + self.limit)

    def compiles(self) -> None:
        """The pass under way does: it says nothing of how long others take."""
        if self.floor is not None and self.began:
            self._compiles = True
            self._set(self.began + self.limit)

    def end(self, idle: bool) -> None:
        """idle: nothing follows for now."""
        began, self.began = self.began, 0.0
        if began and not self._compiles:
            self.longest = max(self.longest, time.monotonic() - began)
        if idle and self._end:
            self._set(0.0)

    @property
    def limit(self) -> float:
        """Seconds."""
        assert self.floor is not None and self.first is not None
        usual = max(self.floor, PATIENCE * self.longest)
        return max(self.first, usual) if self._compiles or not self.longest else usual

    def hangs(self, seconds: float) -> str:
        """What to say of a pass that has taken so long and is under way, "" where there is none."""
        began = self.began
        if self.floor is None or not began or (took := time.monotonic() - began) < min(seconds, self.limit / 2):
            return ""
        where = _where(self._thread)
        return f"is at one pass for {took:.0f} s{where}; after {self.limit:.0f} s it is replaced"

    def _set(self, end: float) -> None:
        """end: 0 for never."""
        self._end = end
        with _lock:
            _ends.pop(id(self), None)
            if end:
                _ends[id(self)] = end
            if not _ends:
                return faulthandler.cancel_dump_traceback_later()
            faulthandler.dump_traceback_later(max(min(_ends.values()) - time.monotonic(), 0.1), exit=True, file=STDERR)


def _where(thread: int) -> str:
    """The innermost line of Python that a thread is at."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    code = frame.f_code
    return f", in {PurePath(code.co_filename).name}:{frame.f_lineno}, {code.co_name}"
