from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.batch.planning import Work, cut
from darkroom.batch.summary import Developed, Estimate, controlled_share, describe, estimate, take_stock
from darkroom.models.catalog import abilities, open_model
from darkroom.runs import Log
from runs import RED, write_manifest


@pytest.fixture
def count(tmp_path: Path, toy_model: str):
    """The estimate for a list of rows."""
    model = open_model(toy_model)

    def count(rows: list[dict[str, Any]]) -> Estimate:
        maker = Maker(model.revision, model.stages, 8, ("t5", "t5"))
        read = ReadRows(write_manifest(tmp_path, rows), abilities(model, scorer=True), maker)
        work = cut(read, Log(), maker, None, None)
        return estimate(work, model, capacity=2)

    return count


EDIT = {"task": "image_to_image", "prompt": "a one", "image": "x.png", "steps": 10}
VIEWS = [{"view": "identity", "prompt": "a one"}, {"view": "rotate_180", "prompt": "a two"}]
BANDS = [{"component": "low_pass", "prompt": "a one"}, {"component": "high_pass", "prompt": "a two"}]


@pytest.mark.parametrize(
    ("row", "first", "second"),
    [
        (RED, 4, 0),  # 2 steps, each asked with the prompt and without
        ({**RED, "guidance": 1}, 2, 0),
        ({**RED, "best_of": 3, "size": 16}, 12, 8),  # candidates are of stage I alone
        ({**RED, "size": 16}, 4, 8),  # stage II has 4 steps of its own
        ({**EDIT, "start": 3}, 14, 0),
        ({**EDIT, "strength": 0}, 0, 0),
        ({"task": "anagram", "views": VIEWS, "steps": 2}, 8, 0),
        ({"task": "hybrid", "components": BANDS, "steps": 2}, 6, 0),  # one unconditional question for both
        ({"task": "upscale", "prompt": "a one", "image": "x.png", "size": 16}, 0, 8),
        ({"task": "inpaint", "prompt": "a one", "image": "x.png", "mask": "m.png", "steps": 4,
          "resample": {"jump": 1, "times": 2}}, 14, 0),
    ],
)  # fmt: skip
def test_evaluations_are_counted_exactly(count, row: dict[str, Any], first: int, second: int) -> None:
    assert count([row]).evaluations == {1: first, 2: second}


def test_a_long_manifest_is_counted_from_a_sample(count) -> None:
    found = count([{**RED, "seed": n} for n in range(1000)])
    assert found.evaluations == {1: 4000, 2: 0}
    assert found.seconds[1] > 0 and found.seconds[2] == 0


def test_a_network_is_timed_without_a_text_encoder(tmp_path: Path, toy_network: str) -> None:
    model = open_model(toy_network)
    rows = [{"task": "text_to_image", "label": 3, "steps": 2}]
    maker = Maker(model.revision, model.stages, 28, ("",))
    work = cut(ReadRows(write_manifest(tmp_path, rows), abilities(model), maker), Log(), maker, None, None)
    found = estimate(work, model, capacity=2)
    assert found.evaluations == {1: 4} and found.seconds[1] > 0


def test_a_run_of_one_commit_has_a_speed() -> None:
    totals, busy = Counter(ok=6, failed=1, evaluations=24), {"stage 1": 3.0, "stage 2": 1.5}
    outcome = take_stock(Log(), Work("plan"), Developed(totals, busy), seconds=12.0)
    assert (outcome.images_per_second, outcome.images_per_second_over_all) == (2.0, 0.5)
    assert "0.5 rows/s over all, 2 once running" in describe(outcome, "run")
    assert take_stock(Log(), Work("plan"), Developed(totals, busy, 1.5), 12.0).images_per_second == 1.5


def test_control_networks_are_counted_by_how_often_they_are_asked(tmp_path: Path, toy_sd: str) -> None:
    """Two of three networks' questions, at half of the evaluations."""
    model = replace(open_model(f"{toy_sd}/sd"), nets=(None,) * 3)
    plain = {"task": "text_to_image", "prompt": "a one", "steps": 2, "guidance": 7.0, "seed": 0, "sampler": "ddim"}
    held = {**plain, "control": [{"net": "a", "image": "x.png"}, {"net": "b", "image": "x.png"}]}
    assert controlled_share([plain, held], model, model.stages[0]) == pytest.approx(1 / 3)
    assert controlled_share([plain], model, model.stages[0]) == 0


def test_nothing_to_do_costs_nothing(count) -> None:
    found = count([{**EDIT, "strength": 0}])
    assert found == Estimate({1: 0, 2: 0}, {1: 0.0, 2: 0.0})
