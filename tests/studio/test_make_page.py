"""The page Make by Streamlit's AppTest: every task's form, a picture made, what people write into it."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from darkroom.studio.asked_rows import as_json
from darkroom.studio.pages.make import _desk
from darkroom.studio.settings import Settings
from report_runs import NASTY
from runs import png
from toy_video import save_toy_video

TASKS = ["text_to_image", "image_to_image", "inpaint", "anagram", "hybrid", "upscale", "denoise"]


def _script() -> None:
    from darkroom.studio import settings
    from darkroom.studio.pages import make

    make.page(settings.read())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("make")
    Settings(str(folder), model="if-xs").write()
    yield folder
    _desk(Settings(str(folder), model="if-xs")).close()
    _desk.clear()


@pytest.fixture
def page(place: Path) -> AppTest:
    page = AppTest.from_function(_script, default_timeout=120).run()
    assert not page.exception
    return page


def made(page: AppTest, seconds: float = 120) -> AppTest:
    """The page once what was asked for has ended."""
    page.button(key="make").click().run()
    ends = time.monotonic() + seconds
    while any(ticket.ended is None for ticket in page.session_state["tickets"]):
        assert time.monotonic() < ends
        time.sleep(0.1)
    page.run()
    assert not page.exception
    return page


def test_a_prompt_becomes_a_picture_and_a_row_to_copy(page: AppTest) -> None:
    page.number_input(key="make steps").set_value(3)
    page.text_area(key="make prompt").set_value("a blue two on black").run()
    page = made(page)
    (ticket,) = page.session_state["tickets"]
    assert ticket.problem == "" and any("a blue two on black · seed 0" in caption.value for caption in page.caption)
    assert as_json(ticket.row) in [code.value for code in page.code]
    page = made(page)
    assert len(page.session_state["tickets"]) == 2 and page.session_state["tickets"][0].known
    page.text_area(key="values 0").set_value("1, many").run()
    assert any("wanted numbers" in error.value for error in page.error)


def test_what_stays_costs_no_run_of_the_script_a_collection(page: AppTest) -> None:
    assert gc.get_freeze_count() > 4 * len(gc.get_objects()), "Streamlit collects garbage after each"


def test_every_task_has_a_form_and_waits_for_its_picture(page: AppTest) -> None:
    assert page.selectbox(key="make task").options == [name.replace("_", " ") for name in TASKS]
    for task in TASKS:
        page.selectbox(key="make task").set_value(task).run()
        assert not page.exception and not page.error
        assert page.button(key="make").disabled == (task in ("image_to_image", "inpaint", "upscale", "denoise"))


@pytest.mark.parametrize("task", ["image_to_image", "upscale", "denoise"])
def test_a_picture_that_was_brought_is_worked_on(page: AppTest, task: str) -> None:
    page.session_state["make own picture"] = png(24)
    page.selectbox(key="make task").set_value(task).run()
    if task != "denoise":
        page.number_input(key="make steps").set_value(2).run()
    page = made(page)
    assert page.session_state["tickets"][0].problem == "" and page.session_state["tickets"][0].row["task"] == task


def test_an_anagram_and_a_hybrid_are_made(page: AppTest) -> None:
    for task, words in (("anagram", "view {} prompt"), ("hybrid", "component {} prompt")):
        page.selectbox(key="make task").set_value(task).run()
        for number, prompt in enumerate(("a red six", "a red nine")):
            page.text_area(key=f"make {words.format(number)}").set_value(prompt)
        page.number_input(key="make steps").set_value(2).run()
        assert made(page).session_state["tickets"][0].problem == ""


def test_what_people_write_is_text_and_mistakes_are_sentences(page: AppTest) -> None:
    for prompt in (NASTY, "שלום \u202e abc", "x" * 5_000):
        page.text_area(key="make prompt").set_value(prompt)
        page.number_input(key="make steps").set_value(1).run()
        page = made(page)
        assert all("<script>" not in element.value for kind in (page.markdown, page.caption) for element in kind)
        assert all(len(element.value) < 3_000 for kind in (page.error, page.caption) for element in kind)


def test_files_that_are_no_pictures_cost_nothing_else(page: AppTest) -> None:
    page.selectbox(key="make task").set_value("image_to_image").run()
    page.file_uploader(key="make upload picture").set_value(("nonsense.png", b"nonsense", "image/png")).run()
    assert not page.exception and any("nonsense" in error.value for error in page.error)
    page.selectbox(key="make task").set_value("text_to_image").run()
    assert not page.error and not page.button(key="make").disabled


def test_a_run_is_no_place_for_runs(place: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"plan": "0", "model": {}, "manifest": {}, "options": {}}')
    Settings(str(tmp_path), model="if-xs").write()
    page = AppTest.from_function(_script, default_timeout=120).run()
    Settings(str(place), model="if-xs").write()
    assert not page.exception and "is one run" in page.info[0].value


def test_a_video_is_made_and_played(tmp_path: Path, place: Path) -> None:
    settings = Settings(str(tmp_path / "runs"), model=str(save_toy_video(tmp_path / "toy", "cogvideox-2b")))
    settings.write()
    page = AppTest.from_function(_script, default_timeout=120).run()
    Settings(str(place), model="if-xs").write()
    assert not page.exception and page.selectbox(key="make task").options == ["text to video"]
    page.number_input(key="make steps").set_value(2).run()
    settings.write()
    page = made(page)
    Settings(str(place), model="if-xs").write()
    (ticket,) = page.session_state["tickets"]
    assert ticket.problem == "" and ticket.record is not None
    assert _desk(settings).video(ticket.record)[4:8] == b"ftyp" and ticket.record["frames"] == ticket.row["frames"]
    _desk(settings).close()
