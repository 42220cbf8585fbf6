"""An S3 server behind a bad network: a proxy that refuses for it, loses its answers, cuts them off, holds them back."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from loopback import Loopback

FAULTS = ("503", "reset", "lost", "short", "stall", "lag")
_ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}, says the proxy</Message></Error>"


class FaultProxy(Loopback):
    """rate: the share of requests that go wrong, by one of `faults` each. script: faults of the next requests, "" for
    none, before chance decides. away: every connection is reset. expired: every request is refused for its keys.
    lags: so many listings, the next, are answered with what the same ones gave before, which is the fault "lag".
    stall: seconds of one. done: what went wrong, counted; requests: "METHOD path" of all that came."""

    def __init__(self, target_port: int, seed: int = 0, rate: float = 0.0, faults: tuple[str, ...] = FAULTS) -> None:
        self.target_port, self.rate, self.faults = target_port, rate, faults
        self.stall = 1.5
        self.begin()
        self._random, self._lock = random.Random(seed), threading.Lock()
        super().__init__(_Handler, "proxy")

    def begin(self) -> None:
        """As if nothing had come or gone wrong yet."""
        self.script: list[str] = []
        self.away, self.expired, self.lags = False, False, 0
        self.done: Counter[str] = Counter()
        self.requests: list[str] = []
        self.listings: dict[str, bytes] = {}

    def fault(self, request: str) -> str:
        """What goes wrong with a request: one of `faults`, "away", "expired", or "" for nothing."""
        with self._lock:
            self.requests.append(request)
            if self.away or self.expired:
                found = "away" if self.away else "expired"
            elif self.lags and _is_listing(request):
                self.lags, found = self.lags - 1, "lag"
            elif self.script:
                found = self.script.pop(0)
            else:
                found = self._random.choice(self.faults) if self._random.random() < self.rate else ""
            if found == "lag" and not _is_listing(request):
                found = ""
            self.done[found] += bool(found)
            return found


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    rbufsize = -1

    def forward(self) -> None:
        fault = self.proxy.fault(f"{self.command} {self.path}")
        if fault in ("reset", "away"):
            return self._reset()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "503":
            return self._answer(503, _ERROR.format("SlowDown").encode())
        if fault == "expired":
            return self._answer(400, _ERROR.format("ExpiredToken").encode())
        answer, data = self._ask(body)
        if fault == "stall":
            time.sleep(self.proxy.stall)
        if fault in ("stall", "lost"):
            return self._reset()
        listing = f"{self.command} {self.path}"
        if _is_listing(listing):
            fresh = data
            data = self.proxy.listings.get(listing, data) if fault == "lag" else data
            self.proxy.listings[listing] = fresh
        self._answer(answer.status, data, answer, len(data) // 2 if fault == "short" else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.target_port)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            server.request(self.command, self.path, body, headers)  # the signature covers the Host, too
            answer = server.getresponse()
            return answer, answer.read()
        finally:
            server.close()

    def _answer(
        self, status: int, data: bytes, source: http.client.HTTPResponse | None = None, cut: int | None = None
    ) -> None:
        self.send_response_only(status)
        hidden = ("connection", "transfer-encoding") + (() if self.command == "HEAD" else ("content-length",))
        for name, value in source.getheaders() if source else ():
            if name.lower() not in hidden:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        elif source is None:
            self.send_header("Content-Length", "0")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """A RST instead of a proper end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        with suppress(OSError):  # the connection was reset, as it should be
            super().finish()

    def log_message(self, *ignored: object) -> None:
        pass


def _is_listing(request: str) -> bool:
    return request.startswith("GET ") and "list-type=2" in request
