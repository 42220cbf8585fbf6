"""Which rows of a run to draw: one pass over the ledger, with memory for the chosen rows alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from darkroom.report.comparisons import NOISED, merged, shared
from darkroom.runs import SCHEMA, Ledger, Shard
from darkroom.storage import Store

PER_TASK = 200
LONGEST_STRIP = 24  # rows that differ only in where they start
LISTED_FAILURES = 100
FIGURES = 60  # that have a section of their own; ids of a million folders must not make a million
_READERS = 4  # shards in memory at once
_COLUMNS = [name for name in SCHEMA.names if name != "image"]


@dataclass(frozen=True)
class Shown:
    """A good row that was chosen. row: its result columns but the picture; parameters: its canonical form; position:
    its place in the run."""

    row: dict[str, Any]
    parameters: dict[str, Any]
    shard: Shard
    position: int


@dataclass(frozen=True)
class Part:
    """Rows with a section of their own. good: how many there are; groups: what is drawn together, in run order; place:
    where the first of them stands among all that are drawn, once that is known."""

    good: int
    groups: list[list[Shown]]
    place: int = 0

    @property
    def shown(self) -> int:
        return sum(map(len, self.groups))


@dataclass
class Selection:
    """counts: all rows by task and status; figures: rows whose ids name one, `figure/row`; tasks: all others."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    tasks: dict[str, Part] = field(default_factory=dict)
    figures: dict[str, Part] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(counts.total() for counts in self.counts.values())

    @property
    def failures(self) -> int:
        return sum(counts["failed"] for counts in self.counts.values())


def select(ledger: Ledger, per_task: int = PER_TASK) -> Selection:
    """At most `per_task` good rows of each task or figure, drawn evenly over the run, and the first failed ones."""
    selection = Selection()
    tasks: dict[str, _Draw] = {}
    figures: dict[str, _Draw] = {}
    position = 0
    for shard, table in _tables(ledger):
        columns = (table[name].to_pylist() for name in ("id", "key", "task", "status"))
        for index, (row_id, key, task, status) in enumerate(zip(*columns, strict=True)):
            selection.counts.setdefault(task, Counter())[status] += 1
            if status == "ok":
                draw = _draw(tasks, figures, task, figure_of(row_id, key), per_task)
                draw.offer(task, shard, table, index, position + index)
            elif len(selection.failed) < LISTED_FAILURES:
                selection.failed += table.slice(index, 1).select(["id", "task", "error"]).to_pylist()
        position += table.num_rows
    selection.tasks = {task: Part(draw.good, draw.groups()) for task, draw in tasks.items()}
    selection.figures = {name: Part(draw.good, merged(draw.groups())) for name, draw in figures.items()}
    return selection


def figure_of(row_id: str, key: str) -> str:
    """The figure an id of the form `figure/row` names, or "". No blank stands beside that slash."""
    figure, _, row = row_id.partition("/")
    return figure if figure and row and figure == figure.strip() and row == row.strip() and row_id != key else ""


def in_manifest_order(selection: Selection, store: Store, plan: str) -> None:
    """Puts figures and all rows into the manifest's order: a run's is that of its commits, and a row that was made
    anew came last. Where the run's copy of the manifest is gone, they stay as they are."""
    parts = [*selection.tasks.values(), *selection.figures.values()]
    wanted = {shown.row["id"] for part in parts for group in part.groups for shown in group}
    places: dict[str, int] = {}
    for key in store.list(f"manifest/{plan}/"):
        for line in store.read(key).splitlines():
            row_id = json.loads(line)["id"]
            if row_id in wanted:
                places[row_id] = len(places)

    def place(shown: Shown) -> int:
        return places.get(shown.row["id"], len(places) + shown.position)

    def ordered(part: Part) -> Part:
        groups = [sorted(group, key=place) for group in part.groups]
        groups.sort(key=lambda group: place(group[0]))
        return Part(part.good, groups, place(groups[0][0]))

    selection.tasks = {task: ordered(part) for task, part in selection.tasks.items()}
    figures = {name: ordered(part) for name, part in selection.figures.items()}
    selection.figures = dict(sorted(figures.items(), key=lambda item: item[1].place))


def _draw(tasks: dict[str, _Draw], figures: dict[str, _Draw], task: str, figure: str, rows: int) -> _Draw:
    if figure and (figure in figures or len(figures) < FIGURES):
        return figures.setdefault(figure, _Draw(rows, figured=True))
    return tasks.setdefault(task, _Draw(rows))


class _Draw:
    """The groups whose digests are smallest: a fair draw that needs no count beforehand, never parts a group, and
    is the same in every report of a run. A position in the stream would do none of these."""

    def __init__(self, rows: int, figured: bool = False) -> None:
        self.rows, self.longest, self.figured = rows, min(rows, LONGEST_STRIP), figured
        self.good = 0
        self._limit = "g"  # above every hex digest
        self._groups: dict[str, dict[str, Shown]] = {}
        self._kept = 0  # rows of all groups; to count them at each row that comes is quadratic

    def offer(self, task: str, shard: Shard, table: pa.Table, index: int, position: int) -> None:
        self.good += 1
        row_id, strip = table["id"][index].as_py(), ""
        if self.figured or task == "image_to_image" or task in NOISED:
            strip = shared(json.loads(table["parameters"][index].as_py()), self.figured)
        digest = _digest(strip or row_id)
        if digest >= self._limit:
            return
        group = self._groups.setdefault(digest, {})
        before = len(group)
        group[_digest(row_id)] = _shown(shard, table, index, position)
        if len(group) > self.longest:
            del group[max(group)]
        self._kept += len(group) - before
        # A group that was dropped lies above the limit from then on, so what is kept has been kept from its first row.
        while len(self._groups) > 1 and self._kept > self.rows:
            self._limit = max(self._groups)
            self._kept -= len(self._groups.pop(self._limit))

    def groups(self) -> list[list[Shown]]:
        groups = [sorted(group.values(), key=lambda shown: shown.position) for group in self._groups.values()]
        return sorted(groups, key=lambda group: group[0].position)


def _tables(ledger: Ledger) -> Iterator[tuple[Shard, pa.Table]]:
    """Every shard that counts, without its pictures: of a large one they are not even read."""
    shards = iter(ledger.read().shards.values())
    with ThreadPoolExecutor(_READERS, thread_name_prefix="report") as pool:
        while window := list(islice(shards, _READERS)):
            yield from zip(window, pool.map(lambda shard: ledger.table(shard, _COLUMNS), window), strict=True)


def _shown(shard: Shard, table: pa.Table, index: int, position: int) -> Shown:
    (row,) = table.slice(index, 1).to_pylist()
    return Shown(row, json.loads(row["parameters"]), shard, position)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
