"""Data sets from the places torchvision knows; it compares their checksums."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
from collections.abc import Iterator

MIRROR_SECONDS = 10  # a mirror that does not answer by then counts as out of reach


class Unreachable(Exception):
    """No mirror gave the files; the message says what each attempt ended with."""


def download(name: str, folder: str) -> None:
    """Puts the data set that torchvision calls `name` ("MNIST", "CIFAR10") into the folder, unpacked. Unreachable."""
    from torchvision import datasets  # costs seconds, and only a download needs it

    # stdout: torchvision prints every mirror it gives up on
    with _socket_timeout(MIRROR_SECONDS), contextlib.redirect_stdout(io.StringIO()):
        try:
            getattr(datasets, name)(folder, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise Unreachable(str(error)) from error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision's download takes no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
