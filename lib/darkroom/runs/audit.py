"""Whether a run is whole: every manifest id has exactly one good row, and its picture is what the row says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np

from darkroom.phases import plural
from darkroom.runs.ledger import Damaged, Gone, Ledger, is_shard_name
from darkroom.runs.log import ABSENT, FAILED, OK, OTHER, Log, LogDamaged, Shard
from darkroom.runs.reading import read_run_record
from darkroom.runs.results import maps_of, moved_rows
from darkroom.runs.writer import own
from darkroom.storage import NotFound, StorageError, Store, image_key_of, open_store
from darkroom.storage.hashing import hashed, hashes

LISTED = 20
READERS = 16
_PICTURE = ["id", "status", "sha256", "image", "image_uri", "controls", "video_uri", "video_sha256"]


@dataclass
class Audit:
    """rows: of the manifest; good: with one good row and a whole picture; problems: the first few of each kind; notes:
    what is no fault. pictures: whether they were looked at."""

    rows: int = 0
    good: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: bool = True

    @property
    def passed(self) -> bool:
        return not self.counts and self.rows > 0

    def report(self, kind: str, sentence: str, count: int = 1) -> None:
        self.counts[kind] += count
        if sentence and self.counts[kind] <= LISTED:
            self.problems.append(sentence)

    def text(self) -> str:
        """What `darkroom audit` prints."""
        whole = "a whole picture" if self.pictures else "a picture on record (pictures were not looked at)"
        lines = [f"{self.good:,} of {self.rows:,} manifest rows have exactly one good row and {whole}"]
        lines += self.problems
        hidden = sum(max(0, count - LISTED) for count in self.counts.values())
        return "\n".join(lines + ([f"... and {hidden:,} more"] if hidden else []) + self.notes)


def audit(uri: str, pictures: bool = True) -> Audit:
    """Holds a run's log against its manifest, and with `pictures` reads every shard and every picture. NoRun if there
    is none at `uri`."""
    store = open_store(uri)
    run = read_run_record(store)
    ledger, result = Ledger(store), Audit(pictures=pictures)
    log = ledger.read()
    _published(store, log, result)
    broken = _broken(store, ledger, log, result) if pictures else np.empty(0, dtype=np.uint64)
    _against_manifest(store, run, ledger, log, broken, result)
    return result


def broken_rows(store: Store, log: Log) -> np.ndarray:
    """uint64 [N]: hashes of ids of rows whose shard or picture is not what it was; all of them are read."""
    return _broken(store, Ledger(store), log, Audit())


def fix(uri: str) -> str:
    """Has what an audit finds to be lost or damaged made anew by the next job: its rows count no longer. What a crash
    left half done is put right. As text; NoRun; Held where a job owns the run."""
    store = open_store(uri)
    read_run_record(store)
    with own(store, "darkroom audit") as writer:
        log = ""
        try:
            gone = writer.open()
        except LogDamaged as error:
            writer.rebuild()
            gone, log = writer.open(), f"{error}: made anew from metadata/\n"
        rows = sum(shard.rows for shard in gone) + writer.withdraw(broken_rows(store, writer.log))
        writer.close()
    if not rows:
        return f"{log}nothing in {uri} is lost or damaged"
    lost = plural(rows, f"row of {uri} is", f"rows of {uri} are")
    return f"{log}{lost} to be made anew: run its `darkroom generate` again"


def _published(store: Store, log: Log, result: Audit) -> None:
    there = {key.removeprefix("metadata/") for key in store.list("metadata/")}
    staged = {key.removeprefix("staging/") for key in store.list("staging/")}
    for name, shard in log.shards.items():
        if name not in there and name in staged:
            result.report("unpublished", f"{name} is committed but not in metadata/: run the job again")
        elif name not in there:
            result.report("lost", f"{name}, committed with {plural(shard.rows, 'row')}, is gone")
    for name in sorted(there - log.shards.keys()):
        if is_shard_name(name):
            result.report("stray", f"metadata/{name} belongs to no commit: its rows do not count")
        elif name.endswith(".parquet"):
            result.report("foreign file", f"metadata/{name} is no file of the run, and readers would take it for one")
        else:
            result.notes.append(f"metadata/{name} is no file of the run")
    result.notes += [f"{key} is no file of the run" for key in log.foreign]


def _broken(store: Store, ledger: Ledger, log: Log, result: Audit) -> np.ndarray:
    """uint64 [N]: ids of rows whose shard or picture is not what it was."""
    broken, referred, moved = list[int](), list[str](), 0
    wrong_with_map = lru_cache(None)(partial(_wrong_with_map, store))  # many rows see the same
    with ThreadPoolExecutor(READERS) as pool:
        for shard in log.shards.values():
            try:
                table = ledger.table(shard).select(_PICTURE)
            except Damaged as error:
                if not isinstance(error, Gone):  # that is reported already
                    result.report("damaged", str(error))
                broken += shard.ids.tolist()
                continue
            rows, moved = table.to_pylist(), moved + moved_rows(table, store)
            referred += [image_key_of(row[name]) for row in rows for name in ("image_uri", "video_uri") if row[name]]
            for row, sentences in zip(rows, pool.map(lambda row: _wrong_with_files(store, row), rows), strict=True):
                problems = [text for text in (*sentences, *map(wrong_with_map, maps_of(row["controls"]))) if text]
                for problem in problems:
                    result.report("picture", problem)
                if problems:
                    broken.append(hashed(row["id"]))
    if moved:
        advice = "readers that open what they say want `darkroom compact`"
        named = plural(moved, "row names its picture", "rows name their pictures")
        result.notes.append(f"{named} where the run lay before: {advice}")
    if orphans := int((~np.isin(hashes(store.list("images/")), hashes(referred))).sum()):
        belong = plural(orphans, "picture belongs", "pictures belong")
        result.notes.append(f"{belong} to no row that counts: `darkroom clean` removes them")
    return np.array(broken, dtype=np.uint64)


def _against_manifest(
    store: Store, run: dict[str, Any], ledger: Ledger, log: Log, broken: np.ndarray, result: Audit
) -> None:
    seen = [np.empty(0, dtype=np.uint64)]
    for key in store.list(f"manifest/{run['plan']}/"):
        lines = _lines(store, key, result)
        ids = hashes(line["id"] for line in lines)
        seen.append(ids)
        standing = log.index.standing(ids, hashes(line["key"] for line in lines))
        _rows_that_do_not_count(ledger, log, lines, ids, standing, result)
        result.rows += len(lines)
        result.good += int(((standing == OK) & ~np.isin(ids, broken)).sum())
    if result.rows != (rows := run["manifest"]["rows"]):
        there = f"{result.rows:,} of the {rows:,} rows of its manifest lie in {store.uri('manifest/')}"
        result.report("manifest", f"{there}: run the job again")
    elif run["options"]["limit"] is None:  # else the job was asked to look at the manifest's first rows only
        foreign = log.index.leavers(np.concatenate(seen))
        _list_foreign(ledger, log, foreign, result)


def _lines(store: Store, key: str, result: Audit) -> list[dict[str, Any]]:
    with suppress(ValueError):
        lines = [json.loads(line) for line in store.read(key).splitlines()]
        if all(isinstance(line, dict) and line.keys() >= {"id", "key"} for line in lines):
            return lines
    result.report("manifest", f"{store.uri(key)} is damaged: it is not what a job has written")
    return []


def _rows_that_do_not_count(
    ledger: Ledger, log: Log, lines: Sequence[dict[str, Any]], ids: np.ndarray, standing: np.ndarray, result: Audit
) -> None:
    for place in np.flatnonzero(standing == ABSENT).tolist():
        result.report("missing", f"row {lines[place]['id']} has 0 results, wanted 1")
    for place in np.flatnonzero(standing == OTHER).tolist():
        times = log.index.times(ids[place])
        row = f"row {lines[place]['id']}"
        if times > 1:
            result.report("double", f"{row} has {times} results, wanted 1")
        else:
            result.report("outdated", f"{row} has the picture of an earlier manifest")
    for place in np.flatnonzero(standing == FAILED).tolist():
        listed = result.counts["failed"] < LISTED
        error = _error_of(ledger, log, lines[place]["id"], ids[place]) if listed else ""
        result.report("failed", f"row {lines[place]['id']} failed: {error}")


def _error_of(ledger: Ledger, log: Log, row_id: str, number: np.uint64) -> str:
    try:
        (shard, *_) = log.index.holding(np.array([number]))
        rows = ledger.table(shard, ["id", "error"]).to_pylist()
    except StorageError as error:
        return f"(its shard cannot be read: {error})"
    return next(row["error"] for row in rows if row["id"] == row_id)


def _list_foreign(ledger: Ledger, log: Log, foreign: np.ndarray, result: Audit) -> None:
    listed = [name for shard in log.index.holding(foreign[:LISTED]) for name in _names(ledger, shard, foreign)]
    for name in sorted(listed)[:LISTED]:
        result.report("foreign", f"the result {name} is no row of the manifest")
    result.report("foreign", "", len(foreign) - result.counts["foreign"])
    if not result.counts["foreign"]:
        del result.counts["foreign"]


def _names(ledger: Ledger, shard: Shard, wanted: np.ndarray) -> list[str]:
    try:
        names = ledger.table(shard, ["id"])["id"].to_pylist()
    except StorageError:
        return []
    return [names[place] for place in np.flatnonzero(np.isin(shard.ids, wanted)).tolist()]


def _wrong_with_map(store: Store, key: str) -> str:
    """Of what a control network saw, whose name is its SHA-256."""
    try:
        whole = hashlib.sha256(store.read(key)).hexdigest() in key
    except NotFound:
        return f"{store.uri(key)}, which a control network saw, is gone"
    return "" if whole else f"{store.uri(key)}, which a control network saw, is damaged: its SHA-256 is another"


def _wrong_with_files(store: Store, row: dict[str, Any]) -> list[str]:
    """Of a row's picture, and of its video where it has one; "" of what is whole."""
    wrong = [_wrong_with_picture(store, row)]
    if row["status"] != "ok" or not row["video_uri"]:
        return wrong
    key = image_key_of(row["video_uri"])
    where = f"the video of row {row['id']}, {store.uri(key)},"
    try:
        whole = hashlib.sha256(store.read(key)).hexdigest() == row["video_sha256"]
    except NotFound:
        return [*wrong, f"{where} is gone"]
    return [*wrong, "" if whole else f"{where} is damaged: its SHA-256 is another"]


def _wrong_with_picture(store: Store, row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return ""
    data, where = row["image"]["bytes"], f"the picture of row {row['id']}"
    if row["image_uri"]:
        key = image_key_of(row["image_uri"])
        where += f", {store.uri(key)},"
        try:
            data = store.read(key)
        except NotFound:
            return f"{where} is gone"
    return "" if hashlib.sha256(data).hexdigest() == row["sha256"] else f"{where} is damaged: its SHA-256 is another"
