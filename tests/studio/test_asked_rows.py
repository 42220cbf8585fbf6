from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.manifest import open_manifest
from darkroom.models.catalog import abilities, open_model
from darkroom.studio.asked_rows import STYLES, as_yaml, parse_values, styled, sweep, variants

ROW = {"task": "text_to_image", "prompt": "a red seven", "guidance": 5.0, "steps": 10, "seed": 3}
LONG = ", very red" * 30
VIEWS = [{"view": "identity", "prompt": "a six"}, {"view": "rotate_180", "prompt": "a nine"}]


def test_a_sweep_is_a_manifest_of_one_row_for_each_value(tmp_path: Path) -> None:
    able = abilities(open_model("if-xs"))
    cases = {
        "guidance": (ROW, "1, 3, 7, 3.0", [1, 3, 7]),
        "prompt": (
            ROW,
            f"a red one\na blue: {{two}}\na\tthree{LONG}",
            ["a red one", "a blue: {two}", f"a\tthree{LONG}"],
        ),
        "seed": ({"task": "anagram", "views": VIEWS, "seed": 0}, "4, 5", [4, 5]),
    }
    for name, (row, text, wanted) in cases.items():
        (tmp_path / "sweep.yaml").write_text(sweep(row, name, parse_values(name, text)))
        tasks = list(open_manifest(str(tmp_path / "sweep.yaml"), able).tasks())
        assert [getattr(task, name) for task in tasks] == wanted, name
        others = {**row, name: None}
        assert all(task.canonical().get("task") == others["task"] for task in tasks)


def test_values_that_are_none_are_said() -> None:
    with pytest.raises(ValueError, match="steps: wanted numbers joined by commas, such as 1, 3, 7; was '1, x'"):
        parse_values("steps", "1, x")
    with pytest.raises(ValueError, match="seed: wanted some values"):
        parse_values("seed", " , ")


def test_a_style_is_around_every_prompt_and_keeps_what_was_said() -> None:
    assert styled(ROW, "none") == ROW
    drawn = styled(ROW, "oil painting")
    assert drawn["prompt"] == "an oil painting of a red seven, visible brush strokes"
    assert drawn["negative_prompt"] == STYLES["oil painting"][1]
    assert styled(ROW | {"negative_prompt": "blue"}, "oil painting")["negative_prompt"] == "blue"
    turned = styled({"task": "anagram", "views": VIEWS}, "lithograph")
    assert [view["prompt"] for view in turned["views"]] == ["a lithograph of a six", "a lithograph of a nine"]
    assert styled(ROW | {"prompt": "a {} in {braces}"}, "lithograph")["prompt"] == "a lithograph of a {} in {braces}"


def test_variants_have_seeds_of_their_own() -> None:
    assert [row["seed"] for row in variants(ROW, 3)] == [3, 4, 5]
    assert "prompt: a red seven\n" in as_yaml(ROW)
