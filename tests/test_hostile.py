"""Every hostile input ends in one sentence and exit code 2, or costs its own row, within its time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import CASES
from hostile.case import answer, answer_here, warm_up, wrong_with

GROUPS = 12


@pytest.fixture(scope="module")
def warm() -> None:
    warm_up()


def test_they_are_many_and_each_is_another() -> None:
    assert len(CASES) >= 300
    inputs = [
        (case.job, case.given, repr(sorted(case.files.items(), key=str)), str(case.options)) for case in CASES.values()
    ]
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("group", range(GROUPS))
def test_each_has_its_right_answer(group: int, warm: None, tmp_path: Path) -> None:
    wrong = {}
    for number, name in enumerate(sorted(CASES)[group::GROUPS]):
        case = CASES[name]
        found = (answer if case.alone else answer_here)(case, tmp_path / str(number))
        if why := wrong_with(case, found):
            wrong[name] = why
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
