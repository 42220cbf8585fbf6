"""The page's own scripts, in a browser where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from browser import CHROMIUM, Browser, chromium
from darkroom.report.page import write_report
from report_runs import NASTY, ROWS, make_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

RIGHT_TO_LEFT = "\u202eسبعة حمراء\u202c: yes # no"
ODD = [
    "yes",
    "1.5",
    "- a",
    'a "b": {c}',
    "\u2028\x85",
    "tail ",
    "seven, eight",
    "🎨 é",
    "null",
    "",
    "~",
    "=",
    "2001-01-01",
]
JIGSAW = [{"view": "identity", "prompt": "a two"}, {"view": "jigsaw", "seed": 3, "prompt": RIGHT_TO_LEFT}]
MORE: list[dict[str, Any]] = [
    {"task": "anagram", "views": JIGSAW, "id": "jigsaw", "seed": 7},
    {"task": "text_to_image", "prompt": RIGHT_TO_LEFT, "seed": 6},
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    store = make_run(str(folder / "run"), folder / "manifest", [*ROWS, *MORE])
    write_report(store.root)
    return folder / "run/report/index.html"


def shown(browser: Browser) -> int:
    return browser.run("all('figure:not([hidden])').filter(f => !f.closest('section').hidden).length")


def test_what_is_shown_stands_in_the_address(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("find('count').textContent") == "11 rows" and shown(browser) == 9
    assert not browser.run("'hacked' in window")
    browser.run("all('#chips button').find(chip => chip.textContent === 'Anagrams').click()")
    assert shown(browser) == 2 and browser.run("find('count').textContent") == "2 of 11 rows"
    browser.run("change({seed: '7'})")
    assert browser.run("location.hash") == "#task=anagram&seed=7" and shown(browser) == 1
    browser.open(page, address="#q=campfire&sort=seed")
    assert shown(browser) == 1 and browser.run("find('filter').value") == "campfire"
    browser.open(page, address="#failed=1")
    assert shown(browser) == 0 and browser.run("all('#failed li:not([hidden])').length") == 1
    assert browser.run("find('nothing').hidden")


def test_nothing_found_is_said_and_can_be_left(browser: Browser, page: Path) -> None:
    browser.open(page, address="#q=a+green+elephant")
    assert shown(browser) == 0 and not browser.run("find('nothing').hidden")
    browser.run("find('nothing').querySelector('button').click()")
    assert shown(browser) == 9 and browser.run("find('nothing').hidden")


def test_rows_are_sorted_and_put_back(browser: Browser, page: Path) -> None:
    browser.open(page, address="#sort=seed")
    seeds = "all('#anagram figure').map(figure => figure.dataset.seeds)"
    assert browser.run(seeds) == ["0", "7"]
    browser.run("change({sort: 'prompt'})")
    prompts = browser.run("all('#text_to_image figure').map(words)")
    assert prompts == sorted(prompts)
    before = browser.run("change({sort: ''}); all('figure').map(figure => figure.dataset.more)")
    browser.open(page)
    assert browser.run("all('figure').map(figure => figure.dataset.more)") == before


def test_arrows_walk_through_the_large_pictures(browser: Browser, page: Path) -> None:
    browser.open(page, address="#task=text_to_image")
    browser.run("all('#text_to_image a.shown')[0].click()")
    assert browser.run("large.open && find('where').textContent") == "1 of 3"
    browser.run("allRows()")
    browser.press("ArrowRight")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run("find('where').textContent") == "2 of 3"
    assert browser.run("find('asked').textContent") == "a blue three"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.run("find('where').textContent") == "3 of 3", "round the corner"
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run("find('asked').textContent") == RIGHT_TO_LEFT
    browser.press("Escape")
    assert not browser.run("large.open")


def test_an_anagram_turns(browser: Browser, page: Path) -> None:
    browser.open(page, address="#task=anagram")
    browser.run("all('#anagram a.shown')[0].click()")
    assert browser.run("picture.style.transform") == "rotate(0deg)"
    browser.press(" ")
    assert browser.run("[picture.style.transform, beside.hidden]") == ["rotateX(180deg)", True]
    browser.press(" ")
    assert browser.run("picture.style.transform") == "rotate(0deg)"
    browser.press("ArrowRight")
    browser.run("picture.click()")
    assert browser.run("[picture.style.transform, beside.hidden]") == ["", False], "a jigsaw's view lies beside"
    assert browser.run("beside.src === all('a.shown', now.closest('figure'))[1].href")


def test_a_hybrid_goes_away(browser: Browser, page: Path) -> None:
    browser.open(page, address="#task=hybrid")
    browser.run("all('#hybrid a.shown')[0].click()")
    browser.run("find('distance').value = 50; find('distance').dispatchEvent(new Event('input'))")
    assert browser.run("picture.style.transform") == "scale(0.53)"
    browser.run("find('blur').value = 50; find('blur').dispatchEvent(new Event('input'))")
    assert browser.run("picture.style.filter").startswith("blur(")


def test_rows_are_copied_as_what_they_are(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = [*browser.run("allRows().then(rows => rows.map(row => row.row))")]
    rows.append(
        {"prompt": "".join(ODD), "odd": ODD, "inner": [{"deep": {"odd": ODD, "number": -1.5e-7, "none": None}}]}
    )
    for row in rows:
        assert yaml.safe_load(browser.run(f"toYaml({json.dumps(row)})")) == [row]
    assert NASTY in [row.get("prompt") for row in rows]


def test_a_seed_of_63_bits_is_copied_to_its_last_digit(browser: Browser, tmp_path: Path) -> None:
    seed = 2**53 + 1
    row = {"task": "text_to_image", "prompt": "a red seven", "seed": seed, "id": "seven"}
    write_report(make_run(str(tmp_path / "run"), tmp_path, [row]).root)
    browser.open(tmp_path / "run/report/index.html")
    browser.run("document.querySelector('a.shown').click(), allRows().then(() => 0)")
    copied = [browser.run(f"allRows().then(rows => {write}(rows[0].row))") for write in ("toYaml", "toJson")]
    assert yaml.safe_load(copied[0])[0]["seed"] == json.loads(copied[1])["seed"] == seed
    assert str(seed) in browser.run("find('facts').textContent")


def test_a_phone_has_two_pictures_a_line_and_nothing_sticks_out(browser: Browser, page: Path) -> None:
    browser.open(page, 390, 844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    tops = browser.run("all('#text_to_image figure img').map(image => Math.round(image.getBoundingClientRect().top))")
    assert tops[0] == tops[1] < tops[2]


def test_a_video_plays_on_the_page_and_large(browser: Browser, tmp_path: Path) -> None:
    row = {"task": "text_to_video", "prompt": "a red seven", "id": "seven"}
    store = make_run(str(tmp_path / "run"), tmp_path, [row, ROWS[0]])
    write_report(store.root)
    browser.open(tmp_path / "run/report/index.html")
    played = """new Promise(done => {
        const video = document.querySelector(".panel video");
        video.addEventListener("timeupdate", () => done([video.videoWidth, video.videoHeight]));
        video.addEventListener("error", () => done(video.error.message));
        video.play();
    })"""
    assert browser.run(played) == [48, 48]
    browser.run("all('a.shown[data-video]')[0].click()")
    assert browser.run("[find('video').hidden, find('picture').hidden]") == [False, True]
    assert browser.run("find('video').src.endsWith('.mp4') && find('file').href === find('video').src")
    browser.press("ArrowRight")
    assert browser.run("[find('video').hidden, find('video').hasAttribute('src'), find('picture').hidden]") == [
        True, False, False,
    ]  # fmt: skip
    browser.press("Escape")
