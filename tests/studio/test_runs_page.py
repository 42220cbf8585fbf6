"""The page Runs by Streamlit's AppTest: what is drawn, what a press does, what an address says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from darkroom.studio.pages.runs import _manifest
from darkroom.studio.settings import Settings
from report_runs import NASTY, ODD_ID, ROWS, make_run

SECONDS = 120.0


def _script() -> None:
    from darkroom.studio import settings
    from darkroom.studio.pages import runs

    runs.page(settings.read())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    store = make_run(str(folder / "all/one"), folder, ROWS)
    lines = [{"id": row.get("id", str(number)), "row": row} for number, row in enumerate(ROWS)]
    store.write("manifest/plan/000000.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return folder / "all"


def opened(place: Path, **address: Any) -> AppTest:
    Settings(str(place)).write()
    page = AppTest.from_function(_script, default_timeout=SECONDS)
    page.query_params.update(address)
    page.run()
    assert not page.exception
    return page


def said(page: AppTest) -> str:
    return "\n".join(element.value for kind in (page.markdown, page.info, page.warning, page.text) for element in kind)


def test_a_place_without_runs(tmp_path: Path) -> None:
    assert "There is no run in" in said(opened(tmp_path))


def test_filters_and_what_an_address_says_of_them(runs: Path) -> None:
    page = opened(runs)
    assert f"**{len(ROWS)}** of {len(ROWS)} rows" in said(page)
    page.text_input(key="text").set_value("three").run()
    page.multiselect(key="task").set_value(["text_to_image"]).run()
    assert "**1** of" in said(page)
    again = opened(runs, text="seven", task="upscale")
    assert "**1** of" in said(again) and again.multiselect(key="task").value == ["upscale"]
    assert "No row fits" in said(opened(runs, text="nothing has this"))


def test_a_row_large_with_its_record(runs: Path) -> None:
    page = opened(runs, row=ODD_ID)
    assert ODD_ID in said(page) and NASTY in [text.value for text in page.text], "as text, not as Markdown"
    assert json.loads(page.code[1].value)["prompt"] == NASTY
    page.button[[button.label for button in page.button].index("After")].click().run()
    assert "a blue three" in said(page)
    page.button[[button.label for button in page.button].index("All pictures")].click().run()
    assert f"**{len(ROWS)}** of" in said(page)
    assert "no row nobody" in said(opened(runs, row="nobody"))


def test_two_rows_side_by_side(runs: Path) -> None:
    page = opened(runs, row="bad <i>row</i>", beside=ODD_ID)
    assert "They differ in" in said(page) and [button.label for button in page.button].count("Alone") == 2
    page = opened(runs, row=ODD_ID)
    page.button[[button.label for button in page.button].index("Compare")].click().run()
    assert "Choose the picture to be seen beside" in said(page)


def test_rows_side_by_side_may_be_one_or_have_long_names(runs: Path, tmp_path: Path) -> None:
    page = opened(runs, row=ODD_ID, beside=ODD_ID)
    assert "They differ in nothing that was asked for" in said(page)
    names = ["x" * 100 + end for end in "ab"]
    rows = [{"task": "text_to_image", "prompt": "a two", "id": name, "seed": seed} for seed, name in enumerate(names)]
    make_run(str(tmp_path / "run"), tmp_path, rows)
    assert "They differ in seed" in said(opened(tmp_path, row=names[0], beside=names[1]))


def test_failures_are_a_manifest(runs: Path) -> None:
    page = opened(runs)
    assert page.expander[0].label == "1 row failed" and "--ids failed.jsonl" in page.code[0].value
    (row,) = map(json.loads, _manifest(str(runs / "one"), ["input"]).splitlines())
    assert row["id"] == "bad <i>row</i>" and row["image"] == "/somewhere/in/gone.png"
