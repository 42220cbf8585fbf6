from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.batch.planning import cut
from darkroom.batch.summary import Estimate, estimate
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


def test_nothing_to_do_costs_nothing(count) -> None:
    found = count([{**EDIT, "strength": 0}])
    assert found == Estimate({1: 0, 2: 0}, {1: 0.0, 2: 0.0})
