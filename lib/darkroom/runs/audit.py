"""Whether a run is whole: every manifest id has exactly one good row, and its picture is what the row says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from darkroom.batch.units import read_lines
from darkroom.runs import CommitRecord, Ledger
from darkroom.storage import NotFound, Store, open_store

LISTED = 20
READERS = 16


@dataclass
class Audit:
    """rows: of the manifest; good: with one good row and a whole picture; problems: the first few of each kind."""

    rows: int = 0
    good: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.counts and self.rows > 0

    def report(self, kind: str, sentence: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.problems.append(sentence)

    def text(self) -> str:
        """What `darkroom audit` prints."""
        lines = [f"{self.good:,} of {self.rows:,} manifest rows have exactly one good row and a whole picture"]
        lines += self.problems
        hidden = sum(max(0, count - LISTED) for count in self.counts.values())
        return "\n".join(lines + ([f"... and {hidden:,} more"] if hidden else []))


@dataclass
class _Results:
    """What the shards hold, by id: how often, the key and status of the last, what is wrong with it."""

    times: Counter[str] = field(default_factory=Counter)
    keys: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)


def audit(uri: str) -> Audit:
    """Reads the ledger, every shard and every picture of a run. NotFound if there is no run at `uri`."""
    store = open_store(uri)
    run = json.loads(store.read("run.json"))
    result, found = Audit(), _Results()
    ledger = Ledger(store)
    published = {key.removeprefix("metadata/") for key in store.list("metadata/")}
    for record in ledger.records():
        if record.shard in published:
            published.discard(record.shard)
        else:
            result.report("unpublished", f"{record.shard} is committed but not in metadata/: run the job again")
        _read_shard(store, ledger, record, found, result)
    for shard in sorted(published):
        result.report("stray", f"metadata/{shard} belongs to no commit: its rows do not count")
    _against_manifest(store, run, found, result)
    return result


def _read_shard(store: Store, ledger: Ledger, record: CommitRecord, found: _Results, result: Audit) -> None:
    for row_id, key, _ in record.entries:
        found.times[row_id] += 1
        found.keys[row_id] = key
    try:
        table = ledger.table(record)
    except NotFound:
        result.report("lost", f"{record.shard}, committed with {record.rows:,} rows, is gone")
        found.broken |= {row_id for row_id, _, _ in record.entries}
        return
    rows = table.select(["id", "key", "status", "error", "sha256", "image", "image_uri"]).to_pylist()
    found.errors |= {row["id"]: row["error"] for row in rows if row["status"] != "ok"}
    with ThreadPoolExecutor(READERS) as pool:
        for row_id, sentence in pool.map(lambda row: (row["id"], _wrong_with_picture(store, row)), rows):
            if sentence:
                result.report("picture", sentence)
                found.broken.add(row_id)


def _against_manifest(store: Store, run: dict[str, Any], found: _Results, result: Audit) -> None:
    for line in read_lines(store, f"manifest/{run['plan']}"):
        row_id, result.rows = line["id"], result.rows + 1
        times = found.times.pop(row_id, 0)
        if times != 1:
            result.report("double" if times else "missing", f"row {row_id} has {times} results, wanted 1")
        elif found.keys[row_id] != line["key"]:
            result.report("outdated", f"row {row_id} has the picture of an earlier manifest")
        elif row_id in found.errors:
            result.report("failed", f"row {row_id} failed: {found.errors[row_id]}")
        elif row_id not in found.broken:
            result.good += 1
    if run["options"]["limit"] is not None:
        return  # the job was asked to look at the manifest's first rows only; others may well be there
    for row_id in found.times:
        result.report("foreign", f"the result {row_id} is no row of the manifest")


def _wrong_with_picture(store: Store, row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return ""
    data, where = row["image"]["bytes"], f"the picture of row {row['id']}"
    if row["image_uri"]:
        # The key alone, wherever the run lay when the row was written: moved or copied as a whole, it is still whole.
        key = "images/" + row["image_uri"].rpartition("/images/")[2]
        where += f", {store.uri(key)},"
        try:
            data = store.read(key)
        except NotFound:
            return f"{where} is gone"
    return "" if hashlib.sha256(data).hexdigest() == row["sha256"] else f"{where} is damaged: its SHA-256 is another"
