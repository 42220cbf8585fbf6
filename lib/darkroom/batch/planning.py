"""What is left to do: the manifest held against the run's log, written into the run, and cut into units of work.

The manifest was read before, once: processes of their own checked its rows and said of each all that does not depend
on the run (`planned_rows.py`). Here arrays of hashes are held against the log, and several threads write.

    RUN/manifest/PLAN/000000.jsonl   every row of the manifest: id, key, canonical form (what `audit` goes by)
    RUN/duplicates/PLAN/...          rows that get a copy of another's result: both ask for the same picture
    RUN/work/PLAN/000000.jsonl       the rows to be made, with the prompts of each and flags that it begins with
"""

from __future__ import annotations

import json
import secrets
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.batch.planned_rows import MANIFEST_PART, Maker, PlannedRows, ReadRows
from darkroom.batch.row_filter import RowFilter
from darkroom.batch.row_state import Unit
from darkroom.phases import plural
from darkroom.runs.failures import Failures
from darkroom.runs.log import ABSENT, FAILED, OK, OTHER, Log
from darkroom.runs.pictures import Pictures
from darkroom.storage import Store
from darkroom.storage.hashing import HashSet

WORK_PART = 256  # rows
WRITERS = 16  # files at once: on S3 each waits for an answer
SAMPLE = 256  # rows
TRUNCATED = b'"prompt_truncated"'


@dataclass
class Work:
    """One start of a job. before: rows the log held, good_before: those that had not failed; changed: those whose id
    had another picture, or no good one, superseded: those that had a good one; gone: those whose picture is no more, or
    is damaged; leavers: of those that the manifest has
    no more, uint64 hashes of their ids (none where only its beginning was looked at); left: that were not asked for,
    left_absent: those of them that the log has not.

    repeated: of the manifest's rows, those without an id that are the same as another, and are one row with it;
    stages: numbers of those that some row to be made goes through; prompts: what is asked, by text encoder, with
    whether it is cut; largest: pixels of the largest picture; best_of: rows with candidates; truncated: rows with a
    prompt that is cut; duplicates: rows that get a copy of another's picture.
    """

    plan: str
    part_rows: int = WORK_PART
    before: int = 0
    rows: int = 0
    repeated: int = 0
    todo: Counter[str] = field(default_factory=Counter)
    done: int = 0
    changed: int = 0
    duplicates: int = 0
    prompts: dict[str, dict[str, bool]] = field(default_factory=dict)
    stages: set[int] = field(default_factory=set)
    largest: int = 0
    best_of: int = 0
    truncated: int = 0
    good_before: int = 0
    superseded: int = 0
    gone: int = 0
    left: int = 0
    left_absent: int = 0
    leavers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def to_make(self) -> int:
        return self.todo.total()

    def units(self, rows: int) -> list[Unit]:
        """All work in units of so many rows at most; none reaches over the end of a file."""
        counts = [min(self.part_rows, self.to_make - first) for first in range(0, self.to_make, self.part_rows)]
        cuts = [
            (part, start, min(start + rows, count))
            for part, count in enumerate(counts)
            for start in range(0, count, rows)
        ]
        return [Unit(number, *cut) for number, cut in enumerate(cuts)]

    def summary(self) -> str:
        """E.g. `64 rows: 10 done, 52 to make, 2 duplicates, 3 changed`."""
        twice = plural(self.duplicates, "duplicate")
        counts = f"{self.done:,} done, {self.to_make:,} to make, {twice}, {self.changed:,} changed"
        gone = f", {self.gone:,} of which the picture is gone or damaged" if self.gone else ""
        left = f", {self.left:,} not asked for" if self.left else ""
        lines = f"{self.rows + self.repeated:,} lines, {self.repeated:,} of them the same as another; "
        return f"{lines if self.repeated else ''}{plural(self.rows, 'row')}: {counts}{gone}{left}"


def cut(
    rows: ReadRows,
    log: Log,
    maker: Maker,
    limit: int | None,
    store: Store | None,
    part_rows: int = WORK_PART,
    pictures: Pictures | None = None,
    failures: Failures | None = None,
    asked: RowFilter | None = None,
) -> Work:
    """Plans the work. With a store, writes the manifest's rows and the work there; without (a dry run), only counts.

    Memory holds hashes of ids and keys, 8 bytes each, and the distinct prompts of the rows to be made; never rows.
    limit: rows of the manifest that are looked at; part_rows: in a file of work; pictures: that are there, None: all
    that the log says; failures: what is known of failed rows, None: all are tried again; asked: the rows that may be
    made, None: all. StorageError.
    """
    with Files(store) as files:
        planning = _Planning(log, maker, files, part_rows, pictures, failures, asked)
        left = limit
        for part in rows:
            planning.take(part if left is None else part.first(left))
            left = None if left is None else max(left - len(part), 0)
        # Of a run that was planned from them before the rows come without what was repeated.
        return planning.finish(rows.manifest.rows if limit is None else None)


class _Planning:
    """A plan that grows by chunks of rows."""

    def __init__(
        self,
        log: Log,
        maker: Maker,
        files: Files,
        part_rows: int,
        pictures: Pictures | None,
        failures: Failures | None,
        asked: RowFilter | None,
    ) -> None:
        self.work = work = Work(secrets.token_hex(4), part_rows, before=log.index.rows, good_before=log.index.good)
        self._log, self._maker, self._there, self._failures, self._asked = log, maker, pictures, failures, asked
        self._parts = LineWriter(files, f"manifest/{work.plan}", MANIFEST_PART)
        self._to_make = LineWriter(files, f"work/{work.plan}", part_rows)
        self._duplicates = LineWriter(files, f"duplicates/{work.plan}", part_rows)
        self._seen = HashSet()
        # Pictures a duplicate may copy: those that stay and those to be made, never one whose row is superseded.
        self._pictures = HashSet()

    def take(self, rows: PlannedRows) -> None:
        # A row without an id that stands in the manifest twice is one row.
        rows = rows.where(self._seen.add(rows.ids))
        self._parts.add(rows.lines)
        standing = self._log.index.standing(rows.ids, rows.keys)
        done = standing == OK
        if self._there is not None and done.any():
            gone = done.copy()
            gone[done] = self._there.gone(self._log.index, *rows.texts(done), rows.filmed(done))
            self.work.gone += int(gone.sum())
            done &= ~gone
        attempts = np.ones(len(rows), dtype=np.int64)
        failed = standing == FAILED
        if self._failures is not None and failed.any():
            again, tried = self._failures.of(self._log.index, rows.ids[failed])
            attempts[failed] += tried
            done[failed] = ~again
        self.work.rows += len(rows)
        self.work.done += int(done.sum())
        todo = ~done
        if self._asked is not None:
            todo &= self._asked(rows.ids)
            self.work.left += int((~done & ~todo).sum())
            self.work.left_absent += int((~done & ~todo & (standing == ABSENT)).sum())
        anew = np.zeros(len(rows), dtype=bool)
        anew[done | todo] = self._pictures.add(rows.keys[done | todo])
        anew &= todo
        other = (standing == OTHER) & todo
        self.work.changed += int(((failed & todo) | other).sum())
        self.work.superseded += int(self._log.index.has_good(rows.ids[other]).sum())
        copies = rows.where(todo & ~anew)
        self.work.duplicates += len(copies)
        self._duplicates.add(copies.lines)
        self._make(rows.where(anew), attempts[anew])

    def _make(self, rows: PlannedRows, attempts: np.ndarray) -> None:
        """attempts: int [N], of each row with this one."""
        work = self.work
        ways = rows.ways(self._maker)
        for kind, count in ways.counts():
            work.todo[kind.task] += count
            work.stages.update(kind.stages)
            work.largest = max(work.largest, kind.size)
            work.best_of += count * kind.chosen
        cut = [self._is_cut(asked) for asked in ways.questions]
        lines = []
        columns = (rows.lines, ways.tails, ways.flags, ways.asked.tolist(), attempts.tolist())
        for line, tail, own, asked, times in zip(*columns, strict=True):
            flags = b", ".join(filter(None, (own, TRUNCATED if cut[asked] else b"")))
            work.truncated += cut[asked]
            tried = b', "attempts": %d' % times if times > 1 else b""
            lines.append(b'%b, %b, "flags": [%b]%b}' % (line[:-1], tail, flags, tried))
        self._to_make.add(lines)
        missing = SAMPLE - len(work.sample)
        work.sample += [json.loads(line)["row"] for line in rows.lines[:missing]]

    def _is_cut(self, asked: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
        """Whether an encoder cuts one of these prompts, all of which are now known."""
        found = False
        for encoder, prompts in asked:
            known = self.work.prompts.setdefault(encoder, {})
            for prompt in prompts:
                if prompt not in known:
                    known[prompt] = self._maker.too_long(encoder, prompt)
                found |= known[prompt]
        return found

    def finish(self, total: int | None) -> Work:
        """total: rows of the manifest, repeated ones too; None where only its beginning was looked at."""
        for lines in (self._parts, self._to_make, self._duplicates):
            lines.flush()
        if total is not None:
            self.work.repeated = total - self.work.rows
            self.work.leavers = self._log.index.leavers(self._seen.values())
        return self.work


class Files:
    """Files of a plan, written by several threads; all are there when the block ends. With no store none is written."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="plan")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        for future in self._waiting if kind is None else ():
            future.result()

    def write(self, key: str, data: bytes) -> None:
        """StorageError, of this write or an earlier one."""
        if self._store is None:
            return
        self._waiting.append(self._pool.submit(self._store.write, key, data))
        if len(self._waiting) > 4 * WRITERS:
            self._waiting.popleft().result()


class LineWriter:
    """JSON lines, each already written out, gathered into files of so many."""

    def __init__(self, files: Files, folder: str, per_file: int) -> None:
        self._out, self.folder, self.per_file = files, folder, per_file
        self.files = 0
        self._buffer: list[bytes] = []

    def add(self, lines: list[bytes]) -> None:
        self._buffer += lines
        whole = len(self._buffer) // self.per_file * self.per_file
        for first in range(0, whole, self.per_file):
            self._write(self._buffer[first : first + self.per_file])
        self._buffer = self._buffer[whole:]

    def flush(self) -> None:
        if self._buffer:
            self._write(self._buffer)
        self._buffer = []

    def _write(self, lines: list[bytes]) -> None:
        self._out.write(f"{self.folder}/{self.files:06d}.jsonl", b"\n".join(lines))
        self.files += 1
