"""Which figures are drawn as grids, and what stands where."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from darkroom.manifest import parse_task
from darkroom.report.rows import Part, Shown
from darkroom.report.sweeps import Sweep, sweeps


def part(*rows: dict[str, Any], good: int | None = None) -> Part:
    asked = [{"task": "text_to_image", "prompt": "a red seven", **row} for row in rows]
    shown = [Shown({}, parse_task(row).canonical(), None, number) for number, row in enumerate(asked)]
    return Part(len(rows) if good is None else good, [[one] for one in shown])


def places(sweep: Sweep) -> list[list[int]]:
    return [[shown.position for shown in row] for row in sweep.rows]


def test_solvers_stand_down_and_steps_across() -> None:
    swept = product(("pndm", "ddim"), (30, 10, 20))
    (sweep,) = sweeps(part(*({"sampler": sampler, "steps": steps} for sampler, steps in swept)))
    assert (sweep.down.title, sweep.down.words) == ("sampler", ["pndm", "ddim"])
    assert (sweep.across.title, sweep.across.words) == ("steps", ["10", "20", "30"])
    assert (sweep.prompt, places(sweep)) == ("a red seven", [[1, 2, 0], [4, 5, 3]])


def test_each_prompt_has_a_grid_and_seeds_stand_down() -> None:
    swept = list(product(("a two", "a six"), (7.5, 1), (0, 3, 1)))
    found = sweeps(part(*({"prompt": prompt, "guidance": scale, "seed": seed} for prompt, scale, seed in swept)))
    assert [sweep.prompt for sweep in found] == ["a two", "a six"]
    assert {(sweep.down.title, sweep.across.title) for sweep in found} == {("seed", "guidance")}
    assert places(found[0]) == [[3, 0], [5, 2], [4, 1]] and found[0].across.words == ["1", "7.5"]


def test_prompts_may_be_an_axis_themselves() -> None:
    swept = product(("a two", "a six"), ("", "red"))
    (sweep,) = sweeps(part(*({"prompt": prompt, "negative_prompt": negative} for prompt, negative in swept)))
    assert {sweep.down.title, sweep.across.title} == {"prompt", "negative prompt"}
    assert "none" in (*sweep.down.words, *sweep.across.words) and sweep.prompt == ""


def test_a_word_that_is_not_given_is_a_value_too() -> None:
    swept = list(product((3, 7), (0, 0.7)))  # of which 0 is as much as nothing
    (sweep,) = sweeps(part(*({"guidance": scale, "guidance_rescale": share} for scale, share in swept)))
    assert (sweep.down.title, sweep.down.words) == ("guidance rescale", ["not given", "0.7"])
    assert (sweep.across.words, places(sweep)) == (["3", "7"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "rows",
    [
        [{"steps": 10}, {"steps": 20}],
        [{"steps": steps, "seed": seed} for steps, seed in ((10, 0), (20, 0), (10, 1))],
        [{"steps": 10, "seed": 0, "guidance": 1}, {"steps": 20, "seed": 1, "guidance": 1}],
        [{"steps": a, "seed": b, "guidance": c} for a, b, c in product((1, 2), (3, 4), (5, 6))],
        [{"prompt": p, "steps": a, "seed": b} for p, a, b in [*product(("x", "y"), (1, 2), (3, 4))][:-1]],
    ],
    ids=["one parameter", "a hole", "a diagonal", "three parameters", "a prompt with a hole"],
)
def test_all_else_is_no_grid(rows: list[dict[str, Any]]) -> None:
    assert sweeps(part(*rows)) == []


def test_what_is_not_shown_whole_is_no_grid() -> None:
    rows = [{"steps": steps, "seed": seed} for steps, seed in product((10, 20), (0, 1))]
    assert sweeps(part(*rows)) and not sweeps(part(*rows, good=5))


def test_pictures_that_are_given_are_no_grid() -> None:
    edit = {"task": "image_to_image", "image": "a.png"}
    assert sweeps(part(*({**edit, "strength": s, "seed": seed} for s, seed in product((0.2, 0.8), (0, 1))))) == []
    control = {"control": [{"net": "canny", "image": "a.png"}]}
    assert sweeps(part(*({**control, "steps": steps, "seed": seed} for steps, seed in product((10, 20), (0, 1))))) == []
