"""Who gets in: with a token only those who have it, to any path and to the socket alike."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Any
from urllib.parse import parse_qsl, urlencode

COOKIE = "darkroom_studio"
HEALTH = "/_stcore/health"  # for probes, which have no token
_FORM = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Darkroom studio</title><style>body{{font:16px system-ui;margin:20vh auto;max-width:22rem;padding:0 1rem;
color-scheme:light dark}}input,button{{font:inherit;padding:.4rem .6rem}}</style>
<form><p>{}</p><input name="token" type="password" autofocus aria-label="token"> <button>Open</button></form>"""


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware: a request with ?token= is sent on with a cookie, without it in the address; others need that
    cookie. The cookie is a digest of the token, so that it lies in no browser's files."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token.encode()
        self._pass = hashlib.sha256(b"darkroom studio " + self._token).hexdigest()
        self._cookie = f"{COOKIE}_{self._pass[:8]}"  # a browser has one jar for all ports of a host, so for all studios

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"] == HEALTH or self._has_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "no token"})
        else:
            await self._ask(scope, send)

    async def _ask(self, scope: dict[str, Any], send: Any) -> None:
        words = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in words if name == "token"), None)
        if given is not None and hmac.compare_digest(given.encode(), self._token):
            rest = urlencode([pair for pair in words if pair[0] != "token"])
            # One slash, or a path that begins with two would name another host.
            place = "/" + scope["path"].lstrip("/\\") + ("?" + rest if rest else "")
            cookie = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Lax"
            await _answer(send, 303, "", [("location", place), ("set-cookie", cookie)])
        else:
            why = "The token of this studio:" if given is None else "That is not the token of this studio."
            await _answer(send, 401, _FORM.format(why), [])

    def _has_pass(self, scope: dict[str, Any]) -> bool:
        if any(name == "token" for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))):
            return False  # to be taken out of the address
        given = b";".join(value for name, value in scope["headers"] if name == b"cookie")
        # By hand: http.cookies stops at the first one it cannot read, and programs on other ports set what they like.
        pairs = [pair.strip().partition(b"=") for pair in given.split(b";")]
        named = [value for name, _, value in pairs if name == self._cookie.encode()]
        return any(hmac.compare_digest(value, self._pass.encode()) for value in named)


async def _answer(send: Any, status: int, body: str, headers: list[tuple[str, str]]) -> None:
    every = [("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store"), *headers]
    encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in every]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body.encode()})
