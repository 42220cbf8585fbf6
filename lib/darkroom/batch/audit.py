"""Whether a run is whole: every manifest id has exactly one good row, and its picture is what the row says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from darkroom.batch.work import read_lines
from darkroom.storage import CommitRecord, Ledger, NotFound, Store, open_store

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


def audit(uri: str) -> Audit:
    """Reads the ledger, every shard and every picture of a run. NotFound if there is no run at `uri`."""
    store = open_store(uri)
    plan = json.loads(store.read("run.json"))["plan"]
    result = Audit()
    rows = Counter[str]()
    statuses: dict[str, str] = {}
    keys: dict[str, str] = {}
    ledger = Ledger(store)
    published = {key.removeprefix("metadata/") for key in store.list("metadata/")}
    for record in ledger.records():
        if record.shard not in published:
            result.report("unpublished", f"{record.shard} is committed but not in metadata/: run the job again")
        published.discard(record.shard)
        for row_id, key, status in record.entries:
            rows[row_id] += 1
            keys[row_id], statuses[row_id] = key, status
        for sentence in _broken_pictures(store, ledger, record):
            result.report("picture", sentence)
    for shard in sorted(published):
        result.report("stray", f"metadata/{shard} belongs to no commit: its rows do not count")
    _against_manifest(store, plan, rows, keys, statuses, result)
    result.good = max(0, result.good - result.counts["picture"])
    return result


def _against_manifest(
    store: Store, plan: str, rows: Counter[str], keys: dict[str, str], statuses: dict[str, str], result: Audit
) -> None:
    for line in read_lines(store, f"manifest/{plan}"):
        row_id, result.rows = line["id"], result.rows + 1
        found = rows.pop(row_id, 0)
        if found != 1:
            result.report("missing" if not found else "double", f"row {row_id} has {found} results, wanted 1")
        elif keys[row_id] != line["key"]:
            result.report("outdated", f"row {row_id} has the picture of an earlier manifest")
        elif statuses[row_id] != "ok":
            result.report("failed", f"row {row_id} failed")
        else:
            result.good += 1
    for row_id in rows:
        result.report("foreign", f"the result {row_id} is no row of the manifest")


def _broken_pictures(store: Store, ledger: Ledger, record: CommitRecord) -> Iterator[str]:
    rows = ledger.table(record).select(["id", "key", "status", "sha256", "image", "image_uri"]).to_pylist()
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda row: _broken(store, row), [row for row in rows if row["status"] == "ok"])
        yield from (sentence for sentence in found if sentence)


def _broken(store: Store, row: dict) -> str:
    data = row["image"]["bytes"]
    where = f"the picture of row {row['id']}"
    if row["image_uri"]:
        key = row["image"]["path"].removeprefix(store.uri("x")[:-1])
        try:
            data = store.read(key)
        except NotFound:
            return f"{where} is gone: {row['image_uri']}"
        where += f", {row['image_uri']},"
    return "" if hashlib.sha256(data).hexdigest() == row["sha256"] else f"{where} is damaged: its SHA-256 is another"
