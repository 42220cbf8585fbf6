from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.batch import commits
from darkroom.batch.commits import commit_duplicates
from darkroom.runs import Ledger, to_table
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


def test_many_duplicates_and_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "COPIES", 100)
    many = [line(f"t{n}") for n in range(205)]
    assert with_elder(tmp_path / "many", many) == len(many)
    assert len(results(str(tmp_path / "many"))) == len(many) + 1
    assert commit_duplicates(next_owner(open_store(str(tmp_path / "none"))), "plan") == 0


def test_copies_with_their_pictures_inside_come_in_shards_of_a_bearable_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow holds no more than 2 GiB of them in one array, and memory perhaps less."""
    monkeypatch.setattr(commits, "COPIED_BYTES", 500_000)
    picture = {"bytes": np.random.default_rng(0).bytes(100_000), "path": "images/x.png"}
    assert with_elder(tmp_path, [line(f"t{n}") for n in range(9)], image=picture) == 9
    assert {row["image"]["bytes"] for row in results(str(tmp_path)).values()} == {picture["bytes"]}
    assert max(shard.rows for shard in Ledger(open_store(str(tmp_path))).read().shards.values()) <= 5


def test_copies_that_replace_rows_beside_their_elder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shard is rewritten with every commit, and it lies elsewhere then."""
    monkeypatch.setattr(commits, "COPIES", 100)
    many = [line(f"t{n}") for n in range(205)]
    rows = [*many[:3], *many[-3:]]
    old = [result({**row, "key": f"{number:032x}"}, sha256="old") for number, row in enumerate(rows)]
    store = open_store(str(tmp_path))
    failed = result(line("failed"), "failed", error="no file")
    commit(store, "plan-000000", to_table([*old, failed, result(line("elder"), sha256="abc")]))
    store.write("duplicates/plan/000000.jsonl", "\n".join(map(json.dumps, many)).encode())
    assert commit_duplicates(next_owner(store), "plan") == len(many)
    found = results(str(tmp_path))
    assert found.keys() == {"elder", "failed", *(row["id"] for row in many)}
    assert {row["sha256"] for name, row in found.items() if name != "failed"} == {"abc"}, "a good one is copied"


def test_done_again_after_a_crash_nothing_is_twice(tmp_path: Path) -> None:
    with_elder(tmp_path, [line("b")])
    store = open_store(str(tmp_path))
    commit_duplicates(next_owner(store), "plan")
    assert results(str(tmp_path)).keys() == {"elder", "b"}
