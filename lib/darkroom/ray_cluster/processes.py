"""Processes of this machine and what they started. Several Ray nodes on one machine want Linux, and so does this."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

GRACE_SECONDS = 20.0  # for the kernel to take the memory of a killed process back


def start_time(pid: int) -> int | None:
    """When a living process began, in clock ticks since the boot; None if there is none. With the pid it names one
    process for good: numbers alone are used again. A zombie, which nobody may ever reap, is not alive."""
    try:
        process = psutil.Process(pid)
        if not _is_alive(process):
            return None
        # Since the boot and not by the clock, which may be set anew while a process runs.
        return round((process.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK"))
    except psutil.NoSuchProcess:
        return None


def kill_trees(pids: Iterable[int]) -> None:
    """Kills processes and all below them, and returns when they are gone."""
    roots = list(_present(pids))
    doomed = [*roots, *(child for root in roots for child in _children(root))]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + GRACE_SECONDS
    # Not psutil.wait_procs, which waits for zombies too.
    while time.monotonic() < deadline and any(map(_is_alive, doomed)):
        time.sleep(0.05)
    for root in roots:
        with suppress(ChildProcessError):
            os.waitpid(root.pid, os.WNOHANG)


def kill_below() -> None:
    """Kills all below this process, the deepest first. Ray's agents outlive a raylet that ends with its driver."""
    for child in reversed(_children(psutil.Process())):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _present(pids: Iterable[int]) -> Iterable[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _children(process: psutil.Process) -> list[psutil.Process]:
    """At any depth."""
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
