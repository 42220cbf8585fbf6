"""What an S3 server can do, tried out on a bucket."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from darkroom.storage.errors import StorageError
from darkroom.storage.findings import BAD, NOTE, OK, PROBES, Finding, clock_finding, examined, milliseconds, tried
from darkroom.storage.s3 import S3Store
from darkroom.storage.s3_client import ADDRESSING, PATIENCE, server
from darkroom.storage.s3_conditions import broken_condition
from darkroom.storage.s3_errors import code, reporting

_NAME = "a b+c%é'.txt"  # signs that servers and proxies are known to spoil
_SINGLY = "not taken: objects are deleted one by one"
_WAITED = 10.0  # seconds
_SLOW = 200.0  # milliseconds
_PART = 5 * 2**20  # the least that a part but the last may have


def examine_bucket(uri: str) -> Iterator[Finding]:
    """Findings as they are made. StorageError where the bucket cannot be reached or not be written to."""
    outer = S3Store(uri)
    store = S3Store(f"{outer.root}/{PROBES}-{secrets.token_hex(6)}")
    found = server()
    waits = f"a server that is away is waited for, {found.patience.seconds:g} s ({PATIENCE})"
    found.patience.seconds = min(found.patience.seconds, _WAITED)  # whoever asks wants to know, not to get on
    store.exists("nothing")
    store.write("first", b"x")
    style = found.client.meta.config.s3["addressing_style"]
    yield Finding("reached", OK, f"{found.endpoint}, bucket {store.bucket}; {waits}")
    try:
        yield Finding("addressing", OK, f"{style}; {ADDRESSING}=path or virtual sets another")
        yield from examined(store, _OF_A_BUCKET)
    finally:
        with suppress(StorageError):
            store.delete(*store.list())


def at_start_in(uri: str) -> list[Finding]:
    """What its lease has shown of a bucket, whose conditions were tried then, and its clock; the first time alone."""
    store, answering = S3Store(uri), server()
    if store.bucket in answering.said:
        return []
    answering.said.add(store.bucket)
    singly = [Finding("multi-object delete", NOTE, _SINGLY)] if answering.deletes_singly else []
    return [tried("clock", lambda: _clock(store)), *singly]


def _latency(store: S3Store) -> Finding | str:
    put, get = (milliseconds(act) for act in (lambda: store.write("first", b"x"), lambda: store.read("first")))
    says = f"put {put:.0f} ms, get {get:.0f} ms"
    if max(put, get) < _SLOW:
        return says
    return Finding("latency", NOTE, f"{says}: slow; jobs write and read in many requests at once")


def _clock(store: S3Store) -> Finding:
    before = time.time()
    with reporting("look into", store.root):
        answer = server().client.head_bucket(Bucket=store.bucket)
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        ahead = parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2
    except ValueError:
        return Finding("clock", NOTE, f"the server says no time ({date!r}): nothing here depends on it")
    return clock_finding(ahead, "the server's clock", "S3 refuses requests from 15 minutes on: set the clock")


def _names(store: S3Store) -> Finding | str:
    store.write(_NAME, b"x")
    if list(store.list(_NAME[:3])) != [_NAME] or store.read(_NAME) != b"x":
        return Finding("names", NOTE, "spaces and signs in names are spoiled; darkroom's own names have none")
    return "spaces and signs in them are kept"


def _listing(store: S3Store) -> Finding | str:
    store.write("listed", b"x")
    new = "listed" in store.listing()
    store.delete("listed")
    if not new or "listed" in store.listing():
        lags = "a listing lags behind; what is listed too late is made again, and never counts twice"
        return Finding("listing", NOTE, lags)
    return "shows at once what was put, and not what was deleted"


def _conditions(store: S3Store) -> Finding | str:
    if broken := broken_condition(store):
        return Finding("conditional put", BAD, f"{broken}: two jobs could own one run, so jobs refuse this server")
    return "refused where the key is there (If-None-Match) and where it is another (If-Match)"


def _checksums(store: S3Store) -> Finding | str:
    wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    try:
        with reporting("write", store.uri("checked")):
            server().client.put_object(**store.address("checked"), Body=b"x", ContentMD5=wrong)
    except StorageError as error:
        if isinstance(error.__cause__, ClientError):
            return f"a body that is not what its MD5 says is refused ({code(error.__cause__)})"
        raise
    return Finding("checksums", NOTE, "a body that is not what its MD5 says is taken; `darkroom audit` reads them all")


def _deletes(store: S3Store) -> Finding | str:
    keys = [f"deleted-{number}" for number in range(3)]
    for key in keys:
        store.write(key, b"x")
    store.delete(*keys)
    if left := [key for key in keys if store.exists(key)]:
        return Finding("multi-object delete", BAD, f"{len(left)} of {len(keys)} are still there")
    if server().deletes_singly:
        return Finding("multi-object delete", NOTE, _SINGLY)
    return "taken, with Content-MD5"


def _multipart(store: S3Store) -> Finding | str:
    data = secrets.token_bytes(_PART + 1)
    if not store.write_in_parts("large", data, _PART):
        return Finding("multipart", NOTE, "not taken: large objects are one put each, of 5 GB at most")
    if store.read("large") != data:
        return Finding("multipart", BAD, "an object of two parts is not what was sent")
    return "taken, for objects of more than 128 MB"


_OF_A_BUCKET = {
    "latency": _latency,
    "clock": _clock,
    "names": _names,
    "listing": _listing,
    "conditional put": _conditions,
    "checksums": _checksums,
    "multi-object delete": _deletes,
    "multipart": _multipart,
}
