from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image

from darkroom.manifest import parse_task, row_key
from darkroom.report.pictures import Pictures
from darkroom.report.rows import (
    FIGURES,
    LISTED_FAILURES,
    LONGEST_STRIP,
    _Draw,
    figure_of,
    in_manifest_order,
    select,
)
from darkroom.runs import Ledger, stage, to_table
from darkroom.storage import open_store
from darkroom.storage.hashing import hashes
from runs import next_owner, png, with_pictures_inside

NO_RECORD: dict[str, Any] = {
    "stages": "[]", "controls": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None,
    "error_class": "", "attempts": 1,
    "video_uri": "", "video_sha256": "", "video_bytes": None, "frames": None, "fps": None,
}  # fmt: skip


def result(row_id: str = "", error: str = "", **row: Any) -> dict[str, Any]:
    """A result row of what a manifest row asks for, its picture somewhere."""
    task = parse_task({"task": "text_to_image", "prompt": "a red seven", **row})
    key = row_key(task, "r1", "1")
    picture = None if error else {"bytes": b"a picture", "path": "images/aa/x.png"}
    text = {"negative_prompt": "", "image_uri": "", "sha256": "", "source_uri": "", "source_sha256": "", "worker": "w"}
    numbers = {"width": 48, "height": 48, "steps": 34, "start_timestep": None, "evaluations": 68, "seconds": 0.5}
    return {
        **text, **numbers, **NO_RECORD,
        "id": row_id or key, "key": key, "task": task.task, "status": "failed" if error else "ok", "error": error,
        "image": picture, "prompts": task.prompts(), "seed": task.seed, "guidance": task.guidance, "sampler": "ddpm",
        "parameters": json.dumps(task.canonical()), "model": "m", "model_revision": "r1",
        "created_at": datetime.now(UTC),
    }  # fmt: skip


def ledger_of(folder: Any, *units: list[dict[str, Any]]) -> Ledger:
    store = open_store(str(folder))
    writer = next_owner(store)
    for number, rows in enumerate(units):
        writer.commit([stage(store, f"u-{number:03d}", to_table(rows))])
    return Ledger(store)


def ids(groups: list[list[Any]]) -> list[str]:
    return [shown.row["id"] for group in groups for shown in group]


def test_few_rows_are_all_shown_in_run_order(tmp_path) -> None:
    names = [f"row {number}" for number in (5, 3, 9, 1, 4)]
    rows = [result(name, seed=index) for index, name in enumerate(names)]
    selection = select(ledger_of(tmp_path, rows[:3], rows[3:]))
    assert ids(selection.tasks["text_to_image"].groups) == names
    assert (selection.rows, selection.failures, selection.tasks["text_to_image"].shown) == (5, 0, 5)


def test_pictures_that_lie_inside_are_read_of_rows_that_are_drawn(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("darkroom.report.pictures.WHOLE", 0)
    store, share = with_pictures_inside(tmp_path, monkeypatch)
    ((shown,),) = select(Ledger(store), 1).tasks["text_to_image"].groups
    drawn = Image.fromarray(Pictures(store).made(shown))
    assert drawn.tobytes() == Image.open(io.BytesIO(png(32, int(shown.row["id"][1:])))).tobytes() and 0 < share() < 0.4


def test_what_is_kept_of_a_row(tmp_path) -> None:
    selection = select(ledger_of(tmp_path, [result("a"), result("b", seed=3, guidance=2.5)]))
    shown = selection.tasks["text_to_image"].groups[1][0]
    assert (shown.row["id"], shown.row["seed"], shown.position) == ("b", 3, 1)
    assert shown.parameters["guidance"] == 2.5
    assert "image" not in shown.row, "pictures must not stay in memory"


def test_the_cap_holds_and_the_draw_is_even(tmp_path) -> None:
    units = [[result(f"{unit}-{number}", seed=number) for number in range(100)] for unit in range(10)]
    selection = select(ledger_of(tmp_path, *units), per_task=50)
    assert selection.tasks["text_to_image"].shown == 50
    assert selection.counts["text_to_image"] == {"ok": 1000}
    drawn = [int(row_id.split("-")[0]) for row_id in ids(selection.tasks["text_to_image"].groups)]
    assert drawn == sorted(drawn)
    # The draw is by the digest of the id, so this can be written down: the fifty least.
    everyone = sorted((row["id"] for unit in units for row in unit), key=lambda i: hashlib.sha256(i.encode()).digest())
    assert set(ids(selection.tasks["text_to_image"].groups)) == set(everyone[:50])
    assert max(drawn.count(unit) for unit in range(10)) <= 15, "a unit of a tenth of the rows"


def test_a_row_that_comes_is_not_counted_with_all_before_it() -> None:
    class Uncounted(dict[str, Any]):
        def values(self) -> Any:
            raise AssertionError("all groups are walked for one row")

    draw, table = _Draw(5), to_table([result(f"row {number}", seed=number) for number in range(20)])
    draw._groups = Uncounted()
    for place in range(len(table)):
        draw.offer("text_to_image", None, table, place, place)
    assert (draw.good, len(draw._groups)) == (20, 5)


def test_the_draw_does_not_depend_on_how_the_run_was_cut(tmp_path) -> None:
    rows = [result(f"row {number}", seed=number) for number in range(60)]
    one = select(ledger_of(tmp_path / "one", rows), per_task=7)
    many = select(ledger_of(tmp_path / "many", *([row] for row in reversed(rows))), per_task=7)
    assert sorted(ids(one.tasks["text_to_image"].groups)) == sorted(ids(many.tasks["text_to_image"].groups))


def sweep(seed: int, starts: tuple[int, ...] = (1, 3, 5, 7, 10, 20)) -> list[dict[str, Any]]:
    return [result(task="image_to_image", image="x.png", seed=seed, start=start) for start in starts]


def test_rows_that_differ_in_start_alone_are_one_group(tmp_path) -> None:
    # By start and then by seed, as a matrix may have it: the members of a strip are far apart.
    rows = [row for together in zip(*(sweep(seed) for seed in range(3)), strict=True) for row in together]
    rows.append(result(task="image_to_image", image="x.png", seed=0, strength=0.5, guidance=3))
    selection = select(ledger_of(tmp_path, rows[:5], rows[5:]))
    groups = selection.tasks["image_to_image"].groups
    assert [len(group) for group in groups] == [6, 6, 6, 1]
    assert [{shown.parameters["seed"] for shown in group} for group in groups] == [{0}, {1}, {2}, {0}]


def test_a_strip_is_shown_whole_or_not_at_all(tmp_path) -> None:
    rows = [row for together in zip(*(sweep(seed) for seed in range(40)), strict=True) for row in together]
    selection = select(ledger_of(tmp_path, *(rows[at : at + 16] for at in range(0, 240, 16))), per_task=20)
    assert [len(group) for group in selection.tasks["image_to_image"].groups] == [6, 6, 6]


def test_an_endless_strip_is_thinned(tmp_path) -> None:
    rows = [result(task="image_to_image", image="x.png", strength=number / 300) for number in range(300)]
    assert [len(group) for group in select(ledger_of(tmp_path, rows)).tasks["image_to_image"].groups] == [LONGEST_STRIP]
    assert select(ledger_of(tmp_path), per_task=3).tasks["image_to_image"].shown == 3


def test_of_thinned_strips_only_what_is_left_counts(tmp_path) -> None:
    rows = [row for seed in range(3) for row in sweep(seed, tuple(range(1, 31)))]
    groups = select(ledger_of(tmp_path, rows), per_task=2 * LONGEST_STRIP).tasks["image_to_image"].groups
    assert [len(group) for group in groups] == [LONGEST_STRIP] * 2


def test_failed_rows_are_counted_and_the_first_are_listed(tmp_path) -> None:
    rows = [result(f"bad {number:03d}", error=f"no {number}", seed=number) for number in range(130)]
    selection = select(ledger_of(tmp_path, rows[:70], [result("good"), *rows[70:]]))
    assert selection.counts["text_to_image"] == {"failed": 130, "ok": 1}
    assert len(selection.failed) == LISTED_FAILURES
    assert selection.failed[99] == {"id": "bad 099", "task": "text_to_image", "error": "no 99"}
    assert ids(selection.tasks["text_to_image"].groups) == ["good"]


@pytest.mark.parametrize("per_task", [1, 200])
def test_rows_that_do_not_count_are_not_shown(tmp_path, per_task: int) -> None:
    ledger = ledger_of(tmp_path, [result("old"), result("kept", seed=1)])
    next_owner(ledger.store).withdraw(hashes(["old"]))
    ledger.store.write("metadata/stray.parquet", b"not ours")
    assert ids(select(ledger, per_task).tasks["text_to_image"].groups) == ["kept"]


def noised(row_id: str, timestep: int, method: str = "") -> dict[str, Any]:
    own = {"task": "denoise", "method": method} if method else {"task": "forward"}
    asked = {"prompt": "a photo"} if method in ("one_step", "iterative") else {}
    task = parse_task({**own, **asked, "image": "x.png", "timestep": timestep})
    return {
        **result(row_id),
        "task": task.task,
        "key": row_key(task, "r1", "1"),
        "parameters": json.dumps(task.canonical()),
    }


def figures(selection: Any) -> dict[str, list[list[str]]]:
    """The ids of each figure's groups, without the figure."""
    return {
        name: [[shown.row["id"].removeprefix(f"{name}/") for shown in group] for group in part.groups]
        for name, part in selection.figures.items()
    }


@pytest.mark.parametrize(
    ("row_id", "figure"),
    [
        ("1.0-steps/a 20", "1.0-steps"),
        ("a/b/c", "a"),
        ("a / b", ""),
        ("/b", ""),
        ("a/", ""),
        ("plain", ""),
        ("k/1", ""),
    ],
)
def test_an_id_names_a_figure(row_id: str, figure: str) -> None:
    assert figure_of(row_id, "k/1") == figure


def test_rows_of_a_figure_are_no_tasks_rows(tmp_path) -> None:
    rows = [result("a/1"), result("alone", seed=1), result("a/2", seed=2), result("b/1", "no", seed=3)]
    selection = select(ledger_of(tmp_path, rows))
    assert figures(selection) == {"a": [["1", "2"]]}
    assert (selection.figures["a"].good, selection.tasks["text_to_image"].good) == (2, 1)
    assert ids(selection.tasks["text_to_image"].groups) == ["alone"]
    assert selection.counts["text_to_image"] == {"ok": 3, "failed": 1}


def test_in_a_figure_steps_and_seeds_make_a_strip(tmp_path) -> None:
    steps = [result(f"a/{prompt}{count}", prompt=prompt, steps=count) for count in (20, 50) for prompt in "xy"]
    seeds = [result(f"b/{seed}", seed=seed) for seed in range(3)]
    assert figures(select(ledger_of(tmp_path, steps + seeds))) == {
        "a": [["x20", "x50"], ["y20", "y50"]],
        "b": [["0", "1", "2"]],
    }


def test_what_was_made_of_one_noised_picture_is_a_strip(tmp_path) -> None:
    compared = [noised(f"a/{t} {way}", t, way) for way in ("blur", "one_step", "iterative") for t in (250, 500)]
    alone = [noised(f"b/{t}", t) for t in (250, 500, 750)] + [noised(f"c/{t}", t, "blur") for t in (250, 500)]
    assert figures(select(ledger_of(tmp_path, [noised("a/250", 250), *compared], alone))) == {
        "a": [["250", "250 blur", "250 one_step", "250 iterative"], ["500 blur", "500 one_step", "500 iterative"]],
        "b": [["250", "500", "750"]],
        "c": [["250", "500"]],
    }


def test_figures_follow_the_manifest(tmp_path) -> None:
    """The ledger's order is that of commits: what was made anew comes last, or first."""
    rows = {name: result(name, seed=seed) for seed, name in enumerate(("a/1", "a/2", "a/3", "b/1"))}
    ledger = ledger_of(tmp_path, [rows["b/1"], rows["a/3"]], [rows["a/1"], rows["a/2"]])
    selection = select(ledger)
    assert figures(selection) == {"b": [["1"]], "a": [["3", "1", "2"]]}
    for part, names in enumerate((("a/1", "other"), ("a/2", "a/3", "b/1"))):
        lines = [json.dumps({"id": name, "key": "k", "row": {}}) for name in names]
        ledger.store.write(f"manifest/plan/{part:06d}.jsonl", "\n".join(lines).encode())
    in_manifest_order(selection, ledger.store, "plan")
    assert list(figures(selection).items()) == [("a", [["1", "2", "3"]]), ("b", [["1"]])]


def test_a_figure_has_the_cap_of_a_task_and_there_are_not_too_many(tmp_path) -> None:
    many = [result(f"many/{seed}", prompt=f"number {seed}") for seed in range(30)]
    folders = [result(f"folder {seed}/x", seed=seed) for seed in range(FIGURES + 5)]
    selection = select(ledger_of(tmp_path, many, folders), per_task=8)
    assert (selection.figures["many"].shown, selection.figures["many"].good) == (8, 30)
    assert len(selection.figures) == FIGURES
    assert selection.tasks["text_to_image"].good == 6, "the rest is shown as any other row"
