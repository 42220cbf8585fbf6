"""One tick of a pipeline at a time: a lease in storage, kept alive by a heartbeat, taken over when its holder is dead.

Clocks of machines differ, so nobody compares them: a lease counts as dead when whoever waits for it has seen no
heartbeat for `seconds` by its own clock. Promotion does not rest on the lease: the registry has its own guard.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from darkroom.models.registry import actor
from darkroom.storage import NotFound, StorageError, Store

LEASE = "lease.json"
_LOOKS = 10  # while a lease's seconds pass
_BEATS = 4


class Held(Exception):  # noqa: N818
    """Another process runs a tick. tick: which."""

    def __init__(self, tick: str, holder: str) -> None:
        super().__init__(f"tick {tick} is still running, by {holder}")
        self.tick = tick


class LeaseLost(StorageError):
    """Another process has taken over, as it saw no heartbeat of ours for too long."""


@dataclass
class Lease:
    """A lease that is held. `check` before anything that another holder must not see twice."""

    store: Store
    tick: str
    seconds: float
    data: bytes
    lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """LeaseLost where it is not ours any more."""
        if self.lost.is_set():
            raise LeaseLost(f"the lease {self.store.uri(LEASE)} was taken over by another process")

    def beat(self, stop: threading.Event) -> None:
        """Renews it until `stop`; a failure of storage is tried again at the next beat."""
        while not stop.wait(self.seconds / _BEATS):
            fresh = _record(self.tick)
            try:
                if not self.store.replace(LEASE, self.data, fresh):
                    self.lost.set()
                    return
            except StorageError:
                continue
            self.data = fresh


@contextmanager
def hold(store: Store, tick: str, seconds: float) -> Iterator[Lease]:
    """Holds the pipeline's lease for a tick. Waits at most about `seconds`: Held if its holder shows that it lives."""
    lease = Lease(store, tick, seconds, _take(store, tick, seconds))
    stop = threading.Event()
    beating = threading.Thread(target=lease.beat, args=(stop,), name="lease", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        if not lease.lost.is_set():
            store.replace(LEASE, lease.data, _record(""))  # free: a lease of no tick


def _take(store: Store, tick: str, seconds: float) -> bytes:
    """The bytes of the lease, which is ours."""
    mine, seen, since = _record(tick), None, time.monotonic()
    while True:
        try:
            found = store.read(LEASE)
        except NotFound:
            if store.create(LEASE, mine):
                return mine
            continue
        held = json.loads(found)
        if seen is not None and found != seen and held["tick"]:
            raise Held(held["tick"], held["actor"])
        dead = seen is not None and time.monotonic() - since >= seconds
        if (not held["tick"] or dead) and store.replace(LEASE, found, mine):
            return mine
        if seen is None:
            seen, since = found, time.monotonic()
        time.sleep(seconds / _LOOKS)


def _record(tick: str) -> bytes:
    return json.dumps({"tick": tick, "actor": actor(), "nonce": secrets.token_hex(8)}).encode()
