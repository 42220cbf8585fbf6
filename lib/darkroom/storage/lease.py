"""One writer at a time: a lease in storage, kept alive by a heartbeat, taken over when its holder is dead.

Clocks of machines differ, so nobody compares them: a lease counts as dead when whoever waits for it has seen no
heartbeat for `seconds` by its own clock, while storage answered; or at once, where its holder was a process of this
machine that is gone. Every taking raises the epoch, by which what a former holder still writes is told apart.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darkroom.storage.errors import NotFound, StorageError
from darkroom.storage.stores import Store

LEASE = "lease.json"
_LOOKS = 10  # while a lease's seconds pass
_BEATS = 4
_SLOW = 1.0  # seconds for an answer
_OUTAGES = 10  # times the lease's seconds: longer than that nobody waits for storage to come back
_RETRY_SECONDS = 1.0  # after a heartbeat that storage refused: an outage must not cost more of them than it lasts


class Held(StorageError):  # noqa: N818
    """Another process holds the lease. purpose: what for; holder: who, as text."""

    def __init__(self, purpose: str, holder: str) -> None:
        super().__init__(f"{purpose} is still running, by {holder}")
        self.purpose, self.holder = purpose, holder


class LeaseLost(StorageError):
    """Another process has taken over, as it saw no heartbeat of ours for too long."""


@dataclass
class Lease:
    """A lease that is held. `check` before anything that another holder must not see twice. epoch: 1 for the first
    holder there ever was."""

    store: Store
    purpose: str
    seconds: float
    epoch: int
    data: bytes
    lost: threading.Event = field(default_factory=threading.Event)
    beaten: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """LeaseLost where it is not ours any more. A process that slept, or storage that was out, may have cost
        heartbeats: then the next one is waited for, as only that can tell."""
        patience = _OUTAGES * self.seconds
        deadline = time.monotonic() + patience
        while not self.lost.is_set() and time.monotonic() - self.beaten > self.seconds:
            if time.monotonic() > deadline:
                raise StorageError(f"the lease {self.store.uri(LEASE)} could not be renewed for {patience:g} s")
            self.lost.wait(self.seconds / _LOOKS)
        if self.lost.is_set():
            raise LeaseLost(f"the lease {self.store.uri(LEASE)} was taken over by another process")

    def beat(self, stop: threading.Event) -> None:
        """Renews it until `stop`; where storage fails, soon again."""
        pause = self.seconds / _BEATS
        while not stop.wait(pause):
            fresh = _record(self.purpose, self.epoch)
            try:
                if not self.store.replace(LEASE, self.data, fresh):
                    self.lost.set()
                    return
            except StorageError:
                pause = min(_RETRY_SECONDS, self.seconds / _BEATS)
                continue
            self.data, self.beaten, pause = fresh, time.monotonic(), self.seconds / _BEATS


@contextmanager
def hold(store: Store, purpose: str, seconds: float) -> Iterator[Lease]:
    """Holds the store's lease. Waits at most about `seconds`: Held if its holder shows that it lives."""
    epoch, data = _take(store, purpose, seconds)
    lease = Lease(store, purpose, seconds, epoch, data)
    stop = threading.Event()
    beating = threading.Thread(target=lease.beat, args=(stop,), name="lease", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        # Free: a lease for nothing. Where storage is away it stays, of a process that will be seen to be gone; what
        # ended the work is the news.
        if not lease.lost.is_set():
            with suppress(StorageError):
                store.replace(LEASE, lease.data, _record("", lease.epoch))


def holder(store: Store) -> str:
    """Who holds the store's lease, as text; "" where nobody does, or nobody who can be seen to be dead."""
    try:
        found = _parsed(store, store.read(LEASE))
    except NotFound:
        return ""
    return _described(found) if _purpose(found) and not _is_dead_here(found) else ""


def actor() -> str:
    """Who does it, for histories: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _take(store: Store, purpose: str, seconds: float) -> tuple[int, bytes]:
    """The epoch and the bytes of the lease, which is ours."""
    seen, since = None, time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            found = store.read(LEASE)
        except NotFound:
            first = _record(purpose, 1)
            if store.create(LEASE, first):
                return 1, first
            continue
        held = _parsed(store, found)
        if time.monotonic() - asked > max(_SLOW, seconds / _LOOKS):
            since = time.monotonic()  # storage was away: its holder could not show that it lives either
        if seen is not None and found != seen and _purpose(held):
            raise Held(_purpose(held), _described(held))
        dead = _is_dead_here(held) or (seen is not None and time.monotonic() - since >= seconds)
        mine = _record(purpose, held.get("epoch", 0) + 1)
        if (not _purpose(held) or dead) and store.replace(LEASE, found, mine):
            return held.get("epoch", 0) + 1, mine
        if seen is None:
            seen, since = found, time.monotonic()
        time.sleep(seconds / _LOOKS)


def _parsed(store: Store, data: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        held = json.loads(data)
        if isinstance(held, dict) and "actor" in held:
            return held
    raise StorageError(f"{store.uri(LEASE)} is damaged: delete it, if you know that nothing works on {store.root}")


def _record(purpose: str, epoch: int) -> bytes:
    record = {"purpose": purpose, "epoch": epoch, "actor": actor(), "process": _this_process()}
    record["at"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"  # for people: clocks of machines differ
    return json.dumps(record | {"nonce": secrets.token_hex(8)}).encode()


def _purpose(held: dict[str, Any]) -> str:
    return held.get("purpose") or held.get("tick", "")  # "tick" in leases of earlier versions


def _described(held: dict[str, Any]) -> str:
    parts = [held["actor"]]
    if process := held.get("process"):
        parts.append(f"process {process['pid']}")
    if "at" in held:
        parts.append(f"last heard of at {held['at']}")
    return ", ".join(parts)


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "began": _began(os.getpid()), "machine": _machine()}


def _is_dead_here(held: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, and is gone. Numbers of processes are used again: when it
    began tells one from the next."""
    process = held.get("process")
    return bool(process) and process["machine"] == _machine() != "" and _began(process["pid"]) != process["began"]


def _machine() -> str:
    """This boot of this machine, as a container sees it; "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a living process began, in clock ticks since the boot; "" if there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
