from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from darkroom.runs import Ledger, Writer, from_parquet, own, stage, to_table
from darkroom.runs.ledger import Gone
from darkroom.runs.log import ABSENT, FAILED, OK, OTHER
from darkroom.storage import NotFound, StorageError, Store, open_store
from darkroom.storage.hashing import hashes
from darkroom.storage.lease import Held, LeaseLost
from runs import commit, next_owner, result

FIRST_ROUND = Path(__file__).parent.parent / "fixtures" / "first_round" / "run"


class DeathError(Exception):
    """The process died here."""


class CrashingStore:
    """A store whose process dies before its Nth change. Steps are as small as S3's: a move is a copy and a delete."""

    def __init__(self, inner: Store, steps: int) -> None:
        self.inner, self.steps, self.lock = inner, steps, threading.Lock()

    def _step(self) -> None:
        with self.lock:
            if self.steps == 0:
                raise DeathError
            self.steps -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

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
    ledger = Ledger(store)
    shards = ledger.read().shards.values()
    return sorted(row_id for shard in shards for row_id in ledger.table(shard)["id"].to_pylist())


def ids_in_metadata(store: Store) -> list[str]:
    """What other people's tools see: every row of every file in metadata/, records or not."""
    tables = [from_parquet(store.read(key)) for key in store.list("metadata/")]
    return sorted(row_id for table in tables for row_id in table["id"].to_pylist())


def check_never_ahead(store: Store) -> None:
    """True between any two steps: metadata/ shows nothing that does not count, no id twice, and nothing is lost."""
    ledger, log = Ledger(store), Ledger(store).read()
    published = {key.removeprefix("metadata/") for key in store.list("metadata/")}
    assert published <= log.shards.keys()
    assert len(set(ids_in_ledger(store))) == log.rows
    for shard in log.shards.values():
        assert hashes(ledger.table(shard)["id"].to_pylist()).tolist() == shard.ids.tolist()


def check_settled(store: Store, ids: list[str]) -> None:
    """True once an owner has opened the run: each id exactly once, in the log and in metadata/, nothing left over."""
    assert ids_in_ledger(store) == sorted(ids)
    assert ids_in_metadata(store) == sorted(ids)
    assert sorted(store.list("metadata/")) == sorted(f"metadata/{name}" for name in Ledger(store).read().shards)
    assert list(store.list("staging/")) == []


def fresh(uri: str, number: object) -> Store:
    return open_store(f"{uri}/{number}")


# ---- without trouble


def test_committed_shards_are_published_and_recorded(store_uri: str) -> None:
    store = open_store(store_uri)
    writer = next_owner(store)
    first, failed = shard("x", "y"), shard("z", status="failed")
    writer.commit([stage(store, "a1b2c3-000000", first), stage(store, "a1b2c3-000001", failed)])
    check_settled(store, ["x", "y", "z"])
    log = Ledger(store).read()
    assert {task: dict(counts) for task, counts in log.counts.items()} == {"text_to_image": {"ok": 2, "failed": 1}}
    assert log.position == (1, 1), "two units of work are one record"
    second = list(log.shards.values())[1]
    assert Ledger(store).table(second).equals(shard("z", status="failed"))
    assert Ledger(store).table(second, ["id", "status"]).to_pylist() == [{"id": "z", "status": "failed"}]


def test_a_record_is_plain_json(store_uri: str) -> None:
    store = open_store(store_uri)
    commit(store, "u-1", shard("ü"))
    record = json.loads(store.read("commits/000001-00000001.record.json"))
    (entry,) = record["shards"]
    data = store.read(f"metadata/{entry['name']}")
    assert (record["version"], record["voids"], entry["rows"], entry["bytes"]) == (2, [], 1, len(data))
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert entry["counts"] == {"text_to_image": {"ok": 1}}


def test_an_empty_run(store_uri: str) -> None:
    store = open_store(store_uri)
    assert Ledger(store).read().rows == 0 and Ledger(store).read().counts == {}
    writer = next_owner(store)
    writer.commit([])
    assert writer.withdraw(hashes(["x"])) == 0 and writer.compact() == 0
    writer.close()
    assert Ledger(store).read().rows == 0


def test_the_index_says_how_rows_stand(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    commit(store, "u-1", shard("a", "b"))
    commit(store, "u-2", shard("c", status="failed"))
    index = Ledger(store).read().index
    ids, keys = hashes(["a", "c", "b", "d"]), hashes([key_of("a"), key_of("c"), "another", key_of("d")])
    assert index.standing(ids, keys).tolist() == [OK, FAILED, OTHER, ABSENT]
    assert index.leavers(hashes(["a", "d"])).tolist() == sorted(hashes(["b", "c"]).tolist())
    assert (index.rows, index.good) == (3, 2)
    found = index.with_keys(hashes([key_of("b"), key_of("c"), key_of("d")]))
    tables = [Ledger(store).table(shard).take(places) for shard, places in found]
    assert [table["id"].to_pylist() for table in tables] == [["b"], ["c"]]


def test_a_row_made_anew_supersedes_the_old_one_in_one_record(store_uri: str) -> None:
    store = open_store(store_uri)
    commit(store, "u-1", shard("a", "b", "c"))
    commit(store, "u-2", shard("b", "d", status="failed"))
    check_settled(store, ["a", "b", "c", "d"])
    log = Ledger(store).read()
    assert dict(log.counts["text_to_image"]) == {"ok": 2, "failed": 2}
    commit(store, "u-3", shard("a", "c"))
    check_settled(store, ["a", "b", "c", "d"])
    assert len(Ledger(store).read().shards) == 2, "a shard that is left with nothing goes"


def test_one_owner_supersedes_a_shard_again_and_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ids = [f"row-{number}" for number in range(12)]
    commit(store, "u", shard(*ids))
    writer = next_owner(store)
    for row_id in ids:
        writer.commit([stage(store, "v", shard(row_id))])
        check_never_ahead(store)
    check_settled(store, ids)
    assert len(writer.log.shards) == 12


def test_withdrawn_rows_are_gone_and_can_be_made_anew(store_uri: str) -> None:
    store = open_store(store_uri)
    run_with_three_shards(store)
    writer = next_owner(store)
    assert writer.withdraw(hashes(["b", "d", "e", "nobody"])) == 3
    check_settled(store, ["a", "c", "f"])
    assert writer.withdraw(hashes(["c"])) == 1
    check_settled(store, ["a", "f"])
    writer.commit([stage(store, "u-2", shard("d", "e")), stage(store, "u-1", shard("b", "c"))])
    check_settled(store, ["a", "b", "c", "d", "e", "f"])


def test_small_shards_become_one(store_uri: str) -> None:
    store = open_store(store_uri)
    run_with_three_shards(store)
    writer = next_owner(store)
    assert writer.compact(most_bytes=10) == 0
    assert writer.compact() == 2
    check_settled(store, ["a", "b", "c", "d", "e", "f"])
    (merged,) = Ledger(store).read().shards.values()
    assert Ledger(store).table(merged)["id"].to_pylist() == ["a", "b", "c", "d", "e", "f"]
    assert writer.compact() == 0


def test_a_roll_up_stands_for_all_before_it(store_uri: str) -> None:
    store = open_store(store_uri)
    run_with_three_shards(store)
    before = Ledger(store).read()
    writer = next_owner(store)
    writer.close()
    assert [key.rpartition(".")[2] for key in store.list("commits/")] == ["parquet"]
    after = Ledger(store).read()
    assert [shard.to_json() for shard in after.shards.values()] == [shard.to_json() for shard in before.shards.values()]
    commit(store, "u-4", shard("g"))
    check_settled(store, ["a", "b", "c", "d", "e", "f", "g"])
    assert Ledger(store).read().rolled_up == 6


def test_a_long_tail_is_rolled_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.runs.writer.TAIL", 20)
    store = open_store(str(tmp_path))
    writer = next_owner(store)
    for number in range(50):
        writer.commit([stage(store, f"u-{number}", shard(f"row-{number:02d}"))])
        assert len(list(store.list("commits/"))) <= 21
    check_settled(store, [f"row-{number:02d}" for number in range(50)])


def test_a_run_that_is_made_anew_is_rolled_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows do not grow in number, and its log does."""
    monkeypatch.setattr("darkroom.runs.writer.TAIL", 20)
    monkeypatch.setattr("darkroom.runs.writer.SMALL", 0)
    store, ids = open_store(str(tmp_path)), [f"row-{number:02d}" for number in range(50)]
    writer = next_owner(store)
    writer.commit([stage(store, f"u-{row_id}", shard(row_id)) for row_id in ids])
    writer.close()
    writer = next_owner(store)
    for row_id in ids:
        writer.commit([stage(store, "v", shard(row_id))])
        assert len(list(store.list("commits/"))) <= 21
    writer.close()
    assert len(list(store.list("commits/"))) == 1
    check_settled(store, ids)


# ---- who may write


def test_a_second_owner_is_refused_while_the_first_lives(store_uri: str) -> None:
    store = open_store(store_uri)
    with own(store, "generate a.yaml", seconds=2) as writer:
        writer.open()
        with (
            pytest.raises(Held, match="generate a.yaml is still running, by .*, process .*, last heard of at 20.* UTC"),
            own(store, "b", seconds=2),
        ):
            pytest.fail("two owned it")
    with own(store, "b", seconds=2) as second:
        assert second.epoch == writer.epoch + 1


def test_what_a_former_owner_still_commits_does_not_count(store_uri: str) -> None:
    store = open_store(store_uri)
    former = Writer(store, epoch=1)
    former.open()
    former.commit([stage(store, "u-1", shard("a"))])
    late = stage(store, "u-2", shard("b"))
    owner = Writer(store, epoch=2)
    owner.open()
    with pytest.raises(NotFound):
        former.commit([late])  # it slept, and did not look at its lease: what it staged has been cleared away
    former.commit([stage(store, "u-2", shard("b"))])
    assert ids_in_ledger(store) == ["a"]
    owner.commit([stage(store, "u-3", shard("b", "c"))])
    assert ids_in_ledger(store) == ["a", "b", "c"]
    next_owner(store)
    check_settled(store, ["a", "b", "c"])


def test_a_lease_that_is_gone_does_not_turn_the_epochs_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    run_with_three_shards(store)
    next_owner(store)
    writer = Writer(store, epoch=1)
    writer.open()
    writer.commit([stage(store, "u", shard("x"))])
    assert ids_in_ledger(store) == [*ALL, "x"] and writer.epoch == 3


def test_of_two_who_open_at_once_one_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    slow, quick = Writer(store), Writer(store)
    log = slow.ledger.read()
    slow.ledger.read = lambda: quick.open() and None or log
    with pytest.raises(LeaseLost, match="another process has taken over"):
        slow.open()


def test_who_has_lost_the_lease_changes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def lost() -> None:
        raise LeaseLost("gone")

    writer = Writer(store, epoch=1)
    writer.open()
    staged, before = stage(store, "u-1", shard("a")), sorted(store.list(""))
    writer.check = lost
    for act in (lambda: writer.commit([staged]), writer.roll_up):
        with pytest.raises(LeaseLost):
            act()
    assert sorted(store.list("")) == before


@pytest.mark.parametrize(("slept", "counts"), [(1, {"ok": 2}), (2, {"ok": 2}), (3, {"failed": 2})])
def test_who_sleeps_in_a_commit_takes_nothing_from_the_next_owner(
    tmp_path: Path, slept: int, counts: dict[str, int]
) -> None:
    """After each of its looks at the lease; meanwhile the next owner opens the run, and a worker that is late stages
    what is committed."""
    store = open_store(str(tmp_path))
    commit(store, "u-1", shard("a", "b"))
    former, looks = next_owner(store), 0
    made = stage(store, "u-2", shard("a", "b", status="failed"))
    data = store.read(f"staging/{made.name}")

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == slept:
            next_owner(store)
            store.write(f"staging/{made.name}", data)
        elif looks > slept:
            raise LeaseLost("gone")

    former.check = check
    with pytest.raises(LeaseLost) if slept < 3 else nullcontext():
        former.commit([made])
    check_never_ahead(store)
    next_owner(store)
    check_settled(store, ["a", "b"])
    assert Ledger(store).read().counts == {"text_to_image": counts}


# ---- runs of the first round


def test_a_run_of_the_first_round_is_read_and_brought_along(tmp_path: Path) -> None:
    shutil.copytree(FIRST_ROUND, tmp_path / "run")
    store = open_store(str(tmp_path / "run"))
    log = Ledger(store).read()
    counts = {task: dict(number) for task, number in log.counts.items()}
    assert counts == {"anagram": {"ok": 1}, "image_to_image": {"failed": 1}, "text_to_image": {"ok": 4}}
    assert sorted(store.list("")) == sorted(open_store(str(FIRST_ROUND)).list("")), "reading changes nothing"
    writer = next_owner(store)
    ids = ["again", "five", "flip", "gone", "seven", "three"]
    check_settled(store, ids)
    assert [key.rpartition(".")[2] for key in store.list("commits/")] == ["parquet"]
    writer.commit([stage(store, "new", shard("five", "more"))])
    check_settled(store, [*ids, "more"])
    assert Ledger(store).read().counts["text_to_image"].total() == 5


def test_a_run_of_the_first_round_survives_a_death_at_every_step(tmp_path: Path) -> None:
    for step in range(100):
        shutil.copytree(FIRST_ROUND, tmp_path / str(step))
        store = open_store(str(tmp_path / str(step)))
        died = crashed(lambda s: next_owner(s).commit([stage(s, "u", shard("five"))]), store, step)
        check_never_ahead(store)
        next_owner(store)
        check_settled(store, ["again", "five", "flip", "gone", "seven", "three"])
        if not died:
            break
    assert step > 5


# ---- our own bugs


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "..", "a b"])
def test_a_unit_needs_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="cannot be committed"):
        stage(open_store(str(tmp_path)), name, shard("x"))


def test_a_commit_needs_rows_and_each_id_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(AssertionError, match="with 0 rows"):
        stage(store, "u", shard())
    with pytest.raises(AssertionError, match="holds an id twice"):
        stage(store, "u", shard("x", "x"))
    with pytest.raises(AssertionError, match="together hold an id twice"):
        next_owner(store).commit([stage(store, "u", shard("x")), stage(store, "v", shard("x"))])


# ---- damage


def test_a_damaged_shard_is_named(store_uri: str) -> None:
    store = open_store(store_uri)
    commit(store, "u-1", shard("x"))
    (found,) = Ledger(store).read().shards.values()
    store.write(f"metadata/{found.name}", store.read(f"metadata/{found.name}")[:-1])
    with pytest.raises(StorageError, match=f"{found.name} is damaged"):
        Ledger(store).table(found)


def test_rows_of_a_lost_shard_are_to_be_made_anew(store_uri: str) -> None:
    store = open_store(store_uri)
    commit(store, "u-1", shard("x"))
    commit(store, "u-2", shard("y"))
    first = next(iter(Ledger(store).read().shards.values()))
    store.delete(f"metadata/{first.name}")
    with pytest.raises(Gone, match=first.name):
        Ledger(store).table(first)
    lost = Writer(store, epoch=9).open()
    assert [shard.name for shard in lost] == [first.name]
    check_settled(store, ["y"])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("u-1.json", b"", "is not a commit record"),
        ("u-1.json", b"[1]", "is not a commit record"),
        ("u-1.json", b'{"version": 1}', "is not a commit record"),
        ("u-1.json", b'{"version": 3, "new": 0}', "is of ledger version 3: this program reads 1 and 2"),
        ("000001-00000001.record.json", b"{}", "is not a commit record"),
        ("000001-00000001.record.json", b'{"version": 3}', "is of ledger version 3: this program reads 1 and 2"),
        ("000001-00000001.rollup.parquet", b"PAR1", "is damaged: it is no roll-up"),
    ],
)
def test_an_unreadable_record_stops_the_job(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    store = open_store(str(tmp_path))
    store.write(f"commits/{name}", content)
    with pytest.raises(StorageError, match=f"commits/{name} {complaint}"):
        Ledger(store).read()


# ---- a crash at every step


def run_with_three_shards(store: Store) -> None:
    writer = next_owner(store)
    for unit in (("a", "b", "c"), ("d", "e"), ("f",)):
        writer.commit([stage(store, "u", shard(*unit))])


def deaths(uri: str, work: Callable[[Writer], object], wanted: Callable[[list[str]], bool]) -> int:
    """An owner's work on three shards dies at each of its steps, and the next owner at each of those of its opening;
    how many deaths that were. wanted: which ids may be left."""
    number = 0

    def working(store: Store) -> None:
        owner = Writer(store, epoch=2)
        owner.open()
        work(owner)

    for first in range(100):
        for second in range(100):
            store = fresh(uri, f"{first}-{second}")
            run_with_three_shards(store)
            died = crashed(working, store, first)
            check_never_ahead(store)
            died_again = crashed(lambda s: Writer(s, epoch=3).open(), store, second)
            check_never_ahead(store)
            Writer(store, epoch=4).open()
            check_settled(store, ids_in_ledger(store))
            assert wanted(ids_in_ledger(store))
            number += died + died_again
            if not died_again:
                break
        if not died:
            return number
    raise AssertionError("it never ended")


ALL = ["a", "b", "c", "d", "e", "f"]


def test_a_commit_that_dies_anywhere_is_whole_or_not_there(tmp_path: Path) -> None:
    def work(owner: Writer) -> None:
        owner.commit([stage(owner.store, "u", shard("x", "y")), stage(owner.store, "v", shard("z"))])

    assert deaths(str(tmp_path), work, lambda left: left in (ALL, [*ALL, "x", "y", "z"])) > 20


def test_superseding_that_dies_anywhere_loses_nothing(tmp_path: Path) -> None:
    def work(owner: Writer) -> None:
        owner.commit([stage(owner.store, "u", shard("b", "d", "e", "x"))])

    assert deaths(str(tmp_path), work, lambda left: left in (ALL, [*ALL, "x"])) > 30


def test_a_withdrawal_that_dies_anywhere_is_whole_or_not_there(tmp_path: Path) -> None:
    def work(owner: Writer) -> None:
        owner.withdraw(hashes(["b", "d", "e"]))

    assert deaths(str(tmp_path), work, lambda left: left in (ALL, ["a", "c", "f"])) > 30


def test_merging_and_rolling_up_that_die_anywhere_change_nothing(tmp_path: Path) -> None:
    def work(owner: Writer) -> None:
        owner.compact()
        owner.close()

    assert deaths(str(tmp_path), work, lambda left: left == ALL) > 30


def test_strays_in_metadata_are_removed(store_uri: str) -> None:
    store = open_store(store_uri)
    commit(store, "u-1", shard("x"))
    (name,) = Ledger(store).read().shards
    store.write("metadata/u-9.0123456789ab.parquet", store.read(f"metadata/{name}"))
    store.write("staging/u-9.0123456789ab.parquet", b"half")
    next_owner(store)
    check_settled(store, ["x"])


def test_a_store_that_fails_is_a_storage_error_and_the_next_owner_resumes(
    s3_env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_env)
    commit(store, "u-1", shard("x"))
    with monkeypatch.context() as outage:
        outage.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        outage.setenv("DARKROOM_S3_PATIENCE", "0")
        with pytest.raises(StorageError, match=r"u-2\..*the endpoint cannot be reached"):
            stage(store, "u-2", shard("y"))
    commit(store, "u-2", shard("y"))
    check_settled(store, ["x", "y"])
