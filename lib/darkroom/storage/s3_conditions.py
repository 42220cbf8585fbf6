"""Whether a server keeps the condition of a put. One that takes the header and does not look at it lets two jobs own
one run, and neither is told."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Protocol

from darkroom.storage.errors import StorageError
from darkroom.storage.s3_errors import refusal_code

_STALE = f'"{32 * "0"}"'  # no object's ETag


class Putting(Protocol):
    """As much of an S3 store."""

    root: str

    def put_if(self, action: str, key: str, data: bytes, **condition: str) -> bool: ...
    def read(self, key: str) -> bytes: ...
    def delete(self, *keys: str) -> None: ...


def broken_condition(store: Putting) -> str:
    """What the server does that it should not, as words; "" where it keeps conditions. Four requests and a delete."""
    key = f"probe-{secrets.token_hex(8)}"
    try:
        if not store.put_if("create", key, b"first", IfNoneMatch="*"):
            return "it refuses a put with If-None-Match where nothing is there"
        if store.put_if("create", key, b"second", IfNoneMatch="*"):
            return "it takes a put with If-None-Match where something is there"
        if store.put_if("replace", key, b"third", IfMatch=_STALE):
            return "it takes a put with If-Match where something else is there"
        return ""
    except StorageError as error:
        if refused := refusal_code(error):
            return f"it does not take a put with a condition ({refused})"
        raise
    finally:
        with suppress(StorageError):
            store.delete(key)


def refusal(endpoint: str, broken: str, root: str) -> StorageError:
    return StorageError(
        f"the S3 server {endpoint} does not keep the conditions of a put: {broken}. Two jobs could own one run, and "
        f"neither would know. Use a server that keeps them, or a folder; `darkroom doctor {root}` says more"
    )
