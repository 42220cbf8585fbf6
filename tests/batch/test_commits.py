"""From receipts of units to rows that count, and what ends a job in which too many of them failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.batch.commits import Commits
from darkroom.batch.progress import TooManyFailed
from darkroom.batch.write_results import Receipt
from darkroom.runs import Ledger, stage, to_table
from darkroom.storage import Store, open_store
from runs import next_owner, result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def receipt(store: Store, unit: int, statuses: str) -> Receipt:
    """statuses: a letter for each row, o or f."""
    lines = [
        {"id": f"{unit}-{n}", "key": f"{unit:016x}{n:016x}", "row": {"task": "denoise"}} for n in range(len(statuses))
    ]
    named = zip(lines, statuses, strict=True)
    rows = [result(line, "failed" if status == "f" else "ok", attempts=1) for line, status in named]
    failed = statuses.count("f")
    shard = stage(store, f"u-{unit}", to_table(rows)).to_json()
    return Receipt(unit, len(statuses) - failed, failed, 0, ["input"] * failed, shard)


def test_as_many_rows_may_fail_as_were_allowed_and_no_more(store: Store) -> None:
    commits = Commits(next_owner(store), lambda receipt: None, most_failed=1)
    with pytest.raises(TooManyFailed, match="2 of 5 rows failed, --max-failed-rows allows 1 in all"), commits:
        commits.add(receipt(store, 1, "oof"))
        commits.flush()
        commits.add(receipt(store, 2, "of"))
        commits.flush()
    assert Ledger(store).read().rows == 5, "what was made is kept"


def test_what_waits_is_committed_where_a_job_ends_and_its_own_end_is_told(store: Store) -> None:
    commits = Commits(next_owner(store), lambda receipt: None, most_failed=0)
    with pytest.raises(KeyboardInterrupt), commits:
        commits._waiting.append(receipt(store, 1, "of"))
        raise KeyboardInterrupt
    assert Ledger(store).read().rows == 2
