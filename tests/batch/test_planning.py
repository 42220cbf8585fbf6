from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.batch import planned_rows
from darkroom.batch.options import parse_rerun
from darkroom.batch.planned_rows import Maker, ReadRows, read_lines
from darkroom.batch.planning import Work, cut
from darkroom.batch.row_filter import RowFilter
from darkroom.batch.row_state import Unit, read_unit
from darkroom.models.catalog import abilities, open_model
from darkroom.runs import Ledger, to_table
from darkroom.runs.failures import Failures
from darkroom.storage import StorageError, Store, open_store
from darkroom.storage.hashing import hashed, hashes
from runs import RED, commit, result, write_manifest

MAKER = {"default_size": 8, "encoders": ("t5", "t5")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def plan_work(tmp_path: Path, toy_model: str, store: Store):
    """Cuts a list of manifest rows against the run's ledger."""
    model = open_model(toy_model)

    def plan(
        rows: list[dict[str, Any]],
        part_rows: int = 2,
        limit: int | None = None,
        dry: bool = False,
        failures: Failures | None = None,
        asked: RowFilter | None = None,
        **more: Any,
    ) -> Work:
        uri, able = write_manifest(tmp_path, rows), abilities(model, scorer=True)
        maker = Maker(**{**MAKER, "revision": model.revision, "stages": model.stages, **more})
        log, out = Ledger(store).read(), None if dry else store
        return cut(ReadRows(uri, able, maker), log, maker, limit, out, part_rows, None, failures, asked)

    return plan


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{**RED, "id": f"r{n}", "seed": n, **more} for n in range(count)]


def finish(store: Store, work: Work, statuses: dict[str, str] | None = None) -> None:
    """Commits a result row for every row of the work, as `deliver` would."""
    lines = list(read_lines(store, f"work/{work.plan}"))
    table = to_table([result(line, (statuses or {}).get(line["id"], "ok")) for line in lines])
    commit(store, f"{work.plan}-all", table)


def test_rows_are_cut_into_units_of_so_many(plan_work, store: Store) -> None:
    work = plan_work(rows(5), part_rows=4)
    assert (work.rows, work.to_make, work.done, work.duplicates) == (5, 5, 0, 0)
    units = work.units(3)
    assert units == [Unit(0, 0, 0, 3), Unit(1, 0, 3, 4), Unit(2, 1, 0, 1)], "none reaches over the end of a file"
    found = [[line["id"] for line in read_unit(store, work.plan, unit)] for unit in units]
    assert found == [["r0", "r1", "r2"], ["r3"], ["r4"]]
    assert [unit.stop - unit.start for unit in work.units(100)] == [4, 1]
    assert [line["id"] for line in read_lines(store, f"manifest/{work.plan}")] == ["r0", "r1", "r2", "r3", "r4"]
    assert work.todo == {"text_to_image": 5} and (work.stages, work.largest) == ({1}, 8)
    assert {name: list(prompts) for name, prompts in work.prompts.items()} == {"t5": ["a red one", ""]}


def test_a_dry_run_counts_the_same_and_writes_nothing(plan_work, store: Store) -> None:
    work = plan_work(rows(5), dry=True)
    assert (work.rows, work.to_make, len(work.units(2))) == (5, 5, 3)
    assert list(store.list()) == []


def test_unchanged_rows_are_done(plan_work, store: Store) -> None:
    finish(store, plan_work(rows(4)))
    work = plan_work(rows(4))
    assert (work.done, work.to_make, work.units(2), work.changed, len(work.leavers)) == (4, 0, [], 0, 0)


def test_changed_and_failed_rows_are_made_anew(plan_work, store: Store) -> None:
    finish(store, plan_work(rows(4)), {"r3": "failed"})
    wanted = rows(4)
    wanted[1]["guidance"] = 3
    work = plan_work(wanted)
    assert (work.done, work.to_make, work.changed, len(work.leavers)) == (2, 2, 2, 0)


def test_a_default_that_is_written_out_changes_nothing(plan_work, store: Store) -> None:
    finish(store, plan_work(rows(2)))
    assert plan_work(rows(2, guidance=7, negative_prompt="")).done == 2


def test_rows_that_left_the_manifest_are_named_but_not_by_a_limit(plan_work, store: Store) -> None:
    finish(store, plan_work(rows(4)))
    assert plan_work(rows(3)).leavers.tolist() == [hashed("r3")]
    assert plan_work(rows(4), limit=2).leavers.tolist() == []


def test_a_row_without_an_id_is_called_by_its_key_and_counts_once(plan_work, store: Store) -> None:
    work = plan_work([RED, RED, {**RED, "seed": 1}])
    lines = list(read_lines(store, f"manifest/{work.plan}"))
    assert work.rows == 2 and all(line["id"] == line["key"] for line in lines)


def test_duplicates_are_made_once(plan_work, store: Store) -> None:
    work = plan_work([{**RED, "id": name} for name in "abc"])
    assert (work.rows, work.to_make, work.duplicates) == (3, 1, 2)
    assert [line["id"] for line in read_lines(store, f"duplicates/{work.plan}")] == ["b", "c"]


def test_a_twin_of_a_finished_row_is_not_made(plan_work, store: Store) -> None:
    finish(store, plan_work([{**RED, "id": "a"}]))
    work = plan_work([{**RED, "id": "a"}, {**RED, "id": "b"}])
    assert (work.done, work.to_make, work.duplicates) == (1, 0, 1)


def test_a_picture_whose_row_leaves_the_ledger_has_no_duplicates(plan_work, store: Store) -> None:
    """It is superseded before duplicates are copied: one of it would find nothing to copy."""
    finish(store, plan_work(rows(2)))
    swapped = [{**RED, "id": "r0", "seed": 1}, {**RED, "id": "r1", "seed": 0}]
    work = plan_work(swapped)
    assert (work.to_make, work.duplicates, work.superseded) == (2, 0, 2)
    renamed = plan_work([{**RED, "id": "other", "seed": 0}])
    assert (renamed.to_make, renamed.duplicates, len(renamed.leavers)) == (1, 0, 2)


def test_a_new_model_or_watermark_makes_everything_anew(plan_work, store: Store) -> None:
    finish(store, plan_work(rows(2)))
    assert plan_work(rows(2), revision="another revision").changed == 2
    assert plan_work(rows(2), finish="watermark").changed == 2


def test_a_scorer_has_a_say_where_it_chooses_and_only_there(plan_work, store: Store) -> None:
    wanted = [*rows(2), {**RED, "id": "best", "best_of": 3}]
    finish(store, plan_work(wanted, judge="clip-1"))
    work = plan_work(wanted, judge="clip-2")
    assert (work.done, work.superseded, work.best_of) == (2, 1, 1)


def test_every_encoder_gets_what_its_stages_ask(plan_work, toy_model: str) -> None:
    views = [{"view": "identity", "prompt": "a one"}, {"view": "rotate_180", "prompt": "a two"}]
    upper = {"id": "large", "task": "anagram", "views": views, "size": 16}
    first, second = open_model(toy_model).stages
    stages = (first, replace(second, factor=4))
    work = plan_work([{**RED, "id": "small"}, upper], stages=stages, encoders=("t5", "clip"))
    asked = {name: sorted(prompts) for name, prompts in work.prompts.items()}
    assert asked == {"t5": ["", "a one", "a red one", "a two"], "clip": ["", "a one"]}, "latents: the first prompt"
    assert work.stages == {1, 2}


def test_a_row_whose_prompt_is_cut_says_so(plan_work, store: Store) -> None:
    wanted = [{**RED, "id": "short"}, {**RED, "id": "long", "prompt": "a " * 80}]
    work = plan_work(wanted, too_long=lambda encoder, prompt: encoder == "t5" and len(prompt) > 100)
    flags = {line["id"]: line.get("flags", []) for line in read_lines(store, f"work/{work.plan}")}
    assert flags == {"short": [], "long": ["prompt_truncated"]} and work.truncated == 1


def test_a_strength_that_rounds_to_no_step_is_a_flag(plan_work, store: Store) -> None:
    row = {"task": "image_to_image", "prompt": "a", "image": "a.png", "steps": 10}
    strengths = {"none": 0.09, "one": 0.1, "meant": 0}
    plan = plan_work([row | {"id": name, "strength": strength} for name, strength in strengths.items()])
    flags = {line["id"]: line["flags"] for line in read_lines(store, f"work/{plan.plan}")}
    assert flags == {"none": ["no_steps"], "one": [], "meant": []}


def test_repeated_lines_are_told(plan_work) -> None:
    assert plan_work([RED] * 4 + [{**RED, "seed": 9}]).summary() == (
        "5 lines, 3 of them the same as another; 2 rows: 0 done, 2 to make, 0 duplicates, 0 changed"
    )
    assert plan_work([RED]).summary().startswith("1 row: 0 done")


def record_plan(store: Store, read: ReadRows, work: Work) -> None:
    """As a job does: the run's plan is this one, and no other is left."""
    record = {"plan": work.plan, "checked": read.mark, "manifest": {"rows": work.rows}, "model": {}, "options": {}}
    store.write("run.json", json.dumps(record).encode())
    store.delete(*(key for key in store.list("manifest/") if work.plan not in key))


def test_a_plan_that_is_not_all_there_takes_no_row_away(tmp_path: Path, toy_model: str, store: Store) -> None:
    model = open_model(toy_model)
    able, maker = abilities(model), Maker(**MAKER, revision=model.revision, stages=model.stages)
    uri = write_manifest(tmp_path, rows(planned_rows.MANIFEST_PART + 3))

    def plan(read: ReadRows | None = None) -> Work:
        read = read or ReadRows(uri, able, maker, store)
        work = cut(read, Ledger(store).read(), maker, None, store)
        record_plan(store, read, work)
        return work

    first = plan()
    finish(store, first)
    read = ReadRows(uri, able, maker, store)
    facts = [(work.rows, work.done, len(work.leavers)) for work in (plan(read), plan(read))]
    assert facts == [(first.rows, first.rows, 0)] * 2, "the first of these took the plan away that both read"
    for number, left in (("000000", b"{"), ("000001", b"")):
        part = f"manifest/{plan().plan}/{number}.jsonl"
        store.write(part, store.read(part)[:-9] + left)
        with pytest.raises(StorageError, match="is damaged: remove that folder, and start again"):
            plan()
        store.delete(part)
        assert plan().leavers.tolist() == []


def test_a_manifest_that_was_planned_from_is_not_parsed_again(
    tmp_path: Path, toy_model: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(toy_model)
    able = abilities(model, scorer=True)
    maker = Maker(**MAKER, revision=model.revision, stages=model.stages, too_long=lambda encoder, prompt: True)
    unnamed = {**RED, "seed": 10_000}
    uri = write_manifest(tmp_path, [*rows(9000), {**RED, "id": 'a "quoted" \\ é one', "best_of": 2}, unnamed, unnamed])

    def plan(maker: Maker = maker) -> Work:
        read = ReadRows(uri, able, maker, store)
        work = cut(read, Ledger(store).read(), maker, None, store)
        record_plan(store, read, work)
        return work

    first = plan()
    made_before = list(read_lines(store, f"work/{first.plan}"))
    with monkeypatch.context() as patch:
        patch.setattr(planned_rows, "Reading", None)
        again = plan()
        assert list(read_lines(store, f"work/{again.plan}")) == made_before, "questions, flags and all"
        facts = [{**vars(work), "plan": "", "leavers": len(work.leavers)} for work in (first, again)]
        assert facts[0] == facts[1] and again.rows == 9002
        finish(store, again)
        told = "9,003 lines, 1 of them the same as another; 9,002 rows: 9,002 done, 0 to make, 0 duplicates, 0 changed"
        assert plan().summary() == told
        with pytest.raises(TypeError):  # Reading is not there
            plan(replace(maker, revision="another"))
    write_manifest(tmp_path, rows(3))
    assert (plan().rows, len(plan().leavers)) == (3, 8999)


def test_failed_rows_are_tried_again_by_their_class_and_counted(plan_work, store: Store) -> None:
    first = plan_work(rows(4))
    classes = {"r1": "input", "r2": "storage"}
    lines = list(read_lines(store, f"work/{first.plan}"))
    found = [
        result(line, "failed" if line["id"] in classes else "ok", error_class=classes.get(line["id"], ""), attempts=2)
        for line in lines
    ]
    commit(store, f"{first.plan}-all", to_table(found))

    def plan(rerun: str) -> tuple[Work, list[dict[str, Any]]]:
        work = plan_work(rows(4), failures=Failures(store, parse_rerun(rerun)))
        return work, list(read_lines(store, f"work/{work.plan}"))

    work, lines = plan("failed")
    assert (work.done, work.changed, [(line["id"], line["attempts"]) for line in lines]) == (
        2,
        2,
        [("r1", 3), ("r2", 3)],
    )
    work, lines = plan("storage")
    assert (work.done, [line["id"] for line in lines]) == (3, ["r2"])
    assert plan("none")[0].to_make == 0


def test_only_rows_that_are_named_are_made_and_the_others_stand_as_they_are(
    plan_work, store: Store, tmp_path: Path
) -> None:
    first = plan_work(rows(3))
    finish(store, first, {"r1": "failed", "r2": "failed"})
    more = [*rows(6), {**RED, "id": "copy", "seed": 5}]

    def plan(*ids: str) -> tuple[Work, list[str]]:
        work = plan_work(more, asked=RowFilter("ids.txt", list(ids)))
        return work, [line["id"] for line in read_lines(store, f"work/{work.plan}")]

    work, made = plan("r0", "r2", "r4")
    assert made == ["r2", "r4"] and (work.done, work.changed, work.left, work.left_absent) == (1, 1, 4, 3)
    assert work.summary().endswith("7 rows: 1 done, 2 to make, 0 duplicates, 1 changed, 4 not asked for")
    assert not len(work.leavers)
    # The picture that it would be a copy of is not asked for, so it is made itself.
    assert plan("copy")[1] == ["copy"]
    assert plan("copy", "r5")[1] == ["r5"]
    with pytest.raises(ValueError, match="--ids: the manifest has no row of 2 of the 3 ids in ids.txt: 'r7', 'r8'"):
        asked = RowFilter("ids.txt", ["r7", "r1", "r8"])
        plan_work(more, asked=asked)
        asked.check()


def test_many_ids_are_looked_for_in_no_time() -> None:
    asked = RowFilter("ids", [str(number) for number in range(200_000)])
    numbers, began = hashes(map(str, range(100_000, 300_000))), time.process_time()
    found = [asked(numbers[at : at + 2000]).sum() for at in range(0, len(numbers), 2000)]
    assert time.process_time() - began < 3, "each chunk sorted all of them"
    assert found == [2000] * 50 + [0] * 50
    with pytest.raises(ValueError, match="no row of 100,000 of the 200,000 ids in ids: '0', '1', '2', '3', '4', ..."):
        asked.check()


def test_a_file_of_ids_is_lines_or_rows_with_an_id(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.write_text('a one\n\n{"id": "b", "task": "upscale", "prompt": "one\u2028line"}\r\n a one \n7\n')
    assert RowFilter.read(str(file)).ids == ["a one", "b", "7"]
    file.write_bytes(b"\xef\xbb\xbfa one\r\nb\r\n")
    assert RowFilter.read(str(file)).ids == ["a one", "b"], "as Windows writes it"
    for content, problem in ((b"\n", "is empty"), (b"\xff", "is no text"), (b'{"task": 1}', ":1: wanted an id, or a")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"--ids: {file}.*{problem}"):
            RowFilter.read(str(file))
    with pytest.raises(ValueError, match="--ids: there is no file .*/none"):
        RowFilter.read(str(tmp_path / "none"))
