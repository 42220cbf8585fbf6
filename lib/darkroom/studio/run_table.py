"""The rows of a run in DuckDB, of a folder or a bucket alike: filtered, ordered, counted, a page at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from darkroom.runs.ledger import Damaged, Ledger
from darkroom.runs.log import Shard
from darkroom.runs.reading import open_run
from darkroom.runs.results import SCHEMA
from darkroom.sampling.names import nearest
from darkroom.storage import StorageError, image_key_of, open_store
from darkroom.studio.run_view import NUMBERS, PARTS, TEXTS, View, conditions

PAGE = 48  # pictures
NAMED = 2_000  # rows, drawn evenly, whose parameters are looked at for their names
SERIES = 400  # rows with one prompt that are looked through for those which differ in one thing
_READERS = 4  # shards in memory at once
# What rows are found by; all else is read from its shard when a row is looked at.
_COLUMNS = (
    "id", "key", "task", "status", "error", "error_class", "attempts", "image_uri", "width", "height", "prompts",
    "seed", "steps", "guidance", "sampler", "start_timestep", "parameters", "source_uri", "model", "evaluations",
    "seconds", "worker", "flags", "alignment", "concealment",
)  # fmt: skip
# It reads and writes no file, and fetches nothing.
_ALONE = {"enable_external_access": False, "autoinstall_known_extensions": False, "autoload_known_extensions": False}
SHOWN = ("id", "key", "task", "status", "error", "error_class", "image_uri", "width", "height", "prompts", "seed",
         "parameters", "flags", "alignment", "concealment")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """total: rows that fit; rows: those of the page, columns SHOWN, `parameters` parsed."""

    total: int
    rows: list[dict[str, Any]]


class RunTable:
    """The rows of a run as they were when it was opened. Methods may be called from many threads."""

    def __init__(self, uri: str) -> None:
        """NoRun where there is none; StorageError. Shards that are damaged are left out: `damaged` names them."""
        self.run, self.store = open_run(uri), open_store(uri)
        self.version = run_version(uri)
        self._ledger = Ledger(self.store)
        self._log = self._ledger.read()
        self._shards = list(self._log.shards.values())
        self.counts: dict[str, Counter[str]] = {task: Counter(counts) for task, counts in self._log.counts.items()}
        self.damaged: list[str] = []
        # In compressed blocks: a million rows are some 300 MB so, and three times that otherwise.
        self._database = duckdb.connect(config=_ALONE)
        self._database.execute("ATTACH ':memory:' AS run (COMPRESS)")
        self._load()
        self.names = self._names()

    @property
    def rows(self) -> int:
        return sum(counts.total() for counts in self.counts.values())

    def refuse_unknown(self, where: str) -> None:
        """ValueError for a condition that says nothing, or names what no row has."""
        known = {*NUMBERS, *TEXTS, *PARTS, *self.names}
        for condition in conditions(where):
            name = condition.name.partition(".")[0]
            if name not in known and not self._is_there(name):
                raise ValueError(f"no row has {condition.name}{nearest(condition.name, known)}")

    def find(self, view: View, size: int = PAGE) -> Found:
        """The rows that a view asks for, and a page of them. ValueError for a condition that says nothing."""
        where, values = view.sql()
        ((total,),) = self._ask(f"SELECT count(*) FROM run.rows WHERE {where}", values).fetchall()
        last = max(total - 1, 0) // size
        limits = [size, min(view.page, last) * size]
        # Of the whole table only places are sorted; what is shown of a row is fetched for one page.
        page = f"SELECT rowid FROM run.rows WHERE {where} ORDER BY {view.ordered()} LIMIT ? OFFSET ?"
        columns = ", ".join(SHOWN)
        rows = self._ask(
            f"SELECT {columns} FROM run.rows WHERE rowid IN ({page}) ORDER BY {view.ordered()}", [*values, *limits]
        )
        return Found(total, _parsed(rows))

    def around(self, view: View, row_id: str) -> tuple[int, str, str]:
        """Of a row among those that a view asks for: its place, from 1, and the ids before and after it; (0, "", "")
        where it is none of them."""
        where, values = view.sql()
        found = self._ask(
            f"""SELECT place, before, after FROM (
                  SELECT id, row_number() OVER w AS place, lag(id) OVER w AS before, lead(id) OVER w AS after
                  FROM run.rows WHERE {where} WINDOW w AS (ORDER BY {view.ordered()})) WHERE id = ?""",
            [*values, row_id],
        ).fetchone()
        return (found[0], found[1] or "", found[2] or "") if found else (0, "", "")

    def named(self, row_id: str) -> dict[str, Any]:
        """One row, as `find` has them. KeyError where there is no such row."""
        found = _parsed(self._ask(f"SELECT {', '.join(SHOWN)} FROM run.rows WHERE id = ?", [row_id]))
        if not found:
            raise KeyError(f"{self.run.uri} has no row {row_id!r}")
        return found[0]

    def row(self, row_id: str) -> dict[str, Any]:
        """All columns of a row but the picture. KeyError where there is no such row."""
        shard, place = self.place(row_id)
        columns = [name for name in SCHEMA.names if name != "image"]
        (row,) = self._ledger.table(shard, columns).slice(place, 1).to_pylist()
        return row

    def picture(self, row: dict[str, Any]) -> bytes:
        """The file of a good row's picture. StorageError; ValueError where there is none."""
        if row["image_uri"]:
            return self.store.read(image_key_of(row["image_uri"]))
        shard, place = self.place(row["id"])
        (found,) = self._ledger.rows(shard, np.array([place]))  # not the whole shard, which may be 256 MB of pictures
        image = found["image"][0].as_py()
        if not image or not image["bytes"]:
            raise ValueError(f"row {row['id']} has no picture")
        return image["bytes"]

    @property
    def is_scored(self) -> bool:
        return self._ask("SELECT 1 FROM run.rows WHERE alignment IS NOT NULL LIMIT 1").fetchone() is not None

    def flags(self) -> list[str]:
        found = self._ask("SELECT DISTINCT unnest(flags) AS flag FROM run.rows ORDER BY flag")
        return [flag for (flag,) in found.fetchall()]

    def failures(self) -> list[tuple[str, int, str]]:
        """By class, the most frequent first: how many rows failed by it, and what one of them says."""
        return self._ask(
            "SELECT error_class, count(*) AS many, min(error) FROM run.rows WHERE status = 'failed' "
            "GROUP BY error_class ORDER BY many DESC, error_class"
        ).fetchall()

    def series(self, row: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Of a row of `find`: by parameter the good rows, itself among them, that differ from it in this alone, by
        their values. Looked for among rows of its task and prompts, up to SERIES of them."""
        found = self._ask(
            f"SELECT {', '.join(SHOWN)} FROM run.rows WHERE task = ? AND prompts = ? AND status = 'ok' LIMIT ?",
            [row["task"], row["prompts"], SERIES],
        )
        by_name: dict[str, list[dict[str, Any]]] = {}
        for other in _parsed(found):
            differ = _differing(row["parameters"], other["parameters"])
            if len(differ) == 1:
                by_name.setdefault(*differ, []).append(other)
        return {name: sorted([row, *others], key=lambda one: _in_order(one["parameters"].get(name)))
                for name, others in sorted(by_name.items())}  # fmt: skip

    def place(self, row_id: str) -> tuple[Shard, int]:
        """A row's shard, and its place in it. KeyError."""
        found = self._ask("SELECT shard, place FROM run.rows WHERE id = ?", [row_id]).fetchone()
        if found is None:
            raise KeyError(f"{self.run.uri} has no row {row_id!r}")
        return self._shards[found[0]], found[1]

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        return self._database.cursor().execute(sql, list(values))

    def _load(self) -> None:
        failed: list[StorageError] = []
        added = [pa.field("shard", pa.int32()), pa.field("place", pa.int32())]
        schema = pa.schema([*(SCHEMA.field(name) for name in _COLUMNS), *added])
        reader = pa.RecordBatchReader.from_batches(schema, self._batches(failed))
        self._database.register("found", reader)
        text = "lower(array_to_string(prompts, chr(10)) || chr(10) || id) AS text"
        whole = "CASE WHEN json_valid(parameters) THEN parameters ELSE '{}' END AS parameters"
        try:
            self._database.execute(f"CREATE TABLE run.rows AS SELECT * REPLACE ({whole}), {text} FROM found")
        except duckdb.Error:  # of whatever ends the stream it makes one of its own, whose words are a traceback
            if failed:
                raise failed[0] from None
            raise
        self._database.unregister("found")

    def _batches(self, failed: list[StorageError]) -> Iterator[pa.RecordBatch]:
        """failed: takes the error that ends it, if one does."""
        try:
            yield from self._read_batches()
        except StorageError as error:
            failed.append(error)
            raise

    def _read_batches(self) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="studio") as pool:
            shards = iter(enumerate(self._shards))
            while window := list(islice(shards, _READERS)):
                for (number, shard), table in zip(window, pool.map(self._read, window), strict=True):
                    if table is None:
                        self.damaged.append(shard.name)
                        continue
                    table = table.append_column("shard", pa.array(np.full(len(table), number, np.int32)))
                    table = table.append_column("place", pa.array(np.arange(len(table), dtype=np.int32)))
                    yield from table.to_batches()

    def _read(self, numbered: tuple[int, Shard]) -> pa.Table | None:
        try:
            return self._ledger.table(numbered[1], _COLUMNS)
        except Damaged:
            return None

    def _names(self) -> list[str]:
        """Of parameters, sorted. What few rows have may be missing: `_is_there` asks all of them."""
        found = self._ask(
            "SELECT DISTINCT unnest(json_keys(parameters)) AS name FROM "
            f"(SELECT parameters FROM run.rows USING SAMPLE reservoir({NAMED} ROWS) REPEATABLE (0)) ORDER BY name"
        )
        return [name for (name,) in found.fetchall()]

    def _is_there(self, name: str) -> bool:
        """Whether any row has a parameter of that name."""
        found = self._ask("SELECT 1 FROM run.rows WHERE json_exists(parameters, ?) LIMIT 1", [f'$."{name}"'])
        return found.fetchone() is not None


def run_version(uri: str) -> tuple[str, ...]:
    """A run's commits: another one when rows were added. StorageError."""
    return tuple(open_store(uri).list("commits/"))


def _parsed(found: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
    return [row | {"parameters": json.loads(row["parameters"] or "{}")} for row in rows]


def _differing(left: dict[str, Any], right: dict[str, Any]) -> set[str]:
    return {name for name in left.keys() | right.keys() if left.get(name) != right.get(name)}


def _in_order(value: Any) -> tuple[int, Any]:
    """Numbers ascend, all else follows as it is written."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value) if is_number else (1, json.dumps(value, sort_keys=True))
