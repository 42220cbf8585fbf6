"""Processes of this machine and what they started, as Linux tells it in /proc. Several Ray nodes on one machine are
for Linux alone, so this is too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 20.0  # for the kernel to take the memory of a killed process back


def start_time(pid: int) -> int | None:
    """When a living process began, in clock ticks since the boot; None if there is none. With the pid it names one
    process for good: numbers alone are used again. A zombie, which nobody may ever reap, is not alive."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def descendants(pids: Iterable[int]) -> set[int]:
    """All processes below `pids`, at any depth."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            parents[int(folder.name)] = int(fields[1])
    found: set[int] = set()
    front = set(pids)
    while front:
        front = {child for child, parent in parents.items() if parent in front} - found
        found |= front
    return found


def kill_trees(pids: Iterable[int]) -> None:
    """Kills processes and all below them, and returns when they are gone."""
    roots = set(pids)
    doomed = {pid: start_time(pid) for pid in roots | descendants(roots)}
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(began and start_time(pid) == began for pid, began in doomed.items()):
        time.sleep(0.05)
    for pid in roots:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
