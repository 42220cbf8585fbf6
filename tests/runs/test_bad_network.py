"""The log of a run over a network on which everything goes wrong: nothing is lost, nothing counts twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from conftest import S3Server
from darkroom.runs import Ledger, own, stage, to_table
from darkroom.runs.log import OK
from darkroom.storage import Store, open_store, patience
from darkroom.storage.hashing import hashes
from fault_proxy import FaultProxy
from runs import commit, next_owner, result

IDS = [f"row-{number:02d}" for number in range(24)]


@pytest.fixture
def proxy(s3: S3Server, s3_env: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(s3.port, seed=13) as proxy:
        for name, value in {"AWS_ENDPOINT_URL_S3": proxy.url, "DARKROOM_S3_TIMEOUT": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(patience, "_PAUSES", (0.01, 0.1))
        proxy.stall = 1.2
        yield proxy


def shard(*ids: str) -> pa.Table:
    lines = ({"id": name, "key": f"key of {name}", "row": {"task": "text_to_image"}} for name in ids)
    return to_table([result(line, created_at=datetime(2026, 1, 1, tzinfo=UTC)) for line in lines])


def missing(store: Store) -> list[str]:
    standing = Ledger(store).read().index.standing(hashes(IDS), hashes([f"key of {name}" for name in IDS]))
    return [name for name, how in zip(IDS, standing, strict=True) if how != OK]


def work(store: Store, most: int) -> None:
    """A job that makes what is missing, six rows a unit, and dies after so many units."""
    with own(store, "job") as writer:
        writer.open()
        rows = missing(store)
        for first in range(0, min(len(rows), 6 * most), 6):
            writer.commit([stage(store, "u", shard(*rows[first : first + 6]))])
        if len(rows) <= 6 * most:
            writer.compact()
            writer.close()


def test_a_run_over_a_bad_network_loses_nothing(proxy: FaultProxy, s3_env: str) -> None:
    """503, resets, lost answers, bodies cut off, stalls, listings that lag: one of eight requests."""
    store = open_store(s3_env)
    proxy.rate = 0.125
    for most in (1, 2, 1, 4, 1):
        work(store, most)
    proxy.rate = 0.0
    assert missing(store) == []
    next_owner(store)
    log = Ledger(store).read()
    assert sorted(row for each in log.shards.values() for row in Ledger(store).table(each)["id"].to_pylist()) == IDS
    assert sorted(store.list("metadata/")) == sorted(f"metadata/{name}" for name in log.shards)
    assert list(store.list("staging/")) == []
    assert len(proxy.done) >= 4, proxy.done


@pytest.mark.parametrize("lags", [1, 2, 3])
def test_a_listing_that_lags_costs_no_commit(proxy: FaultProxy, s3_env: str, lags: int) -> None:
    """A new owner sees commits/, staging/, metadata/ as they were before the last commit."""
    store = open_store(s3_env)
    commit(store, "u-1", shard("x"))
    commit(store, "u-2", shard("y"))
    proxy.lags = lags
    log = next_owner(store).log
    assert proxy.done["lag"] == lags and log.rows == 2
    assert sorted(store.list("metadata/")) == sorted(f"metadata/{name}" for name in log.shards)
    assert list(store.list("staging/")) == []
