"""The studio as somebody sees it: its server, its gate and the page's own scripts in headless Chromium."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from browser import CHROMIUM, Browser, chromium
from darkroom.manifest import parse_task
from darkroom.storage import decode
from report_runs import NASTY, PARTS, ROWS, make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]

ROOT = Path(__file__).parents[2]
TOKEN = "a secret & more"
VIEWS = [{"view": "identity", "prompt": "a two"}, {"view": "jigsaw", "seed": 3, "prompt": "a five"}]
MORE: list[dict[str, Any]] = [
    {"task": "anagram", "views": VIEWS, "id": "turns"},
    {"task": "hybrid", "components": PARTS, "id": "shrinks", "seed": 8},
]
# What scripts of ours draw lies in shadow roots.
INNER = """const inner = name =>
  [...document.querySelectorAll('*')].flatMap(e => [...(e.shadowRoot?.querySelectorAll(name) ?? [])]);"""
# Where an element can be pressed: the script has ended, and nothing lies on the element.
CENTRE = """(element => {{
  element.scrollIntoView({{block: 'center', behavior: 'instant'}});
  const box = element.getBoundingClientRect(), place = [box.x + box.width / 2, box.y + box.height / 2];
  const drawn = document.querySelector('.stApp').dataset.testScriptState === 'notRunning';
  return drawn && element.contains(element.getRootNode().elementFromPoint(...place)) && place;
}})({})"""
PIXELS = """(image => {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const pen = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');
  pen.drawImage(image, 0, 0);
  return [height, width, [...pen.getImageData(0, 0, width, height).data]];
})(inner('.stage img')[0])"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    make_run(str(folder / "runs/one"), folder, [*ROWS, *MORE])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "lib"),
        "DARKROOM_STUDIO_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "jobs/studio.py"), str(folder / "runs"), "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None and b"Ctrl-C ends it" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        found.ask("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        yield found


def until(browser: Browser, script: str, seconds: float = 120.0) -> Any:
    """What the script comes to as soon as that is something; errors count as nothing."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = browser.run(f"(() => {{ {INNER} try {{ return {script}; }} catch {{ return null; }} }})()")
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"never: {script}\non {browser.run('document.body.innerText')}")


def open_page(browser: Browser, address: str) -> None:
    for _ in range(100):  # the server says where it is a moment before it listens
        browser.ask("Page.navigate", url=address)
        if browser.run("location.protocol") == "http:":
            return
        time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


def centre(browser: Browser, element: str) -> list[float]:
    """Of an element that can be pressed, once it lies still; in CSS pixels from the top left."""
    place, before = until(browser, CENTRE.format(element)), None
    while place != before:
        time.sleep(0.1)
        place, before = until(browser, CENTRE.format(element)), place
    return place


def press(browser: Browser, element: str) -> None:
    browser.drag(centre(browser, element))


def called(kind: str, words: str) -> str:
    """The first element of a kind with these words in it."""
    return f"[...document.querySelectorAll('{kind}')].find(element => element.innerText.includes('{words}'))"


def unfold(browser: Browser, words: str) -> None:
    fold = called("details", words)
    if not until(browser, f"[{fold}.open]")[0]:
        press(browser, f"{fold}.querySelector('summary')")


def fill(browser: Browser, label: str, text: str) -> None:
    until(browser, f"(field => (field.select(), true))(document.querySelector('[aria-label=\"{label}\"]'))")
    browser.write(text)
    browser.press("Tab")


def make(browser: Browser, caption: str, count: int) -> np.ndarray:
    """Presses the button; the picture that comes, uint8 [H, W, 3], so captioned and the first of so many."""
    press(browser, "document.querySelector('.st-key-make button:enabled')")
    found = "inner('.stage img').filter(image => image.naturalWidth).length"
    until(browser, f"document.body.innerText.includes('{caption}') && {found} === {count}")
    height, width, pixels = until(browser, PIXELS)
    return np.array(pixels, np.uint8).reshape(height, width, 4)[..., :3]


def first_row(browser: Browser) -> dict[str, Any]:
    """The manifest row that the page shows of its first picture."""
    unfold(browser, "As a manifest row")
    (row,) = yaml.safe_load(until(browser, "document.querySelector('code').innerText"))
    return row


def test_the_page_in_a_browser(browser: Browser, address: str) -> None:
    open_page(browser, address)
    until(browser, "document.body.innerText.includes('The token of this studio')")
    open_page(browser, f"{address}?token=a+secret+%26+more&run=one&task=anagram&task=hybrid&task=text_to_image")
    assert until(browser, "inner('.tile').length") == 6
    assert "token" not in browser.run("location.search")
    captions = until(browser, "inner('.caption').map(e => e.textContent)")
    assert NASTY in captions, "as text"
    assert not browser.run("document.documentElement.outerHTML.includes('<script>alert')")

    # An anagram under the cursor: its pixels travel.
    at_rest = until(browser, "inner('.tile[title=turns] canvas')[0].toDataURL()")
    x, y = centre(browser, "inner('.tile[title=turns]')[0]")
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert until(browser, f"inner('.tile[title=turns] canvas')[0].toDataURL() !== '{at_rest}'")

    # A press opens it large; each view has a button.
    browser.run(f"(() => {{ {INNER} inner('.tile[title=turns]')[0].click(); }})()")
    assert until(browser, "inner('.viewer button').map(e => e.textContent)") == ["identity: a two", "jigsaw: a five"]
    assert "row=turns" in browser.run("location.search"), "to be sent to somebody"
    browser.run(f"(() => {{ {INNER} inner('.viewer button')[1].click(); }})()")
    assert until(browser, "inner('.viewer button')[1].getAttribute('aria-pressed') === 'true'")

    # And back: the press is not one twice.
    press = "[...document.querySelectorAll('button')].find(b => b.innerText.includes('All pictures')).click()"
    browser.run(press)
    assert until(browser, "inner('.tile').length === 6 && !location.search.includes('row=')")
    time.sleep(2)
    assert until(browser, "inner('.tile').length === 6 && !location.search.includes('row=')")

    # A hybrid from further away.
    open_page(browser, f"{address}?run=one&row=shrinks")
    until(browser, "inner('.viewer input').length === 2 && inner('.viewer img')[0].naturalWidth")
    moved = "const far = inner('.viewer input')[0]; far.value = 100; far.dispatchEvent(new Event('input'));"
    browser.run(f"(() => {{ {INNER} {moved} }})()")
    assert until(browser, "inner('.viewer img')[0].style.transform") == "scale(0.06)"


def test_pictures_are_made_in_a_browser(browser: Browser, address: str) -> None:
    open_page(browser, f"{address}make?token=a+secret+%26+more")
    unfold(browser, "Settings")
    fill(browser, "Steps", "4")
    fill(browser, "Prompt", "a blue two on black")
    blue = make(browser, "a blue two on black · seed 0 · 8 evaluations", 1)
    assert blue.shape == (24, 24, 3) and blue[..., 2].std() > 20 and blue[..., 2].mean() > 2 * blue[..., 0].mean()
    row = first_row(browser)
    assert (row["task"], row["prompt"], row["steps"]) == ("text_to_image", "a blue two on black", 4)
    assert parse_task(row).canonical() == row

    again = make(browser, "there already", 2)
    assert (again == blue).all()

    # It is gone on from: what is painted over is made anew, and nothing else.
    press(browser, called("button", "Go on from it"))
    until(browser, "document.querySelector('[aria-label=Task]').value === 'image to image'")
    press(browser, "document.querySelector('[aria-label=Task]')")
    press(browser, called("[role=option]", "inpaint"))
    press(browser, "inner('.tools button').find(button => button.textContent === 'rectangle')")
    x, y = centre(browser, "inner('.sheet canvas')[0]")
    browser.drag([x - 60, y - 60], [x, y + 20], [x + 60, y + 60])
    fill(browser, "Prompt", "a red dot")
    changed = make(browser, "a red dot · seed 0", 3)
    row = first_row(browser)
    painted = decode(Path(row["mask"]).read_bytes(), "the mask")[..., 0] > 127
    assert row["task"] == "inpaint" and 20 < painted.sum() < 200 and not painted[0].any()
    assert (changed[~painted] == blue[~painted]).all() and (changed[painted] != blue[painted]).mean() > 0.5

    # Of another picture it is no mask.
    press(browser, called("button", "Go on from it"))
    until(browser, "document.querySelector('.st-key-make button').disabled")
    assert browser.run("document.body.innerText.includes('A picture is missing yet, or its mask.')")
