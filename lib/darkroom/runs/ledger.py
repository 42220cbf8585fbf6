"""What is done. A row counts from the moment its shard's record exists, and readers trust only records.

    RUN/staging/SHARD.parquet                  written, perhaps not (or no longer) counting
    RUN/commits/EPOCH-NUMBER.record.json       a record: creating it is the commit, and only the run's owner does
    RUN/commits/EPOCH-NUMBER.rollup.parquet    all records up to this one in one object; those are deleted then
    RUN/metadata/SHARD.parquet                 published; at every moment a shard in here counts, and no id is twice

A shard's file name has a random part, so it stands for one writing. Workers stage shards and hand back what a record
says of them; the owner's `Writer` commits. Runs of version 1 (a record per shard, by its name) are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from darkroom.phases import plural
from darkroom.runs.log import (
    Counts,
    Log,
    LogDamaged,
    Position,
    Record,
    Shard,
    follow,
    in_force,
    is_rollup,
    position_of,
    record_key,
)
from darkroom.runs.results import SCHEMA, from_parquet, to_parquet, with_added
from darkroom.storage import NotFound, StorageError, Store, StoredFile
from darkroom.storage.hashing import hashes

READERS = 16
_TRIES = 10  # at a log whose owner rolls it up while we read
_PAUSE = 0.02  # seconds before the second, twice as many before the third
_LARGE = 8 * 2**20  # bytes of a shard of which single columns are fetched
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SHARD = re.compile(rf"{_NAME.pattern}(\.[0-9a-f]{{12}}){{1,2}}\.parquet")
_VERSION_1 = re.compile(rf"{_NAME.pattern}(\.[0-9a-f]{{12}})?\.json")
_COUNTED = ["id", "key", "status", "task"]


class Damaged(StorageError):
    """A shard is not what was committed, or is gone: its rows are to be made anew."""


class Gone(Damaged):
    """A shard that was committed is there no more."""


class Ledger:
    """The ledger of one run, to be read."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self) -> Log:
        """The log as it stands. LogDamaged; StorageError."""
        for count in range(1, _TRIES):
            try:
                return self._read()
            except (NotFound, LogDamaged):
                time.sleep(_PAUSE * count)  # rolled up between the listing and the reading, or the listing lags
        return self._read()

    def table(self, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a shard. Damaged if it is gone or not what was committed; with `columns` of a large one, it is
        not looked at as a whole. StorageError."""
        if columns is not None and shard.bytes > _LARGE:
            return self._columns(shard, list(columns))
        table = from_parquet(self._data(shard))
        return table if columns is None else table.select(list(columns))

    def rows(self, shard: Shard, places: np.ndarray) -> Iterator[pa.Table]:
        """Those rows of a shard, int [N] in ascending order, all at once or, of a large one, a row group at a time.
        Raises as `table`."""
        if shard.bytes <= _LARGE:
            yield self.table(shard).take(places)
            return
        with self._reading(shard) as file:
            groups = pq.ParquetFile(file, pre_buffer=True)
            first = 0
            for number in range(groups.num_row_groups):
                after = first + groups.metadata.row_group(number).num_rows
                if len(inside := places[(places >= first) & (places < after)]):
                    yield with_added(groups.read_row_group(number), SCHEMA.names).take(inside - first)
                first = after

    def _columns(self, shard: Shard, columns: list[str]) -> pa.Table:
        with self._reading(shard) as file:
            return with_added(pq.read_table(file, columns=columns), columns)

    @contextmanager
    def _reading(self, shard: Shard) -> Iterator[StoredFile]:
        where = self._where(shard)
        try:
            yield StoredFile(self.store, where)
        except NotFound as error:
            raise _gone(shard, self.store) from error
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self.store.uri(where)} is damaged: {error}") from error

    def _read(self) -> Log:
        keys = list(self.store.list("commits/"))
        rollups = [key for key in keys if is_rollup(key)]
        placed = [key for key in keys if position_of(key) and not is_rollup(key)]
        others = [key for key in keys if position_of(key) is None]
        earlier = list(filter(is_version_1_record, others))
        with ThreadPoolExecutor(READERS, thread_name_prefix="ledger") as pool:
            records = list(pool.map(self._record, placed))
            records += self._unlisted(max(map(position_of, [*rollups, *placed]), default=(0, -1)))
            if rollups:
                log = self._since(rollups, records)
            else:
                log = Log(shards={shard.name: shard for shard in self._version_1(earlier, pool)})
                log = self._applied(log, in_force(records))
        if not keys and any(is_shard_name(key.removeprefix("metadata/")) for key in self.store.list("metadata/")):
            raise LogDamaged(f"{self.store.uri('commits/')} is empty, though results lie in metadata/")
        log.earlier, log.foreign = bool(earlier), sorted(set(others) - set(earlier))
        return log

    def _since(self, rollups: list[str], records: list[Record]) -> Log:
        """The newest roll-up that no later owner has cut off, and the records after it."""
        fences = [(record.position, record.after) for record in records if record.after is not None]
        for key in reversed(rollups):
            position = position_of(key)
            assert position is not None
            if all(position >= own or position <= after for own, after in fences):
                log = Log.from_rollup(self.store.read(key), self.store.uri(key))
                return self._applied(log, [one for one in in_force(records) if one.position > position])
        raise LogDamaged(f"no roll-up in {self.store.uri('commits/')} is in force: the run's log is damaged")

    def _applied(self, log: Log, records: list[Record]) -> Log:
        if not follow(log.position, records):
            raise LogDamaged(f"a record or a roll-up is missing in {self.store.uri('commits/')}")
        for record in records:
            log.apply(record)
        return log

    def _unlisted(self, last: Position) -> list[Record]:
        """Records behind the last that was listed: they are numbered, and some servers' listings lag behind."""
        found: list[Record] = []
        while True:
            for following in ((last[0], last[1] + 1), (last[0] + 1, 0)):
                with suppress(NotFound):
                    found.append(self._record(record_key(following)))
                    last = following
                    break
            else:
                return found

    def _record(self, key: str) -> Record:
        return Record.from_json(self.store.read(key), self.store.uri(key))

    def _version_1(self, keys: list[str], pool: ThreadPoolExecutor) -> list[Shard]:
        records = list(pool.map(lambda key: _version_1_record(self.store.read(key), self.store.uri(key)), keys))
        void = {shard for record in records for shard in record["replaces"]}
        return list(pool.map(self._shard_of_version_1, [r for r in records if r["shard"] not in void]))

    def _shard_of_version_1(self, record: dict) -> Shard:
        """Its record lacks counts and size: they are counted once, until an owner writes the first roll-up."""
        ids, keys, statuses = zip(*record["entries"], strict=True)
        arrays = hashes(ids), hashes(keys), np.array([status == "ok" for status in statuses])
        shard = Shard(record["shard"], record["sha256"], record["rows"], 0, {}, *arrays)
        try:
            data = self._data(shard)
        except Damaged:
            return shard
        tasks = from_parquet(data)["task"].to_pylist()
        facts = shard.facts() | {"bytes": len(data), "counts": _counted(tasks, statuses)}
        return Shard(**facts, ids=arrays[0], keys=arrays[1], ok=arrays[2])

    def _where(self, shard: Shard) -> str:
        published = published_key(shard.name)
        return published if self.store.exists(published) else staged_key(shard.name)

    def _data(self, shard: Shard) -> bytes:
        try:
            data = self._read_shard(shard.name)
        except NotFound as error:
            raise _gone(shard, self.store) from error
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            where = self.store.uri(published_key(shard.name))
            raise Damaged(f"{where} is damaged: its sha256 is not the one that was committed")
        return data

    def _read_shard(self, name: str) -> bytes:
        # Staged and then published again: the shard may move while we look for it.
        for key in (published_key(name), staged_key(name)):
            try:
                return self.store.read(key)
            except NotFound:
                continue
        return self.store.read(published_key(name))


def stage(store: Store, unit: str, table: pa.Table) -> Shard:
    """Writes result rows as a shard that does not count yet, and says of it what a commit needs. unit: what it is named
    after. Rows that cannot be a shard are our own bug: AssertionError."""
    if not _NAME.fullmatch(unit) or not table.num_rows:
        raise AssertionError(f"a unit of work {unit!r} with {table.num_rows} rows cannot be committed")
    if len(table["id"].unique()) != table.num_rows:
        raise AssertionError(f"the unit of work {unit!r} holds an id twice")
    data = to_parquet(table)
    name = f"{unit}.{secrets.token_hex(6)}.parquet"
    store.write(staged_key(name), data)
    return shard_of(name, data, table)


def shard_of(name: str, data: bytes, table: pa.Table) -> Shard:
    """What a record says of the file of that name: its bytes, and the rows in them."""
    ids, keys, statuses, tasks = (table[column].to_pylist() for column in _COUNTED)
    digest, ok = hashlib.sha256(data).hexdigest(), np.array([status == "ok" for status in statuses])
    return Shard(name, digest, len(ids), len(data), _counted(tasks, statuses), hashes(ids), hashes(keys), ok)


def is_version_1_record(key: str) -> bool:
    """Whether the name of what lies in commits/ is that of a record of the version before."""
    return _VERSION_1.fullmatch(key.removeprefix("commits/")) is not None


def is_shard_name(name: str) -> bool:
    """Whether a file may be one that a job has written."""
    return _SHARD.fullmatch(name) is not None


def staged_key(shard: str) -> str:
    return f"staging/{shard}"


def published_key(shard: str) -> str:
    return f"metadata/{shard}"


def _gone(shard: Shard, store: Store) -> Gone:
    return Gone(f"{store.uri(published_key(shard.name))}, committed with {plural(shard.rows, 'row')}, is gone")


def _counted(tasks: Sequence[str], statuses: Sequence[str]) -> Counts:
    counts: Counts = {}
    for (task, status), number in Counter(zip(tasks, statuses, strict=True)).items():
        counts.setdefault(task, {})[status] = number
    return counts


def _version_1_record(data: bytes, where: str) -> dict:
    try:
        record = json.loads(data)
        if record["version"] != 1:
            raise StorageError(f"{where} is of ledger version {record['version']}: this program reads 1 and 2")
        record["entries"] = [(str(row_id), str(key), str(status)) for row_id, key, status in record["entries"]]
        if not _SHARD.fullmatch(record["shard"]):
            raise ValueError(f"{record['shard']!r} is no shard's name")
        return {name: record[name] for name in ("shard", "sha256", "rows", "entries", "replaces")}
    except (ValueError, TypeError, KeyError) as error:
        raise LogDamaged(f"{where} is not a commit record ({error!r})") from error
