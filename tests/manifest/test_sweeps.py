from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.manifest.sweeps import combinations, expand
from darkroom.manifest.tasks import parse_task
from darkroom.manifest.templates import fill_id
from darkroom.manifest.yaml_files import read_yaml


def rows(document: object) -> list[dict[str, object]]:
    found = list(expand(document, "demo.yaml"))
    assert [row.problem for row in found] == [""] * len(found)
    return [row.data for row in found]


def problems(document: object) -> list[tuple[str, str]]:
    return [(row.where, row.problem) for row in expand(document, "demo.yaml") if row.problem]


def test_every_combination_last_key_fastest() -> None:
    assert list(combinations({"prompt": "x", "start": [1, 3], "seed": [0, 1]})) == [
        {"prompt": "x", "start": 1, "seed": 0},
        {"prompt": "x", "start": 1, "seed": 1},
        {"prompt": "x", "start": 3, "seed": 0},
        {"prompt": "x", "start": 3, "seed": 1},
    ]


def test_a_list_of_views_is_one_value_and_a_list_of_lists_a_sweep() -> None:
    one, other = [{"view": "identity"}, {"view": "skew"}], [{"view": "negate"}]
    assert list(combinations({"views": one})) == [{"views": one}]
    assert list(combinations({"views": [one, other]})) == [{"views": one}, {"views": other}]
    assert list(combinations({"resample": [{"jump": 1}, {"jump": 2}]})) == [
        {"resample": {"jump": 1}},
        {"resample": {"jump": 2}},
    ]


def test_a_list_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed' lists no values"):
        list(combinations({"seed": []}))


def test_rows_come_first_and_places_are_counted_from_one() -> None:
    document = {"matrix": [{"seed": 1}, {"seed": [5, 6]}], "rows": [{"seed": 9}]}
    found = list(expand(document, "demo.yaml"))
    assert [(row.where, row.data) for row in found] == [
        ("demo.yaml row 1", {"seed": 9}),
        ("demo.yaml matrix 1 combination 1", {"seed": 1}),
        ("demo.yaml matrix 2 combination 1", {"seed": 5}),
        ("demo.yaml matrix 2 combination 2", {"seed": 6}),
    ]


def test_one_matrix_needs_no_list() -> None:
    assert rows({"matrix": {"seed": [5, 6]}}) == [{"seed": 5}, {"seed": 6}]


def test_defaults_lie_under_rows_and_matrices() -> None:
    document = {"defaults": {"size": 48, "seed": 1}, "rows": [{"seed": 2}], "matrix": {"guidance": [3, 7]}}
    assert rows(document) == [
        {"size": 48, "seed": 2},
        {"size": 48, "seed": 1, "guidance": 3},
        {"size": 48, "seed": 1, "guidance": 7},
    ]


def test_a_row_that_names_an_alternative_sets_the_default_aside() -> None:
    document = {"defaults": {"stride": 30, "prompt": "x"}, "rows": [{"steps": 50}, {"label": 3, "seed": 1}]}
    assert rows(document) == [{"prompt": "x", "steps": 50}, {"stride": 30, "label": 3, "seed": 1}]


def test_id_template_uses_the_rows_own_values() -> None:
    matrix = {"id": "sdedit-{start:02d}-{guidance}", "start": [1, 10], "guidance": 7.5}
    assert [row["id"] for row in rows({"matrix": matrix})] == ["sdedit-01-7.5", "sdedit-10-7.5"]
    assert fill_id("{{literal}}", {}) == "{literal}"


def test_unknown_name_in_an_id_is_a_problem_of_that_row() -> None:
    document = {"rows": [{"id": "a-{sed}", "seed": 1}, {"id": "b-{views}", "views": []}, {"id": "c"}]}
    assert problems(document) == [
        (
            "demo.yaml row 1",
            "id template 'a-{sed}' names 'sed', which this row has no single value for, did you mean 'seed'?",
        ),
        (
            "demo.yaml row 2",
            "id template 'b-{views}' names 'views', which this row has no single value for; it has none",
        ),
    ]


@pytest.mark.parametrize("template", ["{", "{seed.real}", "{seed[0]}", "{}", "{seed!r}", "{seed:zz}"])
def test_broken_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError):
        fill_id(template, {"seed": 1})


def test_texts_of_a_matrix_are_filled_in_with_its_variables() -> None:
    matrix = {
        "id": "{colour}-{digit}-{seed:02d}",
        "prompt": "a {colour} {digit}, {{sic}}",
        "colour": ["red", "blue"],
        "digit": "6..7",
        "seed": [0],
    }
    assert rows({"matrix": matrix}) == [
        {"id": f"{colour}-{digit}-00", "prompt": f"a {colour} {digit}, {{sic}}", "seed": 0}
        for colour in ("red", "blue")
        for digit in (6, 7)
    ]
    views = [{"view": "identity", "prompt": "a {word}"}, {"view": "negate", "prompt": "no {word}"}]
    shared = {"defaults": {"negative_prompt": "{word}s"}, "matrix": [{"views": views, "word": "six"}]}
    assert rows(shared) == [
        {
            "negative_prompt": "sixs",
            "views": [{"view": "identity", "prompt": "a six"}, {"view": "negate", "prompt": "no six"}],
        }
    ]
    assert rows({"matrix": {"prompt": ["a {b}", "{"], "seed": 1}}) == [
        {"prompt": "a {b}", "seed": 1},
        {"prompt": "{", "seed": 1},
    ], "without a variable a text is as it is written"


def test_the_sweep_of_the_manual_is_what_it_says() -> None:
    text = (Path(__file__).parents[2] / "manifests/README.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    *written, last = rows(read_yaml(block.encode()).value)
    assert len(written) == 4 + 48 - 1 and last["id"] == "green-seven-7"
    assert last["prompt"] == "a green seven on white" and parse_task(last).seed == 7


def test_variables_that_are_none() -> None:
    def said(**matrix: object) -> str:
        ((_, problem),) = problems({"matrix": matrix})
        return problem

    assert said(prompt="a {colour}", colour="red", sed=[1, 2]) == "unknown key 'sed', did you mean 'seed'?"
    assert said(prompt="a seven", colour=["red"]) == "unknown key 'colour': no text of this matrix names {colour}"
    assert said(prompt="a {color} {colour}", colour="red").startswith("'prompt' names 'color', which this row has no ")
    assert said(prompt="a {colour", colour="red").startswith("'prompt' is no template: expected '}' before end of st")
    assert said(prompt="{truth}", truth=True).startswith("the variable 'truth' is True, wanted a text or a number (YAM")
    assert said(prompt="{truth}", truth=None).startswith("the variable 'truth' is None")
    assert "the format 'd' does not fit 'colour', 'red'" in said(prompt="{colour:d}", colour="red")
    assert "the format 'c' does not fit 'n', '9999999': %c arg not" in said(prompt="{n:c}", n=9_999_999)


def test_keys_that_are_no_texts_name_nothing() -> None:
    """YAML has them, and a row's own check refuses them."""
    assert rows({"rows": [{1: 2, "seed": 3, "id": "a{seed}"}]}) == [{1: 2, "seed": 3, "id": "a3"}]
    ((_, problem),) = problems({"rows": [{1: 2, "seed": 3, "id": "{start}"}]})
    assert problem.endswith("which this row has no single value for; it has seed")
    ((_, problem),) = problems({"defaults": {1: 2}, "matrix": {"prompt": "{n} {m}", "n": "b"}})
    assert problem.endswith("which this row has no single value for; it has n")


def test_ranges_have_both_their_ends() -> None:
    assert [row["seed"] for row in rows({"matrix": {"seed": "0..3"}})] == [0, 1, 2, 3]
    assert [row["seed"] for row in rows({"matrix": {"seed": [9, " -1 .. 1 "]}})] == [9, -1, 0, 1]
    assert rows({"matrix": {"prompt": "0..3", "seed": "5..5"}}) == [{"prompt": "0..3", "seed": 5}]
    spread = list(expand({"rows": [{"id": "a{seed}", "seed": "0..1", "steps": "8..9"}, {"seed": 4}]}, "a.yaml"))
    assert [(row.where, row.data) for row in spread] == [
        ("a.yaml row 1 combination 1", {"id": "a0", "seed": 0, "steps": 8}),
        ("a.yaml row 1 combination 2", {"id": "a0", "seed": 0, "steps": 9}),
        ("a.yaml row 1 combination 3", {"id": "a1", "seed": 1, "steps": 8}),
        ("a.yaml row 1 combination 4", {"id": "a1", "seed": 1, "steps": 9}),
        ("a.yaml row 2", {"seed": 4}),
    ]


def test_ranges_that_are_none() -> None:
    assert problems({"matrix": {"seed": "7..0"}}) == [
        ("demo.yaml matrix 1", "'seed: 7..0' goes down: wanted its smaller end first")
    ]
    wrong = ["0..", "..7", "..", "0...7", "a..b", "0.5..2"]
    assert [problem for _, problem in problems({"rows": [{"guidance": text} for text in wrong]})] == [
        f"'guidance: {text}' is no range, wanted such as 0..7, of whole numbers" for text in wrong
    ]
    assert rows({"matrix": {"prompt": "so {word}", "word": ["well...", "0..1"]}})[0] == {"prompt": "so well..."}
    for document in ({"matrix": {"seed": ["1..9999999", "1..9"]}}, {"rows": [{"seed": "1..9999999", "steps": "1..2"}]}):
        ((_, problem),) = problems(document)
        assert "combinations; all of a file may have 10,000,000 together" in problem


def test_shapes_that_are_not_a_manifest() -> None:
    assert problems(None) == [("demo.yaml", "the file is empty")]
    assert "put the list under 'rows:'" in problems([{"seed": 1}])[0][1]
    assert problems({"row": []}) == [("demo.yaml", "unknown top-level key 'row', did you mean 'rows'?")]
    assert problems({"rows": {"seed": 1}}) == [("demo.yaml", "'rows' must be a list, was a mapping")]
    assert problems({"rows": ["x"], "matrix": [3]}) == [
        ("demo.yaml row 1", "must be a mapping, was text"),
        ("demo.yaml matrix 1", "must be a mapping, was 3"),
    ]
    assert problems({"defaults": [1]}) == [("demo.yaml", "'defaults' must be a mapping, was a list")]
