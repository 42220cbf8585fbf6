"""Which rows of a run to draw: one pass over the ledger, with memory for the chosen rows alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from darkroom.storage import CommitRecord, Ledger

PER_TASK = 200
LONGEST_STRIP = 24  # rows that differ only in where they start
LISTED_FAILURES = 100
SWEPT = ("start", "strength")
_READERS = 4  # shards in memory at once; with inline pictures one may be some hundred megabytes


@dataclass(frozen=True)
class Shown:
    """A good row that was chosen. row: its result columns but the picture; parameters: its canonical form.

    image_path: what the result says of where the picture lies; position: its place in the run.
    """

    row: dict[str, Any]
    parameters: dict[str, Any]
    image_path: str
    record: CommitRecord
    position: int


@dataclass
class Selection:
    """counts: rows by task and status; groups: of each task what is drawn together, mostly one row, in run order."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    groups: dict[str, list[list[Shown]]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(counts.total() for counts in self.counts.values())

    @property
    def failures(self) -> int:
        return sum(counts["failed"] for counts in self.counts.values())

    def shown(self, task: str) -> int:
        return sum(map(len, self.groups.get(task, ())))


def select(ledger: Ledger, per_task: int = PER_TASK) -> Selection:
    """At most `per_task` good rows of each task, drawn evenly over the run, and the first failed ones."""
    selection = Selection()
    draws: dict[str, _Draw] = {}
    position = 0
    for record, table in _tables(ledger):
        statuses = zip(table["task"].to_pylist(), table["status"].to_pylist(), strict=True)
        for index, (task, status) in enumerate(statuses):
            selection.counts.setdefault(task, Counter())[status] += 1
            if status == "ok":
                draws.setdefault(task, _Draw(per_task)).offer(task, record, table, index, position + index)
            elif len(selection.failed) < LISTED_FAILURES:
                selection.failed += table.slice(index, 1).select(["id", "task", "error"]).to_pylist()
        position += table.num_rows
    selection.groups = {task: draw.groups() for task, draw in draws.items()}
    return selection


class _Draw:
    """The groups whose digests are smallest: a fair draw that needs no count beforehand, never parts a group, and
    is the same in every report of a run. A position in the stream would do none of these."""

    def __init__(self, rows: int) -> None:
        self.rows, self.longest = rows, min(rows, LONGEST_STRIP)
        self._limit = "g"  # above every hex digest
        self._groups: dict[str, dict[str, Shown]] = {}

    def offer(self, task: str, record: CommitRecord, table: pa.Table, index: int, position: int) -> None:
        row_id, parameters = table["id"][index].as_py(), ""
        if task == "image_to_image":
            parameters = table["parameters"][index].as_py()
        digest = _digest(_without_start(parameters) if parameters else row_id)
        if digest >= self._limit:
            return
        group = self._groups.setdefault(digest, {})
        group[_digest(row_id)] = _shown(record, table, index, position)
        if len(group) > self.longest:
            del group[max(group)]
        # A group that was dropped lies above the limit from then on, so what is kept has been kept from its first row.
        while len(self._groups) > 1 and sum(map(len, self._groups.values())) > self.rows:
            self._limit = max(self._groups)
            del self._groups[self._limit]

    def groups(self) -> list[list[Shown]]:
        groups = [sorted(group.values(), key=lambda shown: shown.position) for group in self._groups.values()]
        return sorted(groups, key=lambda group: group[0].position)


def _tables(ledger: Ledger) -> Iterator[tuple[CommitRecord, pa.Table]]:
    """Every shard that counts, its `image` replaced by `image_path`: pictures do not stay in memory."""
    records = ledger.records()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="report") as pool:
        while window := list(islice(records, _READERS)):
            yield from zip(window, pool.map(lambda record: _light(ledger.table(record)), window), strict=True)


def _light(table: pa.Table) -> pa.Table:
    path = pc.fill_null(pc.struct_field(table["image"], "path"), "")
    return table.drop_columns(["image"]).append_column("image_path", path)


def _shown(record: CommitRecord, table: pa.Table, index: int, position: int) -> Shown:
    (row,) = table.slice(index, 1).to_pylist()
    path, parameters = row.pop("image_path"), json.loads(row["parameters"])
    # Its entries are only for looking up rows, and hundreds of records are held.
    return Shown(row, parameters, path, replace(record, entries=()), position)


def _without_start(parameters: str) -> str:
    row = json.loads(parameters)
    return json.dumps({name: value for name, value in row.items() if name not in SWEPT}, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
