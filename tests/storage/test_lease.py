from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from darkroom.storage import StorageError, Store, open_store
from darkroom.storage.lease import LEASE, Held, Lease, LeaseLost, hold, holder


def left_elsewhere(purpose: str, epoch: int = 1) -> bytes:
    """The lease of a process on another machine, of which nobody here knows whether it lives."""
    process = {"pid": 1, "began": "0", "machine": "another"}
    record = {"purpose": purpose, "epoch": epoch, "actor": "someone@elsewhere", "process": process, "nonce": "0"}
    return json.dumps(record).encode()


class Failing:
    """A store that can be out."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.failing = inner, False

    def __getattr__(self, name: str) -> Any:
        if self.failing:
            raise StorageError("out")
        return getattr(self.inner, name)


def test_a_second_tick_is_refused_while_the_first_lives_and_not_after(store_uri: str) -> None:
    store = open_store(store_uri)
    with hold(store, "first", seconds=1.5) as lease:
        with (
            pytest.raises(Held, match="first is still running, by .*, process .*, last heard of at 20.* UTC"),
            hold(store, "second", seconds=1.5),
        ):
            pytest.fail("two held it")
        lease.check()
    began = time.monotonic()
    with hold(store, "second", seconds=60):
        assert time.monotonic() - began < 5, "a lease that was given back is free at once"


def test_a_dead_holders_lease_is_taken_over(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write(LEASE, left_elsewhere("killed", epoch=3))
    assert holder(store).startswith("someone@elsewhere, process ")
    began = time.monotonic()
    with hold(store, "killed", seconds=1.0) as lease:
        assert time.monotonic() - began >= 1.0 and lease.epoch == 4
        assert b'"killed"' in store.read(LEASE)
        lease.check()
    assert holder(store) == ""


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    code = f"""
import os
from darkroom.storage import open_store
from darkroom.storage.lease import hold
with hold(open_store({str(tmp_path)!r}), "killed", seconds=60):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    began = time.monotonic()
    with hold(open_store(str(tmp_path)), "next", seconds=60) as lease:
        assert lease.epoch == 2 and time.monotonic() - began < 5


def test_a_lease_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write(LEASE, b'{"tick": "", "actor": "someone@elsewhere", "nonce": "0"}')
    with hold(store, "next", seconds=60) as lease:
        assert lease.epoch == 1


def test_an_outage_longer_than_a_heartbeat_costs_no_lease(tmp_path: Path) -> None:
    store = Failing(open_store(str(tmp_path)))
    with hold(store, "steady", seconds=2.0) as lease:
        store.failing = True
        time.sleep(1.6)  # more than three heartbeats
        store.failing, before = False, lease.data
        time.sleep(1.2)
        lease.check()
        assert lease.data != before, "it beats again, and soon"


def test_how_long_a_beat_was_waited_for_is_said(tmp_path: Path) -> None:
    lease = Lease(open_store(str(tmp_path)), "held", 0.02, 1, b"", beaten=time.monotonic() - 1)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"lease\.json could not be renewed for 0\.2 s"):
        lease.check()
    assert time.monotonic() - began >= 0.2


class Slow:
    """A store whose second read lasts: the server was away, and the store waited for it."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.reads = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, key: str) -> bytes:
        self.reads += 1
        if self.reads == 2:
            time.sleep(1.3)
        return self.inner.read(key)


def test_an_outage_does_not_count_against_the_holder(tmp_path: Path) -> None:
    store = Slow(open_store(str(tmp_path)))
    store.write(LEASE, left_elsewhere("cut off"))
    with hold(store, "next", seconds=1.0):
        assert store.reads > 5, "looked at for as long again once the server answers: its holder had no chance before"


def test_of_many_who_find_a_dead_lease_one_takes_it(tmp_path) -> None:
    store, inside, most = open_store(str(tmp_path)), [], []
    store.write(LEASE, left_elsewhere("killed"))

    def run(number: int) -> None:
        try:
            with hold(store, f"tick {number}", seconds=0.5):
                inside.append(number)
                most.append(len(inside))
                time.sleep(1.5)
                inside.remove(number)
        except Held:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_who_was_taken_for_dead_is_told(tmp_path) -> None:
    store = open_store(str(tmp_path))
    with hold(store, "slow", seconds=0.2) as lease:
        store.write(LEASE, left_elsewhere("other"))
        assert lease.lost.wait(10)
        with pytest.raises(LeaseLost, match="taken over by another process"):
            lease.check()
    assert b"other" in store.read(LEASE), "it does not give back what is not its own"
