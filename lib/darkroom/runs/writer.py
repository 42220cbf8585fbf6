"""The run's only writer: what its owner commits, withdraws, rolls up and merges.

A step that is cut short leaves a log that is whole, and files that the next owner's `open` puts right. What makes rows
void rewrites their shards without them, in the same record that adds what is new: first the old files leave metadata/,
then the record is created, then the new ones come.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from darkroom.runs.ledger import (
    READERS,
    Damaged,
    Ledger,
    is_shard_name,
    is_version_1_record,
    published_key,
    shard_of,
    stage,
    staged_key,
)
from darkroom.runs.log import Index, Log, Position, Record, Shard, position_of, rollup_key
from darkroom.runs.results import from_parquet, moved_rows, with_places
from darkroom.storage import NotFound, StorageError, Store
from darkroom.storage.lease import LeaseLost, hold

LEASE_SECONDS = 30.0
TAIL = 256  # records after which they are rolled up
TAIL_SHARE = 0.125  # of the rows rolled up before; while records hold fewer, a roll-up waits: its cost is that of all
SMALL = 1_000_000  # rows, whose roll-up costs a second
REWRITTEN = 64  # shards by one record of a withdrawal
MERGED_ROWS, MERGED_BYTES = 50_000, 256 * 2**20  # of a shard that is large enough
FIRST = 0  # number of an owner's first record


class Writer:
    """Commits to a run, as its owner of this epoch. check: raises where another has taken over.

    damaged: shards that could not be read, and why; they count no longer, and their rows are to be made anew.
    foreign: files in the run's own folders that are not its own, and are left alone.
    """

    def __init__(self, store: Store, epoch: int = 1, check: Callable[[], None] = lambda: None) -> None:
        self.store, self.epoch, self.check = store, epoch, check
        self.ledger, self.log = Ledger(store), Log()
        self.damaged, self.foreign = dict[str, Damaged](), list[str]()
        self._index = Index([])  # rows that were there when the run was opened, and where they are now

    def open(self) -> list[Shard]:
        """Reads the log and puts right what a crash left half done; call it first. Returns shards whose files are
        gone: their rows count no longer, and are to be made anew. LogDamaged: nothing is changed then."""
        self.log = self.ledger.read()
        self.epoch = max(self.epoch, self.log.position[0] + 1)  # whatever has become of the lease's file
        staged, published = self._files("staging/"), self._files("metadata/")
        unlisted = [name for name in self.log.shards if name not in staged | published]
        staged |= self._there(staged_key, unlisted)  # the listing of some servers lags behind
        published |= self._there(published_key, unlisted)
        lost = [self.log.shards[name] for name in unlisted if name not in staged | published]
        self._append([], [shard.name for shard in lost], after=self.log.position)
        valid = self.log.shards.keys()
        self.foreign = [f"metadata/{name}" for name in sorted(published - valid) if not is_shard_name(name)]
        self.foreign += self.log.foreign
        published = {name for name in published if is_shard_name(name)}
        self._drop(published_key(name) for name in sorted(published - valid))
        self._publish(sorted(staged & valid))
        self._drop(staged_key(name) for name in sorted(staged - valid))
        if self.log.earlier:
            self.roll_up()  # a run of version 1 is one of version 2 from here on
        self._index = self.log.index
        return lost

    def rebuild(self) -> None:
        """Makes the log anew from metadata/, where every shard counts at every moment: for one that is damaged or gone.
        `open` comes after it."""
        keys = [position for key in self.store.list("commits/") if (position := position_of(key))]
        self.epoch = max([self.epoch, *(epoch + 1 for epoch, _ in keys)])
        names = [name for name in sorted(self._files("metadata/")) if is_shard_name(name)]
        shards = filter(None, self._each(self._read_shard, names))
        self.log = Log({shard.name: shard for shard in shards}, (self.epoch, FIRST))
        self.roll_up()

    def _read_shard(self, name: str) -> Shard | None:
        """None for what is no shard: its rows are made anew, and `open` removes it."""
        data = self.store.read(published_key(name))
        try:
            return shard_of(name, data, from_parquet(data))
        except StorageError:
            return None

    def commit(self, shards: Sequence[Shard]) -> None:
        """Makes staged shards count, all by one record. Rows with their ids that count now are void from then on."""
        if not shards:
            return
        ids = np.concatenate([shard.ids for shard in shards])
        if len(np.unique(ids)) != len(ids):
            raise AssertionError(f"units of work that are committed together hold an id twice: {shards[0].name}, ...")
        self._supersede(shards, self._index.holding(ids), ids)
        if self.log.tail >= TAIL and self._is_worth_a_rollup():
            self.roll_up()

    def withdraw(self, ids: np.ndarray) -> int:
        """Rows with these ids (uint64 hashes) count no longer; how many there were. They are no row's predecessors."""
        before, touched = self.log.rows, self._index.holding(ids)
        for first in range(0, len(touched), REWRITTEN):
            self._supersede([], touched[first : first + REWRITTEN], ids)
        return before - self.log.rows

    def roll_up(self) -> None:
        """Sums the log up in one object, and deletes the records and roll-ups that it stands for."""
        self.check()
        key = rollup_key(self.log.position)
        self.store.write(key, self.log.to_rollup())
        self.check()
        position = self.log.position
        self._drop(old for old in self.store.list("commits/") if old != key and _is_summed_up(old, position))
        self.log.tail, self.log.tail_rows, self.log.rolled_up, self.log.earlier = 0, 0, self.log.rows, False

    def compact(self, most_bytes: float = float("inf")) -> int:
        """Merges small shards that lie next to each other; how many files fewer there are. Damaged ones stay as they
        are, and those that hold an id twice. most_bytes: to be read at most, where there is more nothing is done."""
        # Two jobs at once could make a row twice before a run had one owner; the next job makes it anew, as one.
        apart = {shard.name for shard in self.log.index.holding(self.log.index.twice())}
        groups = list(_groups([shard for shard in self.log.shards.values() if shard.name not in apart]))
        if sum(shard.bytes for group in groups for shard in group) > most_bytes:
            return 0
        before = len(self.log.shards)
        for group in groups:
            read = zip(group, self._each(self.table, group), strict=True)
            tables = {shard: table for shard, table in read if table is not None}
            if len(tables) > 1:
                self._replace([stage(self.store, "merged", pa.concat_tables(tables.values()))], list(tables))
        if groups:
            self.roll_up()
            self._index = self.log.index
        return before - len(self.log.shards)

    def relocate(self) -> int:
        """Has the rows of a run that was moved or copied name their pictures where they lie now, for readers that open
        what `image.path` says; how many rows named others."""
        moved = 0
        for shard in list(self.log.shards.values()):
            if (table := self.table(shard)) is not None and (count := moved_rows(table, self.store)):
                name = shard.name.partition(".")[0]
                self._replace([stage(self.store, name, with_places(table, self.store))], [shard])
                moved += count
        self._index = self.log.index
        return moved

    def table(self, shard: Shard) -> pa.Table | None:
        """The rows of a shard; None where it is damaged, which is noted."""
        try:
            return self.ledger.table(shard)
        except Damaged as error:
            self.damaged[shard.name] = error
            return None

    def rows_with_keys(self, keys: np.ndarray, index: Index | None = None) -> Iterator[pa.Table]:
        """Rows with these keys (uint64 hashes), one for each that there is, a good one if there is any. index: of the
        log as it was before, all of whose shards still count; making one costs a sort of all rows."""
        for shard, places in (index or self.log.index).with_keys(keys):
            if (table := self.table(shard)) is not None:
                yield table.take(places)

    def drop_damaged(self) -> None:
        """What was found to be damaged counts no longer."""
        self._replace([], [self.log.shards[name] for name in self.damaged if name in self.log.shards])
        self._index = self.log.index
        self.damaged = {}

    def close(self) -> None:
        """After the last commit: the log as one object, and nothing staged that does not count."""
        if self.log.tail and (self.log.rows <= SMALL or self._is_worth_a_rollup()):
            self.roll_up()
        self._drop(staged_key(name) for name in sorted(self._files("staging/") - self.log.shards.keys()))

    def _is_worth_a_rollup(self) -> bool:
        return self.log.tail_rows >= TAIL_SHARE * self.log.rolled_up

    def _supersede(self, new: Sequence[Shard], touched: Sequence[Shard], ids: np.ndarray) -> None:
        rewritten = self._each(lambda shard: self._without(shard, ids), touched)
        self._replace([*new, *filter(None, rewritten)], touched)
        for old, kept in zip(touched, rewritten, strict=True):
            self._index.replace(old, kept)

    def _without(self, shard: Shard, ids: np.ndarray) -> Shard | None:
        stays = ~np.isin(shard.ids, ids)
        if not stays.any() or (table := self.table(shard)) is None:
            return None
        return stage(self.store, shard.name.partition(".")[0], table.filter(pa.array(stays)))

    def _replace(self, new: Sequence[Shard], old: Sequence[Shard]) -> None:
        """Unpublish, record, publish: in this order metadata/ is never ahead of the log."""
        self.check()
        self._each(self._unpublish, old)
        self._append(new, [shard.name for shard in old])
        self.check()  # of who slept before it, the record is void, and the old files count
        self._publish([shard.name for shard in new])
        self._drop(staged_key(shard.name) for shard in old)

    def _unpublish(self, shard: Shard) -> None:
        self.check()
        with suppress(NotFound):  # it is gone, which whoever reads it notes
            self.store.move(published_key(shard.name), staged_key(shard.name))

    def _append(self, new: Sequence[Shard], void: Sequence[str], after: Position | None = None) -> None:
        number = self.log.position[1] + 1 if self.log.position[0] == self.epoch else FIRST
        about = {"created_at": datetime.now(UTC).isoformat(), "nonce": secrets.token_hex(8)}
        record = Record((self.epoch, number), new, void, after, about)
        if not self.store.create(record.key, record.to_json()):
            raise LeaseLost(f"{self.store.uri(record.key)} is there already: another process has taken over this run")
        self.log.apply(record)

    def _publish(self, names: Iterable[str]) -> None:
        self._each(lambda name: self.store.move(staged_key(name), published_key(name)), list(names))

    def _drop(self, keys: Iterable[str]) -> None:
        self.store.delete(*keys)

    def _there(self, key: Callable[[str], str], names: list[str]) -> set[str]:
        found = self._each(lambda name: self.store.exists(key(name)), names)
        return {name for name, is_there in zip(names, found, strict=True) if is_there}

    def _files(self, folder: str) -> set[str]:
        return {key.removeprefix(folder) for key in self.store.list(folder)}

    def _each(self, act: Callable, items: Sequence) -> list:
        if len(items) == 1:
            return [act(items[0])]
        with ThreadPoolExecutor(READERS, thread_name_prefix="ledger") as pool:
            return list(pool.map(act, items))


@contextmanager
def own(store: Store, purpose: str, seconds: float = LEASE_SECONDS) -> Iterator[Writer]:
    """The run's writer, while its lease is held: Held where another lives that holds it, see `storage.lease`. Not
    opened yet."""
    with hold(store, purpose, seconds) as lease:
        yield Writer(store, lease.epoch, lease.check)


def _groups(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Neighbours that are to be one file: together they have up to MERGED_ROWS and MERGED_BYTES."""
    group: list[Shard] = []
    rows = size = 0
    for shard in shards:
        if group and (rows + shard.rows > MERGED_ROWS or size + shard.bytes > MERGED_BYTES):
            if len(group) > 1:
                yield group
            group, rows, size = [], 0, 0
        group.append(shard)
        rows, size = rows + shard.rows, size + shard.bytes
    if len(group) > 1:
        yield group


def _is_summed_up(key: str, position: Position) -> bool:
    own = position_of(key)
    return is_version_1_record(key) if own is None else own <= position
