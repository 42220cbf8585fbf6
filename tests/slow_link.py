"""A way to an S3 server on which things can be seen and go wrong: an HTTP proxy that counts requests, limits the rate
of each, holds answers back until others are asked for, and cuts bodies off."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler

from loopback import Loopback

_CHUNK = 1 << 18


class SlowLink(Loopback):
    """requests: "METHOD path" of every one. wait_for: no GET is answered until so many wait. cut: so many GETs, the
    next ones, break off half-way. rate: bytes a second for each answer, None without a limit."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.requests: list[str] = []
        self.wait_for, self.cut, self.rate = 1, 0, None
        self._lock = threading.Lock()
        super().__init__(_Handler, "link")

    def arrive(self, request: str) -> bool:
        """Notes a request and returns whether its body is one of those to cut."""
        with self._lock:
            self.requests.append(request)
            cut = self.cut > 0 and request.startswith("GET")
            self.cut -= cut
        deadline = time.monotonic() + 10
        while sum(each.startswith("GET") for each in self.requests) < self.wait_for and request.startswith("GET"):
            if time.monotonic() > deadline:
                raise ConnectionAbortedError(f"{self.wait_for} requests at once were awaited")
            time.sleep(0.01)
        return cut


class _Handler(BaseHTTPRequestHandler):
    link: SlowLink
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        cut = self.link.arrive(f"{self.command} {self.path}")
        server = http.client.HTTPConnection("127.0.0.1", self.link.target_port)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.request(self.command, self.path, body, dict(self.headers))  # the signature covers the Host, too
            answer = server.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self._send(answer, int(answer.getheader("Content-Length") or 0), cut)
        finally:
            server.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

    def _send(self, answer: http.client.HTTPResponse, size: int, cut: bool) -> None:
        sent, began = 0, time.monotonic()
        while chunk := answer.read(_CHUNK):
            if cut:
                self.wfile.write(chunk[: size // 2])
                self.close_connection = True
                return
            self.wfile.write(chunk)
            sent += len(chunk)
            if self.link.rate:
                time.sleep(max(0.0, began + sent / self.link.rate - time.monotonic()))

    def log_message(self, *ignored: object) -> None:
        pass
