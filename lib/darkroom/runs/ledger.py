"""What is done. A shard of result rows counts from the moment its commit record exists, and readers trust only those.

    RUN/staging/SHARD.parquet     written, perhaps not (or no longer) counting
    RUN/commits/NAME.json         the record: creating it is the commit, and only one writer can
    RUN/metadata/SHARD.parquet    published; at every moment a shard in here has a valid record

A shard's file name has a random part, so it stands for one writing: records say by shard what they replace, and the
name of a unit of work may be used again after its rows were retired.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from darkroom.storage.errors import NotFound, StorageError
from darkroom.runs.results import from_parquet, to_parquet
from darkroom.storage.stores import Store

VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no dot: a dot marks a record that replaces others
_READERS = 16
_WINDOW = 64  # records in memory at once while the ledger is read


@dataclass(frozen=True)
class CommitRecord:
    """One committed shard. `entries` are (id, key, status) in the shard's order; `replaces` are shards now void."""

    name: str
    shard: str
    sha256: str
    rows: int
    entries: tuple[tuple[str, str, str], ...]
    replaces: tuple[str, ...]
    created_at: str

    def to_json(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> CommitRecord:
        """StorageError, naming `where`, if this is no record or one of another version."""
        try:
            fields = json.loads(data)
            version = fields.pop("version")
            if version != VERSION:
                raise StorageError(f"{where} is of ledger version {version}: this program reads version {VERSION}")
            fields["entries"] = tuple((str(i), str(k), str(s)) for i, k, s in fields["entries"])
            fields["replaces"] = tuple(fields["replaces"])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            advice = "delete it to have its rows made anew"
            raise StorageError(f"{where} is not a commit record ({error!r}); {advice}") from error


class Ledger:
    """The ledger of one run. Many may `commit` at once; `recover` and `retire` want to be the run's only writer."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def commit(self, name: str, table: pa.Table) -> bool:
        """Commit and publish a shard as the unit of work `name`. False if that unit was committed before (a retry).

        `name` must be made from the rows it stands for: another set of rows under a committed name would be lost
        silently, so that is an AssertionError.
        """
        if not _NAME.fullmatch(name) or not table.num_rows:
            raise AssertionError(f"a unit of work {name!r} with {table.num_rows} rows cannot be committed")
        record = self._stage(name, table, replaces=())
        if not self.store.create(_record_key(name), record.to_json()):
            earlier = self._read_record(_record_key(name))
            if earlier.shard != record.shard:
                self.store.delete(_staged(record.shard))
                if {entry[:2] for entry in earlier.entries} != {entry[:2] for entry in record.entries}:
                    raise AssertionError(f"the unit of work {name!r} was committed before with other rows")
            # The earlier try may have died between its record and this move.
            self._publish(earlier.shard)
            return earlier.shard == record.shard
        self._publish(record.shard)
        return True

    def records(self) -> Iterator[CommitRecord]:
        """Every valid record, in order of name; one whose shard another record replaces is void and left out."""
        void = self._void_shards()
        return (record for record in self._read_records() if record.shard not in void)

    def entries(self) -> Iterator[tuple[str, str, str, CommitRecord]]:
        """(id, key, status, record) of every row that counts."""
        for record in self.records():
            for row_id, key, status in record.entries:
                yield row_id, key, status, record

    def table(self, record: CommitRecord) -> pa.Table:
        """The rows of a valid record; StorageError if its shard is gone or not what was committed."""
        data = self._read_shard(record)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            where = self.store.uri(_published(record.shard))
            raise StorageError(f"{where} is damaged: its sha256 is not the one in {_record_key(record.name)}")
        return from_parquet(data)

    def recover(self) -> None:
        """Finish whatever a crash left half done. Call it at the start of a job that is the run's only writer.

        Every step may itself be cut short and done again. Nothing is changed if a committed shard is missing.
        """
        valid = {record.shard: record.name for record in self.records()}
        staged, published = self._shards("staging/"), self._shards("metadata/")
        for shard, name in valid.items():
            if shard not in staged | published:
                where = self.store.uri(_record_key(name))
                raise StorageError(f"{shard}, committed by {where}, is gone; delete that record to make its rows anew")
        self.store.delete(*(_published(shard) for shard in sorted(published - valid.keys())))
        for shard in sorted(staged & valid.keys()):
            self._publish(shard)
        self.store.delete(*(_staged(shard) for shard in sorted(staged - valid.keys())))
        void = [record.name for record in self._read_records() if record.shard not in valid]
        self.store.delete(*(_record_key(name) for name in void))

    def retire(self, ids: set[str]) -> int:
        """Take the rows with these ids out of the ledger and out of metadata/; how many rows that were."""
        touched = [record for record in self.records() if any(entry[0] in ids for entry in record.entries)]
        return sum(self._retire_from(record, ids) for record in touched)

    def _retire_from(self, record: CommitRecord, ids: set[str]) -> int:
        """Unpublish, change the record, publish: in this order metadata/ is never ahead of the records."""
        rows = self.table(record)
        kept = rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(sorted(ids), pa.string()))))
        successor = None
        if kept.num_rows:
            successor = self._stage(_successor(record.name), kept, (record.shard, *record.replaces))
        self.store.move(_published(record.shard), _staged(record.shard))
        if successor is not None:
            created = self.store.create(_record_key(successor.name), successor.to_json())
            assert created, f"{successor.name} exists, though its name is random"
            self._publish(successor.shard)
        # The record before its shard: a record in force whose shard is gone would read as a loss.
        self.store.delete(_record_key(record.name))
        self.store.delete(_staged(record.shard))
        return rows.num_rows - kept.num_rows

    def _stage(self, name: str, table: pa.Table, replaces: tuple[str, ...]) -> CommitRecord:
        data = to_parquet(table)
        entries = tuple(zip(*(table[column].to_pylist() for column in ("id", "key", "status")), strict=True))
        if len({entry[0] for entry in entries}) != len(entries):
            raise AssertionError(f"the unit of work {name!r} holds an id twice")
        shard = f"{name}.{secrets.token_hex(6)}.parquet"
        self.store.write(_staged(shard), data)
        digest = hashlib.sha256(data).hexdigest()
        return CommitRecord(name, shard, digest, len(entries), entries, replaces, datetime.now(UTC).isoformat())

    def _publish(self, shard: str) -> None:
        self.store.move(_staged(shard), _published(shard))

    def _read_shard(self, record: CommitRecord) -> bytes:
        # Staged and then published again: the shard may move while we look for it.
        for key in (_published(record.shard), _staged(record.shard)):
            try:
                return self.store.read(key)
            except NotFound:
                continue
        return self.store.read(_published(record.shard))

    def _void_shards(self) -> set[str]:
        # Two passes, the first over replacing records alone (known by their names), keep a big ledger out of memory.
        replacing = (key for key in self.store.list("commits/") if "." in _name_of(key))
        return {shard for record in self._read_all(replacing) for shard in record.replaces}

    def _read_records(self) -> Iterator[CommitRecord]:
        return self._read_all(self.store.list("commits/"))

    def _read_all(self, keys: Iterator[str]) -> Iterator[CommitRecord]:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="ledger") as pool:
            while window := list(islice(keys, _WINDOW)):
                yield from (record for record in pool.map(self._read_if_there, window) if record)

    def _read_if_there(self, key: str) -> CommitRecord | None:
        # A record goes only when it is void, so one that went between list and read has nothing to say.
        try:
            return self._read_record(key)
        except NotFound:
            return None

    def _read_record(self, key: str) -> CommitRecord:
        return CommitRecord.from_json(self.store.read(key), self.store.uri(key))

    def _shards(self, folder: str) -> set[str]:
        return {key.removeprefix(folder) for key in self.store.list(folder)}


def _staged(shard: str) -> str:
    return f"staging/{shard}"


def _published(shard: str) -> str:
    return f"metadata/{shard}"


def _record_key(name: str) -> str:
    return f"commits/{name}.json"


def _name_of(record_key: str) -> str:
    return record_key.removeprefix("commits/").removesuffix(".json")


def _successor(name: str) -> str:
    return f"{name.partition('.')[0]}.{secrets.token_hex(6)}"
