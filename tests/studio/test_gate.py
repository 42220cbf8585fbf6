"""Who gets into the studio: requests as a browser sends them, to an application that says yes to all."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from darkroom.studio.gate import HEALTH, Gate, is_loopback
from darkroom.studio.server import serve
from darkroom.studio.settings import Settings

TOKEN = "käse & brot"


async def _yes(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "let in"})


def ask(
    path: str = "/", query: str = "", cookie: str = "", kind: str = "http", token: str = TOKEN
) -> list[dict[str, Any]]:
    """What comes back, message by message."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect"}

    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": headers}
    asyncio.run(Gate(_yes, token)(scope, receive, send))
    return sent


def header(answer: dict[str, Any], name: str) -> str:
    return dict(answer["headers"])[name.encode()].decode()


def given_cookie(token: str = TOKEN) -> str:
    """What a browser sends back once it has come in."""
    return header(ask(query=urlencode({"token": token}), token=token)[0], "set-cookie").partition(";")[0]


@pytest.mark.parametrize("path", ["/", "/media/x.png", "/_stcore/upload_file/a/b", "//evil.example"])
def test_nobody_comes_in_without_the_token(path: str) -> None:
    name = given_cookie().partition("=")[0]
    wrong = ("", f"{name}", f"{name}=", f"{name}={TOKEN}", f"{name}=ü", "\x00;=;", given_cookie("other"))
    for cookie in wrong:
        assert ask(path, cookie=cookie)[0]["status"] == 401
        assert ask(path, cookie=cookie, kind="websocket") == [
            {"type": "websocket.close", "code": 1008, "reason": "no token"}
        ]
    for given in ("token=", "token=wrong", "token=%ff", "token=k%C3%A4se"):
        assert ask(path, given)[0]["status"] == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address() -> None:
    answer = ask("/runs", "run=demo&token=k%C3%A4se+%26+brot&text=a+b%26")[0]
    assert answer["status"] == 303 and header(answer, "location") == "/runs?run=demo&text=a+b%26"
    cookie, *flags = header(answer, "set-cookie").split("; ")
    assert flags == ["Path=/", "HttpOnly", "SameSite=Lax"] and TOKEN not in cookie
    for kind in ("http", "websocket"):
        assert ask("/runs", "run=demo", cookie=f"a=b; {cookie}", kind=kind) == [{"type": "let in"}]
    assert header(ask("//evil.example", "token=k%C3%A4se+%26+brot")[0], "location") == "/evil.example"


@pytest.mark.parametrize("other", ['theme={"x":"y"}', "name=Jörg", "flag", "list[0]=1", "a/b=1", 'e="a', "=", ""])
def test_cookies_of_other_programs_shut_nobody_out(other: str) -> None:
    for cookie in (f"{other}; {given_cookie()}", f"{given_cookie()}; {other}", f"{given_cookie()};{other}"):
        assert ask(cookie=cookie) == [{"type": "let in"}]


def test_two_studios_of_one_host_keep_each_its_cookie() -> None:
    mine, others = given_cookie(), given_cookie("other")
    assert mine.partition("=")[0] != others.partition("=")[0], "else the later would replace the earlier"
    jar = f"{mine}; {others}"
    assert ask(cookie=jar) == ask(cookie=jar, token="other") == [{"type": "let in"}]
    name, _, value = others.partition("=")
    assert ask(cookie=f"{mine.partition('=')[0]}={value}; {name}={value}; {mine}") == [{"type": "let in"}]


def test_probes_need_no_token() -> None:
    assert ask(HEALTH) == [{"type": "let in"}]


def test_what_is_loopback() -> None:
    inside = ["127.0.0.1", "127.3.2.1", "::1", "localhost"]
    assert all(map(is_loopback, inside))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "127.0.0.1.evil.example", "localhost.evil", ""]))


def test_others_are_not_let_in_without_a_token() -> None:
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 lets others in: give a --token"):
        serve(Settings("runs"), host="0.0.0.0")
