"""A run's rows found: of a folder and of a bucket, by every filter, in every order, without Streamlit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.runs import Ledger, to_table
from darkroom.runs.reading import NoRun
from darkroom.storage import StorageError, open_store
from darkroom.studio.run_table import RunTable, run_version
from darkroom.studio.run_view import View
from runs import commit, png, result, with_pictures_inside

QUOTED = 'a "red" seven; DROP TABLE rows --'
VIEWS = [{"view": "identity", "prompt": "a six"}, {"view": "jigsaw", "seed": 3, "prompt": "a nine"}]
RECORD = {"plan": "0" * 8, "manifest": {"uri": "jobs.jsonl"}, "model": {"name": "if-xs"}, "options": {}}


def _row(number: int, row: dict[str, Any], **more: Any) -> dict[str, Any]:
    prompts = [view["prompt"] for view in row["views"]] if "views" in row else [row["prompt"]]
    line = {"id": f"r{number}", "key": f"{number:032x}", "row": row}
    own = {"prompts": prompts, "parameters": json.dumps(row), "seed": row["seed"], "image_uri": f"/at/images/{number}"}
    return result(line, **own | more)


TEXT = {"task": "text_to_image", "prompt": "a red seven", "guidance": 7}
ROWS = [
    _row(0, {**TEXT, "seed": 0}, guidance=7.0, alignment=0.5, flags=["watermark"]),
    _row(1, {**TEXT, "seed": 1, "sampler": "ddim", "stage2": {"steps": 9}}, guidance=7.0, alignment=0.9),
    _row(2, {**TEXT, "seed": 0, "guidance": 3.5}, guidance=3.5, flags=["watermark", "dark"]),
    _row(3, {**TEXT, "prompt": QUOTED, "seed": 2}, guidance=7.0, alignment=0.1),
    _row(4, {"task": "anagram", "views": VIEWS, "seed": 0}),
    _row(5, {**TEXT, "seed": 5}, status="failed", error="gone", error_class="input", image_uri=""),
    _row(6, {**TEXT, "prompt": "Ein Maß 七", "seed": 6}, image_uri="", image={"bytes": png(8), "path": "x.png"}),
]


def write(uri: str) -> None:
    store = open_store(uri)
    store.write("run.json", json.dumps(RECORD).encode())
    commit(store, "first", to_table(ROWS[:4]))
    commit(store, "second", to_table(ROWS[4:]))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunTable]:
    uri = str(tmp_path_factory.mktemp("run"))
    write(uri)
    yield RunTable(uri)


def ids(table: RunTable, view: View, size: int = 48) -> str:
    return " ".join(row["id"][1:] for row in table.find(view, size).rows)


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        (View(), "0 1 2 3 4 5 6"),
        (View(tasks=("anagram", "upscale")), "4"),
        (View(statuses=("failed",)), "5"),
        (View(errors=("input",)), "5"),
        (View(flags=("dark", "other")), "2"),
        (View(text="SEVEN red"), "0 1 2 3 5"),
        (View(text='"red"'), "3"),
        (View(text="maß r6"), "6"),
        (View(text="%"), ""),
        (View(lowest=0.5), "0 1"),
        (View(lowest=0.2, highest=0.6), "0"),
        (View(where="guidance=7"), "0 1 3"),
        (View(where="guidance<7 seed=0"), "2"),
        (View(where="sampler=ddim"), ""),  # the column is what ran
        (View(where="stage2.steps>=9"), "1"),
        (View(where="view=jigsaw"), "4"),
        (View(where="view~jig"), "4"),
        (View(where='prompt="a red seven"'), "0 1 2 5"),
        (View(where='prompt~"; drop table"'), "3"),
        (View(where="""prompt="') OR true --" """), ""),
        (View(where="id=r6"), "6"),
        (View(where="error_class!=input task=text_to_image guidance!=7"), "2 6"),
        (View(where="guidance!=7"), "2 4 5 6"),  # the column is what ran
        (View(where="stage2.steps!=9"), "0 2 3 4 5 6"),
        (View(where="view!=jigsaw"), "0 1 2 3 5 6"),
        (View(where="view!=rotate_90 task=anagram"), "4"),
        (View(where="view!=7 component!=7 task=anagram"), "4"),
        (View(order="alignment"), "3 0 1 2 4 5 6"),
        (View(order="alignment", down=True), "1 0 3 2 4 5 6"),
        (View(down=True), "6 5 4 3 2 1 0"),
    ],
)
def test_filters_and_orders(table: RunTable, view: View, wanted: str) -> None:
    assert ids(table, view) == wanted
    assert table.find(view).total == len(wanted.split())


def test_pages(table: RunTable) -> None:
    assert [ids(table, View(page=page), size=3) for page in (0, 1, 2, 10**9)] == ["0 1 2", "3 4 5", "6", "6"]
    assert table.find(View(page=1), 3).total == 7
    assert ids(table, View(order="seed", down=True, page=1), size=3) == "1 0 2"
    assert table.around(View(order="alignment"), "r0") == (2, "r3", "r1")
    assert table.around(View(), "r0") == (1, "", "r1") and table.around(View(text="maß"), "r0") == (0, "", "")


def test_what_a_run_has(table: RunTable) -> None:
    assert table.rows == 7 and table.counts["text_to_image"] == {"ok": 5, "failed": 1}
    assert table.names == ["guidance", "prompt", "sampler", "seed", "stage2", "task", "views"]
    assert table.flags() == ["dark", "watermark"] and table.failures() == [("input", 1, "gone")] and table.is_scored


def test_a_row_and_its_picture(table: RunTable) -> None:
    assert table.row("r4")["parameters"] == ROWS[4]["parameters"] and "image" not in table.row("r4")
    assert table.named("r4")["parameters"]["views"] == VIEWS
    assert table.picture(table.named("r6")) == png(8)
    for ask in (table.row, table.named):
        with pytest.raises(KeyError, match="no row 'nobody'"):
            ask("nobody")
    with pytest.raises(ValueError, match="row r5 has no picture"):
        table.picture(table.named("r5"))


def test_of_pictures_that_lie_inside_few_are_read_to_show_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a page of 48 would read a shard of 256 MB as often."""
    store, share = with_pictures_inside(tmp_path, monkeypatch)
    table = RunTable(store.root)
    assert table.picture(table.named("r250")) == png(32, 250) and 0 < share() < 0.4


def test_rows_that_differ_in_one_thing_are_a_series(table: RunTable) -> None:
    found = {name: [row["id"] for row in rows] for name, rows in table.series(table.named("r0")).items()}
    assert found == {"guidance": ["r2", "r0"]}, "r1 differs in three, r5 has failed"


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("guidance", "guidance: wanted name=value"),
        ("guidance>high", "guidance>high: wanted a number after >"),
        ("gidance=7", "no row has gidance, did you mean 'guidance'?"),
        ("gidance.deep=7", "no row has gidance.deep, did you mean 'guidance'?"),
        ("1=1", "1=1: wanted name=value"),
    ],
)
def test_conditions_that_say_nothing(table: RunTable, where: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        table.refuse_unknown(where)
        table.find(View(where=where))


def test_long_numbers_are_told_apart(tmp_path: Path) -> None:
    """More digits than a float has, of a seed as of an id, which is a text."""
    store, first = open_store(str(tmp_path)), 2**63 - 3
    store.write("run.json", json.dumps(RECORD).encode())
    rows = [_row(n, {**TEXT, "seed": first + n}) | {"id": f"0{first + n}"} for n in range(3)]
    commit(store, "first", to_table(rows))
    table = RunTable(str(tmp_path))
    for where in (f"seed={first + 1}", f"seed>{first} seed<{first + 2}", f"id=0{first + 1}", f"seed=9{'0' * 99} id=x"):
        found = [row["seed"] for row in table.find(View(where=where)).rows]
        assert found == ([] if "x" in where else [first + 1]), where
    assert table.find(View(where=f"id!=0{first + 1}")).total == 2


def test_what_few_rows_have_may_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.studio.run_table.NAMED", 1)
    store = open_store(str(tmp_path))
    store.write("run.json", json.dumps(RECORD).encode())
    edit = {"task": "image_to_image", "prompt": "a red seven", "seed": 1, "strength": 0.6, "stage9": {"depth": 4}}
    rows = [_row(number, {**TEXT, "seed": number}) for number in range(1000)]
    commit(store, "first", to_table([*rows, _row(1000, edit)]))
    table = RunTable(str(tmp_path))
    assert not {"strength", "stage9"} & set(table.names), "no row that was drawn has them"
    for where in ("strength>0.5", "stage9.depth=4"):
        table.refuse_unknown(where)
        assert ids(table, View(where=where)) == "1000"
    with pytest.raises(ValueError, match="no row has depth"):
        table.refuse_unknown("depth=4")


def test_a_store_that_fails_while_rows_come_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path))

    def table_of(self: Ledger, shard: Any, columns: Any) -> None:
        raise StorageError("the bucket does not answer")

    monkeypatch.setattr(Ledger, "table", table_of)
    with pytest.raises(StorageError, match="^the bucket does not answer$"):
        RunTable(str(tmp_path))


def test_a_run_in_a_bucket_and_one_that_grows(s3_env: str) -> None:
    with pytest.raises(NoRun):
        RunTable(s3_env)
    write(s3_env)
    before = run_version(s3_env)
    table = RunTable(s3_env)
    assert ids(table, View(where="view=jigsaw")) == "4" and table.version == before
    assert table.picture(table.named("r6")) == png(8) and table.row("r0")["seed"] == 0
    commit(open_store(s3_env), "third", to_table([_row(7, {**TEXT, "seed": 7})]))
    assert run_version(s3_env) != before and table.find(View()).total == 7 and RunTable(s3_env).find(View()).total == 8
