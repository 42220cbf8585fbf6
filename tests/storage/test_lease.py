from __future__ import annotations

import threading
import time

import pytest

from darkroom.storage import open_store
from darkroom.storage.lease import LEASE, Held, LeaseLost, _record, hold


def test_a_second_tick_is_refused_while_the_first_lives_and_not_after(store_uri: str) -> None:
    store = open_store(store_uri)
    with hold(store, "first", seconds=1.5) as lease:
        with pytest.raises(Held, match="tick first is still running, by "), hold(store, "second", seconds=1.5):
            pytest.fail("two held it")
        lease.check()
    began = time.monotonic()
    with hold(store, "second", seconds=60):
        assert time.monotonic() - began < 5, "a lease that was given back is free at once"


def test_a_dead_holders_lease_is_taken_over(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write(LEASE, _record("killed"))
    with hold(store, "killed", seconds=1.0) as lease:
        assert b'"killed"' in store.read(LEASE)
        lease.check()


def test_of_many_who_find_a_dead_lease_one_takes_it(tmp_path) -> None:
    store, inside, most = open_store(str(tmp_path)), [], []
    store.write(LEASE, _record("killed"))

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
        store.write(LEASE, _record("other"))
        assert lease.lost.wait(10)
        with pytest.raises(LeaseLost, match="taken over by another process"):
            lease.check()
    assert b"other" in store.read(LEASE), "it does not give back what is not its own"
