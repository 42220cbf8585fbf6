"""Processes that end at their limit, with all that they started."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "DARKROOM_GPU_CHECK"  # in the environment of all that a command starts, however far it has gone from its group
GRACE = 3.0  # seconds between being asked to end and being ended


def run_limited(command: list[str], log: Path, limit: float, env: Mapping[str, str]) -> int | None:
    """The command's exit code, or None if it was ended at its limit. Nothing that it started is left."""
    with started(command, log, env) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def started(command: list[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command running in a session of its own, its output in the log; ended at the end, with all its children."""
    mark = secrets.token_hex(8)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**env, MARK: f"{env.get(MARK, '')}/{mark}"},  # whoever ends the outer one ends this too
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process, mark)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(20):  # what is being started meanwhile appears in the next round
        if not (left := marked(mark)):
            return
        for number in left:
            _signal(number, signal.SIGKILL)
        time.sleep(0.1)


def marked(mark: str) -> list[int]:
    """The processes whose environment holds this mark: Ray's leave the group of whoever starts them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            # A zombie has no environment any more.
            if folder.name.isdecimal() and f"/{mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)
