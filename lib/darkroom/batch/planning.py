"""What is left to do: the manifest held against the ledger, written into the run, and cut into units of work."""

from __future__ import annotations

import secrets
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.batch.units import LineWriter, Unit
from darkroom.manifest import Manifest, Task, row_key
from darkroom.runs import Log
from darkroom.sampling.plans import SAMPLER_VERSION, Stage, condition_keys, goes_through
from darkroom.storage import Store
from darkroom.storage.hashing import hashed

MANIFEST_PART, WORK_PART = 5_000, 256  # rows


@dataclass(frozen=True)
class Maker:
    """The model and what belongs to it, as far as the rows' keys and their way depend on it.

    encoders: of each stage, the text encoder whose embeddings it attends to, "" where it takes no text.
    finish: what else has a say in every picture (a watermark); judge: in that of a row with candidates (a scorer).
    too_long: whether a text encoder, by its name, would cut a prompt.
    """

    revision: str
    stages: tuple[Stage, ...]
    default_size: int
    encoders: tuple[str, ...]
    finish: str = ""
    judge: str = ""
    too_long: Callable[[str, str], bool] = lambda encoder, prompt: False

    def key(self, task: Task) -> str:
        """The row's key: what its picture depends on."""
        judge = self.judge if _candidates(task) > 1 else ""
        return row_key(task, "+".join(filter(None, (self.revision, self.finish, judge))), SAMPLER_VERSION)

    def way(self, row: dict[str, Any]) -> list[Stage]:
        """The stages that a row goes through, in order."""
        return [stage for stage in self.stages if goes_through(row, stage, self.default_size)]


@dataclass
class Work:
    """One start of a job. before: rows the log held, good_before: those that had not failed; changed: those whose id
    had another picture, or no good one, superseded: those that had a good one; leavers: of those that the manifest has
    no more, uint64 hashes of their ids.

    stages: numbers of those that some row to be made goes through; prompts: what is asked, by text encoder; largest:
    pixels of the largest picture; best_of: rows with candidates; truncated: rows with a prompt that is cut.
    """

    plan: str
    part_rows: int = WORK_PART
    before: int = 0
    rows: int = 0
    todo: Counter[str] = field(default_factory=Counter)
    done: int = 0
    changed: int = 0
    twins: int = 0
    prompts: dict[str, dict[str, None]] = field(default_factory=dict)
    stages: set[int] = field(default_factory=set)
    largest: int = 0
    best_of: int = 0
    truncated: int = 0
    good_before: int = 0
    superseded: int = 0
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
        """E.g. `64 rows: 10 done, 52 to make, 2 twins, 3 changed`."""
        counts = f"{self.done:,} done, {self.to_make:,} to make, {self.twins:,} twins, {self.changed:,} changed"
        return f"{self.rows:,} rows: {counts}"


def cut(
    manifest: Manifest,
    log: Log,
    maker: Maker,
    limit: int | None,
    store: Store | None,
    part_rows: int = WORK_PART,
) -> Work:
    """Plans the work. With a store, writes the manifest's rows and the work there; without (a dry run), only counts.

    Memory holds the ids of finished rows and the keys of the manifest, never rows. part_rows: in a file of work.
    """
    work = Work(plan=secrets.token_hex(4), part_rows=part_rows)
    finished = _finished(log)
    work.before, work.good_before = log.index.rows, log.index.good
    # Pictures a twin may copy: those that stay and those to be made. One whose row leaves the ledger is not among them.
    elders: set[str] = set()
    parts = LineWriter(store, f"manifest/{work.plan}", MANIFEST_PART)
    to_make = LineWriter(store, f"work/{work.plan}", part_rows)
    twins = LineWriter(store, f"twins/{work.plan}", part_rows)
    seen: set[str] = set()
    ids = array("Q")
    for task in manifest.tasks(limit):
        key = maker.key(task)
        row_id = task.id or key
        if row_id in seen:
            continue  # a row without an id that stands in the manifest twice is one row
        seen.add(row_id)
        line = {"id": row_id, "key": key, "row": task.canonical()}
        parts.add(line)
        work.rows += 1
        number = hashed(row_id)
        ids.append(number)
        if finished.get(number) == hashed(key):
            work.done += 1
            elders.add(key)
            continue
        work.changed += number in finished
        work.superseded += bool(finished.get(number))
        if key in elders:
            work.twins += 1
            twins.add(line)
            continue
        elders.add(key)
        to_make.add(line | _count(work, line["row"], maker))
    for lines in (parts, to_make, twins):
        lines.flush()
    if limit is None:
        work.leavers = log.index.leavers(np.frombuffer(ids, dtype=np.uint64))
    return work


def _finished(log: Log) -> dict[int, int]:
    """Hash of the key of each id in the log; 0 where the row is to be made again, because it failed or because two jobs
    that ran at once have both committed it."""
    finished: dict[int, int] = {}
    for shard in log.shards.values():
        for number, key, ok in zip(shard.ids.tolist(), shard.keys.tolist(), shard.ok.tolist(), strict=True):
            finished[number] = key if ok and number not in finished else 0
    return finished


def _count(work: Work, row: dict[str, Any], maker: Maker) -> dict[str, Any]:
    """Counts a row that is to be made; what is to be said of it beside what it asks for."""
    way = maker.way(row)
    work.todo[row["task"]] += 1
    work.stages |= {stage.number for stage in way}
    work.largest = max(work.largest, *(stage.size for stage in way))
    work.best_of += (row.get("best_of") or 1) > 1
    if len(work.sample) < 256:
        work.sample.append(row)
    truncated = False
    for stage in way:
        encoder = maker.encoders[stage.number - 1]
        if encoder:
            asked = condition_keys(row, stage)
            work.prompts.setdefault(encoder, {}).update(dict.fromkeys(asked))
            truncated = truncated or any(maker.too_long(encoder, prompt) for prompt in asked)
    work.truncated += truncated
    return {"prompts": prompts_of(row), "flags": ["prompt_truncated"] * truncated}


def prompts_of(row: dict[str, Any]) -> list[str]:
    """What a row asks for, as its result row states it: every prompt or "label N", but not the negative one."""
    return [key for key in condition_keys(row) if key != row.get("negative_prompt", "")]


def _candidates(task: Task) -> int:
    return getattr(task, "best_of", None) or 1
