"""Starts the studio: Streamlit in this process, until it is interrupted."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from darkroom.studio.gate import Gate, is_loopback
from darkroom.studio.settings import Settings

PORT = 8501
UPLOAD_MB = 64
_WANTED = ("streamlit", "duckdb")


def serve(settings: Settings, host: str = "127.0.0.1", port: int = PORT, token: str = "") -> None:
    """Serves the pages and blocks. ValueError where Streamlit is not installed, where others could come in without a
    token, and for a port that is taken."""
    if missing := [name for name in _WANTED if find_spec(name) is None]:
        raise ValueError(
            f"the studio wants {' and '.join(missing)}, not installed here: pip install 'darkroom[studio]'"
        )
    if not token and not is_loopback(host):
        raise ValueError(f"--host {host} lets others in: give a --token, or DARKROOM_STUDIO_TOKEN, that they must know")
    _refuse_taken(host, port)
    settings.write()
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    print(f"darkroom studio: http://{_named(host)}:{port}, Ctrl-C ends it", flush=True)
    gates = [Middleware(Gate, token=token)] if token else []
    App(Path(__file__).parent / "pages/app.py", middleware=gates).run(config=_config(host, port, guarded=bool(token)))


def _config(host: str, port: int, guarded: bool) -> dict[str, Any]:
    """Streamlit's. Without a token its socket takes no other name of this machine than loopback's, else any page that
    a browser has open could come in by a name of its own (DNS rebinding)."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.maxUploadSize": UPLOAD_MB,
        "server.allowedHosts": [] if guarded else ["localhost", "127.0.0.1", "::1", "[::1]", host],
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "logger.hideWelcomeMessage": True,
    }


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"nothing can listen at {host} port {port}: {reason}; --port names another") from error


def _named(host: str) -> str:
    """As a browser of this machine is told."""
    name = "localhost" if host in ("0.0.0.0", "::") else host
    return f"[{name}]" if ":" in name else name
