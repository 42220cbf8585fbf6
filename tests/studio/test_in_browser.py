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

import pytest

from browser import CHROMIUM, Browser, chromium
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
CENTRE = "(box => [box.x + box.width / 2, box.y + box.height / 2])(inner('{}')[0].getBoundingClientRect())"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    make_run(str(folder / "runs/one"), folder, [*ROWS, *MORE])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "DARKROOM_STUDIO_TOKEN": TOKEN}
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
    raise AssertionError(f"never: {script}")


def open_page(browser: Browser, address: str) -> None:
    for _ in range(100):  # the server says where it is a moment before it listens
        browser.ask("Page.navigate", url=address)
        if browser.run("location.protocol") == "http:":
            return
        time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


def test_the_page_in_a_browser(browser: Browser, address: str) -> None:
    open_page(browser, address)
    until(browser, "document.body.innerText.includes('The token of this studio')")
    open_page(browser, f"{address}?token=a+secret+%26+more&task=anagram&task=hybrid&task=text_to_image")
    assert until(browser, "inner('.tile').length") == 6
    assert "token" not in browser.run("location.search")
    captions = until(browser, "inner('.caption').map(e => e.textContent)")
    assert NASTY in captions, "as text"
    assert not browser.run("document.documentElement.outerHTML.includes('<script>alert')")

    # An anagram under the cursor: its pixels travel.
    at_rest = until(browser, "inner('.tile[title=turns] canvas')[0].toDataURL()")
    x, y = until(browser, CENTRE.format(".tile[title=turns]"))
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
    open_page(browser, f"{address}?row=shrinks")
    until(browser, "inner('.viewer input').length === 2 && inner('.viewer img')[0].naturalWidth")
    moved = "const far = inner('.viewer input')[0]; far.value = 100; far.dispatchEvent(new Event('input'));"
    browser.run(f"(() => {{ {INNER} {moved} }})()")
    assert until(browser, "inner('.viewer img')[0].style.transform") == "scale(0.06)"
