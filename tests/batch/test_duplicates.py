from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkroom.batch.commits import COMMIT_ROWS, commit_duplicates
from darkroom.runs import to_table
from darkroom.storage import open_store
from runs import commit, next_owner, result, results


def line(name: str, key: str = "k" * 32) -> dict[str, Any]:
    return {"id": name, "key": key, "row": {"task": "text_to_image"}}


def with_elder(folder: Path, duplicates: list[dict[str, Any]], **elder: Any) -> int:
    """Commits the elder, hands its duplicates to `commit_duplicates`."""
    store = open_store(str(folder))
    commit(store, "plan-000000", to_table([result(line("elder"), **elder)]))
    store.write("duplicates/plan/000000.jsonl", "\n".join(map(json.dumps, duplicates)).encode())
    return commit_duplicates(next_owner(store), "plan")


def test_a_twin_has_its_elders_picture_under_its_own_id(tmp_path: Path) -> None:
    assert with_elder(tmp_path, [line("b"), line("c")], evaluations=68, seconds=2.0, sha256="abc") == 2
    found = results(str(tmp_path))
    assert found.keys() == {"elder", "b", "c"}
    assert {row["sha256"] for row in found.values()} == {"abc"}
    assert sum(row["evaluations"] for row in found.values()) == 68, "it was made once, and cost what one costs"


def test_a_twin_of_a_failed_row_failed_the_same_way(tmp_path: Path) -> None:
    with_elder(tmp_path, [line("b")], status="failed", error="no file")
    assert (results(str(tmp_path))["b"]["status"], results(str(tmp_path))["b"]["error"]) == ("failed", "no file")


def test_a_twin_whose_elder_is_not_there_waits_for_the_next_run(tmp_path: Path) -> None:
    assert with_elder(tmp_path, [line("b", key="z" * 32)]) == 0
    assert results(str(tmp_path)).keys() == {"elder"}


def test_many_duplicates_and_none_at_all(tmp_path: Path) -> None:
    many = [line(f"t{n}") for n in range(COMMIT_ROWS + 5)]
    assert with_elder(tmp_path / "many", many) == len(many)
    assert len(results(str(tmp_path / "many"))) == len(many) + 1
    assert commit_duplicates(next_owner(open_store(str(tmp_path / "none"))), "plan") == 0


def test_done_again_after_a_crash_nothing_is_twice(tmp_path: Path) -> None:
    with_elder(tmp_path, [line("b")])
    store = open_store(str(tmp_path))
    commit_duplicates(next_owner(store), "plan")
    assert results(str(tmp_path)).keys() == {"elder", "b"}
