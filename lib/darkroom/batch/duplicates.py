"""Duplicates: rows that ask for a picture which another row has. It is made once; each has a result row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from darkroom.batch.units import read_lines
from darkroom.runs import Writer, stage, to_table
from darkroom.storage.hashing import hashed, hashes

ROWS_PER_COMMIT = 2_000


def commit_duplicates(writer: Writer, plan: str) -> int:
    """Commits a result row for every duplicate of this plan, a copy of the row that was made; how many. Those whose
    picture was never made are left for the next run."""
    lines = read_lines(writer.store, f"twins/{plan}")
    count = number = 0
    while batch := list(islice(lines, ROWS_PER_COMMIT)):
        rows = list(_copies(writer, batch))
        if rows:
            writer.commit([stage(writer.store, f"{plan}-duplicates-{number:06d}", to_table(rows))])
        count, number = count + len(rows), number + 1
    return count


def _copies(writer: Writer, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    originals: dict[int, dict[str, Any]] = {}
    for shard, places in writer.log.index.with_keys(hashes(line["key"] for line in lines)):
        rows = writer.ledger.table(shard).take(places).to_pylist()
        originals |= {hashed(row["key"]): row for row in rows}
    for line in lines:
        row = originals.get(hashed(line["key"]))
        if row is None or row["key"] != line["key"]:
            continue
        copy = {name: value for name, value in row.items() if name != "schema_version"}
        # It cost nothing: sums over evaluations and seconds stay true.
        yield copy | {"id": line["id"], "evaluations": 0, "seconds": 0.0, "created_at": datetime.now(UTC)}
