"""The SDK's client for S3, by the standard AWS_* variables and a few of ours, and how patient it is."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import boto3
from botocore.config import Config

from darkroom.phases import redacted
from darkroom.storage.errors import StorageError
from darkroom.storage.patience import Patience
from darkroom.storage.s3_errors import reporting

PATIENCE, TIMEOUT, ADDRESSING = "DARKROOM_S3_PATIENCE", "DARKROOM_S3_TIMEOUT", "DARKROOM_S3_ADDRESSING"
_ADDRESSING = "path", "virtual"


@dataclass
class Server:
    """client: thread-safe, pooled. keys: which it signs with, None without any. endpoint: its url, without keys.
    deletes_singly: it does not take the request that names many keys. trusted: buckets where it was seen to keep the
    conditions of puts; said: those of which a job has said what is odd."""

    client: Any
    keys: Any
    patience: Patience
    endpoint: str
    deletes_singly: bool = False
    trusted: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)


def server() -> Server:
    """The server that the variables name, one for all stores of a process."""
    return _build(os.getpid(), tuple(sorted(item for item in os.environ.items() if _is_ours(item[0]))))


def renewed(old: Server) -> bool:
    """Whether other keys are to be had than those of `old`, which expired, as whoever hands them out may have written
    the file anew that they are read from. They are taken from here on."""
    fresh = _keys(boto3.session.Session())
    if fresh is None or fresh == old.keys:
        return False
    _build.cache_clear()
    return True


def _keys(session: boto3.session.Session) -> Any:
    found = session.get_credentials()
    return found and found.get_frozen_credentials()


def _is_ours(name: str) -> bool:
    return name.startswith(("AWS_", "DARKROOM_S3_"))


@lru_cache(maxsize=8)
def _build(process: int, settings: tuple[tuple[str, str], ...]) -> Server:
    """The arguments are there to be the cache's key, too."""
    values = dict(settings)
    patience = _seconds(values, PATIENCE, 300)
    endpoint = _endpoint(values)
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": 1},  # trying again is ours: for a time, not so many times
        max_pool_connections=32,
        connect_timeout=min(10, _seconds(values, TIMEOUT, 60)),
        read_timeout=_seconds(values, TIMEOUT, 60),
        # The newer default adds checksums in trailers, which several S3-compatible servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": _addressing(values, endpoint)},
    )
    with reporting("set up", "S3"):  # an AWS_PROFILE that is not there, a role that gives no keys
        # Its own session: the default one must not be used from several threads. boto3 reads AWS_DEFAULT_REGION only.
        session = boto3.session.Session(region_name=values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION"))
        keys = _keys(session)
        try:
            client = session.client("s3", config=config, endpoint_url=endpoint)
        except ValueError as error:  # an AWS_ENDPOINT_URL that is no URL
            sentence = f"could not set up S3: {redacted(str(error))}; check AWS_ENDPOINT_URL_S3 and AWS_REGION"
            raise StorageError(sentence) from None  # whose urls are as they were given
    client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    where = redacted(client.meta.endpoint_url)
    return Server(client, keys, Patience(f"the S3 server {where}", patience, PATIENCE), where)


def _add_md5(params: dict[str, Any], **ignored: Any) -> None:
    """Many servers that are not AWS want this header, which the SDK does not send any more, beside a CRC that they do
    not know."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _endpoint(values: dict[str, str]) -> str | None:
    """Without keys, which some write into it: no server is asked by them, and the SDK would print them. A secret may
    have any sign in it, so all goes that stands before the last @."""
    given = values.get("AWS_ENDPOINT_URL_S3") or values.get("AWS_ENDPOINT_URL") or ""
    keys, found, host = given.rpartition("@")
    scheme = keys.partition("://")[0] + "://" if "://" in keys else ""
    return f"{scheme}{host}" if found else given or None


def _addressing(values: dict[str, str], endpoint: str | None) -> str:
    """Servers of one's own rarely have a name per bucket in their DNS."""
    style = values.get(ADDRESSING) or ("path" if endpoint else "auto")
    if style not in (*_ADDRESSING, "auto"):
        raise ValueError(f"{ADDRESSING} is {style!r}: wanted path (HOST/BUCKET) or virtual (BUCKET.HOST)")
    return style


def _seconds(values: dict[str, str], name: str, default: float) -> float:
    text = values.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf") or (seconds == 0 and name == TIMEOUT):
        raise ValueError(f"{name} is {text!r}: wanted seconds, such as {default:g}")
    return seconds
