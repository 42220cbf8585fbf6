"""An HTTP server of the tests' own, on a free port of this machine, for as long as a block lasts."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Loopback:
    """port, url: where it listens. Each request's handler has this object by the name that is given."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], name: str) -> None:
        own: dict[str, Any] = {name: self}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), own))
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._server.shutdown()
        self._server.server_close()
