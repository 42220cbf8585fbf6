from __future__ import annotations

import pytest

from darkroom.manifest.sweeps import combinations, expand, fill_template


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
    assert fill_template("{{literal}}", {}) == "{literal}"


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
        fill_template(template, {"seed": 1})


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
