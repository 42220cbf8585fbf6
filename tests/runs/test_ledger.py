from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from darkroom.runs import Ledger, from_parquet, to_table
from darkroom.storage import NotFound, StorageError, Store, open_store
from runs import result


class DeathError(Exception):
    """The process died here."""


class CrashingStore:
    """A store whose process dies before its Nth change. Steps are as small as S3's: a move is a copy and a delete."""

    def __init__(self, inner: Store, steps: int) -> None:
        self.inner, self.steps, self.root = inner, steps, inner.root

    def _step(self) -> None:
        if self.steps == 0:
            raise DeathError
        self.steps -= 1

    def read(self, key: str) -> bytes:
        return self.inner.read(key)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list(prefix)

    def uri(self, key: str) -> str:
        return self.inner.uri(key)

    def write(self, key: str, data: bytes) -> None:
        self._step()
        self.inner.write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self._step()
        return self.inner.create(key, data)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._step()
            self.inner.delete(key)

    def move(self, src: str, dst: str) -> None:
        self._step()
        try:
            data = self.inner.read(src)
        except NotFound:
            if self.inner.exists(dst):
                return
            raise
        self.inner.write(dst, data)
        self._step()
        self.inner.delete(src)


def crashed(work: Callable[[Store], object], store: Store, step: int) -> bool:
    """Run `work` on a store that dies at `step`; whether it did."""
    try:
        work(CrashingStore(store, step))
    except DeathError:
        return True
    return False


def key_of(row_id: str) -> str:
    return hashlib.sha256(row_id.encode()).hexdigest()


def shard(*ids: str, status: str = "ok") -> pa.Table:
    lines = ({"id": row_id, "key": key_of(row_id), "row": {"task": "text_to_image"}} for row_id in ids)
    return to_table([result(line, status, created_at=datetime(2026, 1, 1, tzinfo=UTC)) for line in lines])


def ids_in_ledger(store: Store) -> list[str]:
    return sorted(row_id for row_id, *_ in Ledger(store).entries())


def ids_in_metadata(store: Store) -> list[str]:
    """What other people's tools see: every row of every file in metadata/, records or not."""
    tables = [from_parquet(store.read(key)) for key in store.list("metadata/")]
    return sorted(row_id for table in tables for row_id in table["id"].to_pylist())


def check_never_ahead(store: Store) -> None:
    """True at every moment, between any two steps: metadata/ shows nothing that does not count, and no loss."""
    records = list(Ledger(store).records())
    published = {key.removeprefix("metadata/") for key in store.list("metadata/")}
    assert published <= {record.shard for record in records}
    for record in records:
        assert Ledger(store).table(record)["id"].to_pylist() == [entry[0] for entry in record.entries]


def check_settled(store: Store, ids: list[str]) -> None:
    """True after a recovery: each id exactly once, in the records and in metadata/, and nothing left over."""
    assert ids_in_ledger(store) == sorted(ids)
    assert ids_in_metadata(store) == sorted(ids)
    records = list(Ledger(store).records())
    assert sorted(store.list("metadata/")) == sorted(f"metadata/{record.shard}" for record in records)
    assert sorted(store.list("commits/")) == sorted(f"commits/{record.name}.json" for record in records)
    assert list(store.list("staging/")) == []


def fresh(uri: str, number: object) -> Store:
    return open_store(f"{uri}/{number}")


# ---- without trouble


def test_a_committed_shard_is_published_and_recorded(store_uri: str) -> None:
    store = open_store(store_uri)
    ledger = Ledger(store)
    assert ledger.commit("a1b2c3-000000", shard("x", "y"))
    assert ledger.commit("a1b2c3-000001", shard("z", status="failed"))
    check_settled(store, ["x", "y", "z"])
    first, second = ledger.records()
    assert (first.name, first.rows, first.replaces) == ("a1b2c3-000000", 2, ())
    assert [entry[:3] for entry in ledger.entries()] == [
        ("x", key_of("x"), "ok"), ("y", key_of("y"), "ok"), ("z", key_of("z"), "failed"),
    ]  # fmt: skip
    assert ledger.table(second).equals(shard("z", status="failed"))


def test_the_record_is_plain_json(store_uri: str) -> None:
    store = open_store(store_uri)
    Ledger(store).commit("u-1", shard("ü"))
    record = json.loads(store.read("commits/u-1.json"))
    data = store.read(f"metadata/{record['shard']}")
    assert datetime.fromisoformat(record.pop("created_at")).tzinfo is not None
    assert record == {
        "version": 1, "name": "u-1", "shard": record["shard"], "sha256": hashlib.sha256(data).hexdigest(), "rows": 1,
        "entries": [["ü", key_of("ü"), "ok"]], "replaces": [],
    }  # fmt: skip


def test_an_empty_run_has_no_records(store_uri: str) -> None:
    store = open_store(store_uri)
    Ledger(store).recover()
    assert list(Ledger(store).entries()) == []
    assert Ledger(store).retire({"x"}) == 0


def test_a_unit_committed_again_leaves_nothing_behind(store_uri: str) -> None:
    store = open_store(store_uri)
    assert Ledger(store).commit("u-1", shard("x", "y"))
    assert not Ledger(store).commit("u-1", shard("y", "x", status="failed"))
    check_settled(store, ["x", "y"])
    assert {entry[2] for entry in Ledger(store).entries()} == {"ok"}


def test_of_many_who_commit_one_unit_one_wins(store_uri: str) -> None:
    store = open_store(store_uri)
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda _: Ledger(store).commit("u-1", shard("x", "y")), range(6)))
    assert won.count(True) == 1
    check_settled(store, ["x", "y"])


def test_more_records_than_are_read_at_once(tmp_path) -> None:
    store = open_store(str(tmp_path))
    ids = [f"row-{number:03d}" for number in range(150)]
    for row_id in ids:
        Ledger(store).commit(f"u-{row_id}", shard(row_id))
    assert [entry[0] for entry in Ledger(store).entries()] == ids


def test_retired_rows_are_gone_and_can_be_made_anew(store_uri: str) -> None:
    store = open_store(store_uri)
    ledger = Ledger(store)
    ledger.commit("u-1", shard("a", "b", "c"))
    ledger.commit("u-2", shard("d", "e"))
    ledger.commit("u-3", shard("f"))
    assert ledger.retire({"b", "d", "e", "nobody"}) == 3
    check_settled(store, ["a", "c", "f"])
    assert ledger.retire({"c"}) == 1
    check_settled(store, ["a", "f"])
    # The same units again, under the same names: what they replaced once must not make them void.
    assert ledger.commit("u-2", shard("d", "e"))
    assert ledger.commit("u-1", shard("b", "c"))
    check_settled(store, ["a", "b", "c", "d", "e", "f"])


# ---- our own bugs


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "..", "a b"])
def test_a_unit_needs_a_plain_name(tmp_path, name: str) -> None:
    with pytest.raises(AssertionError, match="cannot be committed"):
        Ledger(open_store(str(tmp_path))).commit(name, shard("x"))


def test_a_unit_needs_rows_and_each_id_once(tmp_path) -> None:
    ledger = Ledger(open_store(str(tmp_path)))
    with pytest.raises(AssertionError, match="with 0 rows"):
        ledger.commit("u", shard())
    with pytest.raises(AssertionError, match="holds an id twice"):
        ledger.commit("u", shard("x", "x"))


def test_other_rows_under_a_committed_name_are_not_lost_silently(tmp_path) -> None:
    store = open_store(str(tmp_path))
    Ledger(store).commit("u-1", shard("x"))
    with pytest.raises(AssertionError, match="'u-1' was committed before with other rows"):
        Ledger(store).commit("u-1", shard("y"))
    check_settled(store, ["x"])


# ---- damage


def test_a_damaged_shard_is_named(store_uri: str) -> None:
    store = open_store(store_uri)
    Ledger(store).commit("u-1", shard("x"))
    (record,) = Ledger(store).records()
    store.write(f"metadata/{record.shard}", store.read(f"metadata/{record.shard}")[:-1])
    with pytest.raises(StorageError, match=f"{record.shard} is damaged"):
        Ledger(store).table(record)


def test_a_lost_shard_is_named_and_nothing_is_changed(store_uri: str) -> None:
    store = open_store(store_uri)
    Ledger(store).commit("u-1", shard("x"))
    (record,) = Ledger(store).records()
    store.delete(f"metadata/{record.shard}")
    store.write("metadata/stray.parquet", b"")
    with pytest.raises(StorageError, match=rf"{record.shard}, committed by .*commits/u-1.json, is gone"):
        Ledger(store).recover()
    with pytest.raises(NotFound, match=record.shard):
        Ledger(store).table(record)
    assert store.exists("metadata/stray.parquet")
    store.delete("commits/u-1.json")  # what the message says to do
    Ledger(store).recover()
    check_settled(store, [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a commit record"),
        (b"[1]", "is not a commit record"),
        (b'{"version": 1}', "is not a commit record"),
        (b'{"version": 2, "new": 0}', "is of ledger version 2: this program reads version 1"),
    ],
)
def test_an_unreadable_record_stops_the_job(tmp_path, content: bytes, complaint: str) -> None:
    store = open_store(str(tmp_path))
    store.write("commits/u-1.json", content)
    with pytest.raises(StorageError, match=f"commits/u-1.json {complaint}"):
        list(Ledger(store).records())


# ---- a crash at every step


def test_a_commit_that_dies_anywhere_is_whole_or_not_there(store_uri: str) -> None:
    outcomes = []
    for step in range(100):
        store = fresh(store_uri, step)
        Ledger(store).commit("u-0", shard("old"))
        died = crashed(lambda s: Ledger(s).commit("u-1", shard("x", "y")), store, step)
        check_never_ahead(store)
        Ledger(store).recover()
        there = ids_in_ledger(store) == ["old", "x", "y"]
        check_settled(store, ["old", "x", "y"] if there else ["old"])
        outcomes.append(there)
        if not died:
            break
        assert Ledger(store).commit("u-1", shard("x", "y")) is not there
        check_settled(store, ["old", "x", "y"])
    # stage | record | copy, delete: the record is what decides
    assert outcomes == [False, False, True, True, True]


def test_a_retried_commit_publishes_what_the_dead_one_recorded(store_uri: str) -> None:
    """Within one job nobody recovers: the second try of the task has to finish the first."""
    for step in range(100):
        store = fresh(store_uri, step)
        died = crashed(lambda s: Ledger(s).commit("u-1", shard("x", "y")), store, step)
        Ledger(store).commit("u-1", shard("x", "y"))
        assert ids_in_ledger(store) == ids_in_metadata(store) == ["x", "y"]
        check_never_ahead(store)
        Ledger(store).recover()
        check_settled(store, ["x", "y"])
        if not died:
            break
    assert step == 4


def run_with_three_shards(store: Store) -> None:
    Ledger(store).commit("u-1", shard("a", "b", "c"))
    Ledger(store).commit("u-2", shard("d", "e"))
    Ledger(store).commit("u-3", shard("f"))


def check_after_retire_of_b_d_e(store: Store) -> None:
    """Retiring may have gone any part of the way, but by whole records, and the rows that stay are there once."""
    left = ids_in_ledger(store)
    assert left in (["a", "b", "c", "d", "e", "f"], ["a", "c", "d", "e", "f"], ["a", "c", "f"])
    check_settled(store, left)


def test_a_retirement_that_dies_anywhere_can_be_recovered(store_uri: str) -> None:
    for step in range(100):
        store = fresh(store_uri, step)
        run_with_three_shards(store)
        died = crashed(lambda s: Ledger(s).retire({"b", "d", "e"}), store, step)
        check_never_ahead(store)
        Ledger(store).recover()
        check_after_retire_of_b_d_e(store)
        Ledger(store).retire({"b", "d", "e"})
        check_settled(store, ["a", "c", "f"])
        if not died:
            break
    assert step == 12  # stage, unpublish 2, record, publish 2, record, shard; unpublish 2, record, shard


def test_a_recovery_that_dies_anywhere_can_be_recovered(tmp_path) -> None:
    """Every crash of a retirement, times every crash of the recovery after it."""
    deaths = 0
    for first in range(14):
        for second in range(100):
            store = fresh(str(tmp_path), f"{first}-{second}")
            run_with_three_shards(store)
            crashed(lambda s: Ledger(s).commit("u-4", shard("g")), store, 1)  # an orphan in staging/
            crashed(lambda s: Ledger(s).retire({"b", "d", "e"}), store, first)
            died = crashed(lambda s: Ledger(s).recover(), store, second)
            check_never_ahead(store)
            Ledger(store).recover()
            check_after_retire_of_b_d_e(store)
            if not died:
                break
            deaths += 1
    assert deaths > 14


def test_a_crashed_retirement_without_recovery_can_be_retired_again(tmp_path) -> None:
    for step in range(14):
        store = fresh(str(tmp_path), step)
        run_with_three_shards(store)
        crashed(lambda s: Ledger(s).retire({"b"}), store, step)
        Ledger(store).retire({"b", "c"})
        check_never_ahead(store)
        assert ids_in_ledger(store) == ["a", "d", "e", "f"]
        Ledger(store).recover()
        check_settled(store, ["a", "d", "e", "f"])


def test_strays_in_metadata_are_removed(store_uri: str) -> None:
    store = open_store(store_uri)
    Ledger(store).commit("u-1", shard("x"))
    (record,) = Ledger(store).records()
    store.write("metadata/u-9.0123456789ab.parquet", store.read(f"metadata/{record.shard}"))
    store.write("staging/u-9.0123456789ab.parquet", b"half")
    Ledger(store).recover()
    check_settled(store, ["x"])


def test_a_store_that_fails_is_a_storage_error_and_the_same_call_resumes(
    s3_env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_env)
    Ledger(store).commit("u-1", shard("x"))
    with monkeypatch.context() as outage:
        outage.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        outage.setenv("DARKROOM_S3_ATTEMPTS", "1")
        with pytest.raises(StorageError, match=r"u-2\..*the endpoint cannot be reached"):
            Ledger(store).commit("u-2", shard("y"))
    assert Ledger(store).commit("u-2", shard("y"))
    check_settled(store, ["x", "y"])
