"""A page in headless Chromium, where it is installed: its scripts run, as in a browser of people."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
# What the browser itself does of a key goes by these.
_CODES = {"Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}


class Browser:
    """One tab, by the DevTools protocol."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._count = loop, socket, 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._ask(method, params))

    def open(self, page: Path, width: int = 1400, height: int = 900, address: str = "") -> float:
        """Opens a page from disk; milliseconds until it had loaded and was drawn."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=page.as_uri() + address)
        return self.run(
            """new Promise(done => {
                 const drawn = () => requestAnimationFrame(() => setTimeout(() => done(performance.now())));
                 document.readyState === "complete" ? drawn() : addEventListener("load", drawn);
               })"""
        )

    def run(self, script: str) -> Any:
        """What the script comes to, awaited. AssertionError, with its message, for an error of the script."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_CODES.get(key, 0))

    def drag(self, *places: list[float]) -> None:
        """Presses the mouse at the first place and lets go at the last: of one a click. In CSS pixels."""
        self._mouse("mouseMoved", places[0])
        self._mouse("mousePressed", places[0], button="left", clickCount=1)
        for place in places[1:]:
            self._mouse("mouseMoved", place, button="left", buttons=1)
        self._mouse("mouseReleased", places[-1], button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Into what has the focus, in place of what is selected there."""
        self.ask("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def _mouse(self, kind: str, place: list[float], **more: Any) -> None:
        self.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **more)

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json(timeout=60)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in the folder; it ends with the block."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    session = None
    try:
        port = _port(folder / "DevToolsActivePort")
        session, socket = loop.run_until_complete(_tab(port))
        yield Browser(loop, socket)
    finally:
        if session is not None:
            loop.run_until_complete(session.close())
        loop.close()
        process.terminate()
        process.wait(30)


def _port(file: Path) -> int:
    for _ in range(300):
        if file.exists() and (text := file.read_text()):
            return int(text.split()[0])
        time.sleep(0.1)
    raise AssertionError("Chromium did not open its port in 30 s")


async def _tab(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = await answer.json()
    tab = next(tab for tab in tabs if tab["type"] == "page")
    return session, await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
