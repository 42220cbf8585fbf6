"""Twins: rows that ask for a picture another row has already. It is made once; each has a result row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from darkroom.batch.units import read_lines
from darkroom.runs import CommitRecord, Ledger, to_table
from darkroom.storage import Store

ROWS_PER_COMMIT = 256


def commit_twins(store: Store, ledger: Ledger, plan: str) -> int:
    """Commits a result row for every twin of this plan, a copy of its elder's; how many. Twins of rows that were
    never committed are left for the next run."""
    lines = read_lines(store, f"twins/{plan}")
    wanted = {line["key"] for line in read_lines(store, f"twins/{plan}")}
    if not wanted:
        return 0
    where = {key: (row_id, record) for row_id, key, _, record in ledger.entries() if key in wanted}
    count = number = 0
    while batch := list(islice(lines, ROWS_PER_COMMIT)):
        rows = list(_copies(ledger, batch, where))
        if rows:
            ledger.commit(f"{plan}-twins-{number:06d}", to_table(rows))
        count, number = count + len(rows), number + 1
    return count


def _copies(
    ledger: Ledger, lines: list[dict[str, Any]], where: dict[str, tuple[str, CommitRecord]]
) -> Iterator[dict[str, Any]]:
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines:
        if line["key"] not in where:
            continue
        elder, record = where[line["key"]]
        if record.name not in tables:
            tables[record.name] = {row["id"]: row for row in ledger.table(record).to_pylist()}
        row = dict(tables[record.name][elder])
        del row["schema_version"]
        # It cost nothing: sums over evaluations and seconds stay true.
        yield row | {"id": line["id"], "evaluations": 0, "seconds": 0.0, "created_at": datetime.now(UTC)}
