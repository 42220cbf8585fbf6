"""The log of a run as data: records, the roll-ups that sum them up, and the index of all rows that count.

A record adds shards and voids others, and never changes. Its position is (epoch of the owner, number): an owner begins
with a record that says up to where it has read, and what an earlier owner writes after that is void. Of ids and keys,
64-bit hashes are kept: 17 bytes a row.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from darkroom.storage import StorageError

VERSION = 2
Position = tuple[int, int]
Counts = dict[str, dict[str, int]]  # by task and status
_NAME = re.compile(r"(\d{6})-(\d{8})\.(record\.json|rollup\.parquet)")
_SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.parquet")
ABSENT, OK, FAILED, OTHER = range(4)  # how a row stands: not there; done; failed; there with another key


class LogDamaged(StorageError):
    """The log cannot be read as it was written."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A Parquet file of result rows. ids, keys: uint64 [rows], hashes in the file's order; ok: bool [rows]."""

    name: str
    sha256: str
    rows: int
    bytes: int
    counts: Counts
    ids: np.ndarray
    keys: np.ndarray
    ok: np.ndarray

    def to_json(self) -> str:
        """As a worker hands it to the run's owner."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Shard:
        return cls.from_dict(json.loads(text))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        return self.facts() | {"ids": _text(self.ids), "keys": _text(self.keys), "ok": _text(self.ok)}

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Shard:
        if not _SHARD.fullmatch(facts["name"]):
            raise ValueError(f"{facts['name']!r} is no shard's name")
        arrays = {"ids": _array(facts["ids"], "<u8"), "keys": _array(facts["keys"], "<u8")}
        return cls(**facts | arrays | {"ok": _array(facts["ok"], "?")})

    def facts(self) -> dict[str, Any]:
        """All but the arrays."""
        return {name: getattr(self, name) for name in ("name", "sha256", "rows", "bytes", "counts")}


@dataclass(frozen=True)
class Record:
    """One commit. shards: added; voids: names of those that count no longer. after: of an owner's first record, the
    position that it has read up to."""

    position: Position
    shards: Sequence[Shard] = ()
    voids: Sequence[str] = ()
    after: Position | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return record_key(self.position)

    def to_json(self) -> bytes:
        record = {"version": VERSION, "voids": list(self.voids), "after": self.after, "about": dict(self.about)}
        return json.dumps(record | {"shards": [shard.to_dict() for shard in self.shards]}, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Record:
        """LogDamaged, naming `where`, if this is no record; StorageError if it is one of another version."""
        position = position_of(where)
        assert position is not None, where
        try:
            fields = json.loads(data)
            if fields["version"] != VERSION:
                raise StorageError(f"{where} is of ledger version {fields['version']}: this program reads 1 and 2")
            shards = tuple(map(Shard.from_dict, fields["shards"]))
            after = fields["after"] and tuple(fields["after"])
            return cls(position, shards, tuple(fields["voids"]), after, fields["about"])
        except (ValueError, TypeError, KeyError) as error:
            raise LogDamaged(f"{where} is not a commit record ({repr(error)[:200]})") from error


@dataclass
class Log:
    """What counts. shards: by name, in the order of their commits; tail, tail_rows: records since the last roll-up, and
    the rows that they hold, of which later ones may have made many void; earlier: there are still records of version 1;
    foreign: what lies among the records and is none."""

    shards: dict[str, Shard] = field(default_factory=dict)
    position: Position = (0, 0)
    tail: int = 0
    tail_rows: int = 0
    rolled_up: int = 0  # rows in the last roll-up
    earlier: bool = False
    foreign: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards.values())

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Rows by task and status."""
        total: dict[str, Counter[str]] = {}
        for shard in self.shards.values():
            for task, counts in shard.counts.items():
                total.setdefault(task, Counter()).update(counts)
        return {task: total[task] for task in sorted(total)}

    @cached_property
    def index(self) -> Index:
        return Index(list(self.shards.values()))

    def apply(self, record: Record) -> None:
        """Takes a record in, which comes after all that were."""
        for name in record.voids:
            self.shards.pop(name, None)
        for shard in record.shards:
            self.shards[shard.name] = shard
        self.position, self.tail = record.position, self.tail + 1
        self.tail_rows += sum(shard.rows for shard in record.shards)
        self.__dict__.pop("index", None)

    def to_rollup(self) -> bytes:
        """All of it as one Parquet file: the rows' hashes, and in its metadata the shards in their order."""
        shards = list(self.shards.values())
        columns = {name: _joined([getattr(shard, name) for shard in shards], name) for name in ("ids", "keys", "ok")}
        about = {"version": str(VERSION), "shards": json.dumps([shard.facts() for shard in shards])}
        sink = pa.BufferOutputStream()
        table = pa.table(columns).replace_schema_metadata(about)
        pq.write_table(table, sink, compression="zstd", use_dictionary=False)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_rollup(cls, data: bytes, where: str) -> Log:
        """LogDamaged, naming `where`, if this is no roll-up."""
        position = position_of(where)
        assert position is not None, where
        try:
            table = pq.read_table(pa.BufferReader(data))
            shards = json.loads(table.schema.metadata[b"shards"])
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise LogDamaged(f"{where} is damaged: it is no roll-up of the run's log ({error!r})") from error
        ids, keys, ok = (table[name].to_numpy() for name in ("ids", "keys", "ok"))
        log, at = cls(position=position, rolled_up=len(ids)), 0
        for facts in shards:
            rows = slice(at, at + facts["rows"])
            log.shards[facts["name"]] = Shard(**facts, ids=ids[rows], keys=keys[rows], ok=ok[rows])
            at = rows.stop
        return log


class Index:
    """Rows of a log by their hashes. rows: how many there are."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards: list[Shard | None] = list(shards)
        self.rows = sum(shard.rows for shard in shards)
        ids = _joined([shard.ids for shard in shards], "ids")
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._keys = _joined([shard.keys for shard in shards], "keys")[order]
        self._ok = _joined([shard.ok for shard in shards], "ok")[order]
        # Which shard a row is in, by its number.
        self._shard = np.repeat(np.arange(len(shards), dtype=np.uint32), [shard.rows for shard in shards])[order]

    def standing(self, ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """uint8 [N]: ABSENT, OK, FAILED or OTHER of rows with these hashes, uint64 [N] each. An id that is there twice,
        as two jobs at once could leave it before a run had one owner, is OTHER: it is to be made anew."""
        first = np.searchsorted(self._ids, ids, "left")
        count = np.searchsorted(self._ids, ids, "right") - first
        found = np.full(len(ids), ABSENT, dtype=np.uint8)
        there = np.flatnonzero(count)
        places = first[there]
        same = (self._keys[places] == keys[there]) & (count[there] == 1)
        found[there] = np.where(same, np.where(self._ok[places], OK, FAILED), OTHER)
        return found

    def has_good(self, ids: np.ndarray) -> np.ndarray:
        """bool [N]: whether a row of this id, uint64 [N], is there, once, and did not fail."""
        first = np.searchsorted(self._ids, ids, "left")
        once = np.searchsorted(self._ids, ids, "right") - first == 1
        once[once] = self._ok[first[once]]
        return once

    def leavers(self, ids: np.ndarray) -> np.ndarray:
        """uint64 [N]: ids of the log that are none of these, each once."""
        return np.setdiff1d(self._ids, ids)

    def holding(self, ids: np.ndarray) -> list[Shard]:
        """Shards with a row of these ids, in the log's order."""
        first = np.searchsorted(self._ids, ids, "left")
        counts = np.searchsorted(self._ids, ids, "right") - first
        before = np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(first, counts) + np.arange(counts.sum()) - before
        return [shard for number in np.unique(self._shard[places]) if (shard := self.shards[number]) is not None]

    def replace(self, old: Shard, new: Shard | None) -> None:
        """A shard was rewritten without some of its rows; None: nothing of it is left. One job makes no row twice, so
        what was left out is not looked for again."""
        self.shards[self.shards.index(old)] = new

    def times(self, number: np.uint64) -> int:
        """How often an id is there."""
        return int(np.searchsorted(self._ids, number, "right") - np.searchsorted(self._ids, number, "left"))

    @property
    def good(self) -> int:
        """How many rows are not failed."""
        return int(self._ok.sum())

    def twice(self) -> np.ndarray:
        """uint64 [N]: ids that are there more than once."""
        return np.unique(self._ids[1:][self._ids[1:] == self._ids[:-1]])

    def with_keys(self, keys: np.ndarray) -> list[tuple[Shard, np.ndarray]]:
        """Shards with rows of these keys, and those rows' positions in them: one row for each key, a good one if there
        is any. Of an index none of whose shards was replaced."""
        known, order = self._by_key
        wanted = np.unique(keys)
        first = np.searchsorted(known, wanted)
        first = first[np.searchsorted(known, wanted, "right") > first]
        rows, ends = np.sort(order[first]), np.cumsum([shard.rows for shard in self.shards])
        numbers = np.searchsorted(ends, rows, "right")
        found = [(self.shards[number], numbers == number) for number in np.unique(numbers)]
        return [(shard, rows[own] - (ends[numbers[own]] - shard.rows)) for shard, own in found]

    @cached_property
    def _by_key(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys in ascending order, of equal ones a good row's first; and the rows' places among those of all shards."""
        keys, ok = (_joined([getattr(shard, name) for shard in self.shards], name) for name in ("keys", "ok"))
        order = np.lexsort((~ok, keys))
        return keys[order], order


def record_key(position: Position) -> str:
    return f"commits/{position[0]:06d}-{position[1]:08d}.record.json"


def rollup_key(position: Position) -> str:
    return f"commits/{position[0]:06d}-{position[1]:08d}.rollup.parquet"


def position_of(key: str) -> Position | None:
    """Of a record or a roll-up; None for what is neither."""
    found = _NAME.fullmatch(key.rpartition("/")[2])
    return (int(found[1]), int(found[2])) if found else None


def is_rollup(key: str) -> bool:
    return key.endswith(".rollup.parquet")


def in_force(records: Iterable[Record]) -> list[Record]:
    """Those of these records, in order, that no later owner has cut off."""
    kept: list[Record] = []
    for record in records:
        if record.after is not None:
            kept = [earlier for earlier in kept if earlier.position <= record.after]
        kept.append(record)
    return kept


def follow(start: Position, records: Iterable[Record]) -> bool:
    """Whether these records, in force, begin right after that position, and none is missing between them."""
    last = start
    for record in records:
        follows = record.after == last if record.after is not None else record.position == (last[0], last[1] + 1)
        if not follows:
            return False
        last = record.position
    return True


def _joined(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=bool if name == "ok" else np.uint64)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)
