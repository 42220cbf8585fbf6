"""Buckets of any S3-compatible server, by boto3 and the standard AWS_* variables."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from darkroom.storage.errors import NotFound, Refused, StorageError, TooLarge
from darkroom.storage.paths import check_key

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-_]{1,253}[A-Za-z0-9]")
_DELETE_BATCH = 1000  # the most keys one DeleteObjects request may name
_TRIES = 4  # our own, for what the SDK does not retry: a body that breaks off, a conditional put that met another

_ABSENT = {"NoSuchKey", "404", "NotFound", "KeyTooLongError"}
# Answers of the 4xx that are about who asks, or when, and not about the object or bucket that was asked for.
_OF_THE_ASKER = {
    "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired",
    "RequestTimeout", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "SlowDown", "TokenRefreshRequired",
}  # fmt: skip
_ADVICE = {
    "NoSuchBucket": "the bucket does not exist; check its name and AWS_ENDPOINT_URL_S3, or make it first",
    "InvalidAccessKeyId": "the server does not know this key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret does not fit the key; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "access was denied; check the keys and what their policy allows (get, put, delete, list)",
    "403": "access was denied; check the keys and what their policy allows (get, put, delete, list)",
    "ExpiredToken": "the session token has expired; renew AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's; set the clock",
    "PermanentRedirect": "the bucket lies in another region; check AWS_REGION",
    "InvalidObjectState": "the object lies in an archive; restore it first",
    "SlowDown": "the server asks for fewer requests; run fewer workers or try again later",
    "NotImplemented": "the server lacks this operation; conditional puts (If-None-Match, If-Match) are needed",
}


@dataclass(frozen=True)
class ETag:
    """Changes whenever an object does; without quotes."""

    value: str
    encrypted: bool  # with a key service's key

    @property
    def is_md5(self) -> bool:
        """Whether it is the MD5 of the content: not where the object came in several parts or lies encrypted."""
        return len(self.value) == 32 and not self.encrypted


class S3Store:
    """A prefix of a bucket. See `stores.Store` for what the verbs promise."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(self.bucket):
            raise ValueError(f"{uri!r} names no possible bucket: wanted s3://bucket or s3://bucket/prefix")
        self.prefix = prefix.strip("/")
        self.root = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._bucket_seen = False

    def __repr__(self) -> str:
        return f"S3Store({self.root!r})"

    def __reduce__(self) -> tuple[type[S3Store], tuple[str]]:
        return S3Store, (self.root,)

    def read(self, key: str, limit: int | None = None) -> bytes:
        return self._get(key, limit=limit)

    def size(self, key: str) -> int:
        with _reporting("look for", self.uri(key)):
            return self._client().head_object(**self._object(key))["ContentLength"]

    def read_part(self, key: str, start: int, count: int) -> bytes:
        # A range that begins behind the end is refused, with a code of its own on each kind of server.
        count = min(count, self.size(key) - start)
        return self._get(key, Range=f"bytes={start}-{start + count - 1}") if count > 0 else b""

    def read_range(self, key: str, start: int, count: int, etag: str) -> bytes:
        """`count` bytes from `start`, all of which lie in the object, by one request. NotFound where the object there
        is another than that of the ETag."""
        return self._get(key, etag, Range=f"bytes={start}-{start + count - 1}")

    def _get(self, key: str, etag: str = "", limit: int | None = None, **more: str) -> bytes:
        for last in _tries():
            with _reporting("read", self.uri(key)):
                answer = self._client().get_object(**self._object(key), **more)
                if etag and answer["ETag"].strip('"') != etag:
                    raise NotFound(f"{self.uri(key)} is another object")
                if limit is not None and answer["ContentLength"] > limit:
                    answer["Body"].close()
                    raise TooLarge(self.uri(key), answer["ContentLength"])
                try:
                    return answer["Body"].read()
                except BotoCoreError:  # the SDK retries the request, but not a body that breaks off half-way
                    if last:
                        raise
        raise AssertionError("the last try returns or raises")

    def write(self, key: str, data: bytes) -> None:
        with _reporting("write", self.uri(key)):
            self._client().put_object(**self._object(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        return self._put_if("create", key, data, IfNoneMatch="*")

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        try:
            with _reporting("replace", self.uri(key)):
                answer = self._client().get_object(**self._object(key))
                if answer["Body"].read() != old:
                    return False
        except NotFound:
            return False
        return self._put_if("replace", key, new, IfMatch=answer["ETag"])

    def _put_if(self, action: str, key: str, data: bytes, **condition: str) -> bool:
        for last in _tries():
            with _reporting(action, self.uri(key)):
                try:
                    self._client().put_object(**self._object(key), Body=data, **condition)
                    return True
                except ClientError as error:
                    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                    if status == 412 or (status == 404 and "IfMatch" in condition):  # 404: deleted meanwhile
                        break
                    if status != 409 or last:  # 409: it met another put or a delete, and nobody has won yet
                        raise
        # The SDK sends a put again when its answer is lost, and then meets its own object: those are our bytes.
        try:
            return self.read(key) == data
        except NotFound:
            return False

    def exists(self, key: str) -> bool:
        try:
            with _reporting("look for", self.uri(key)):
                self._client().head_object(**self._object(key))
        except NotFound:
            self._check_bucket()
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        # Sorted here: AWS answers in order of bytes, servers that stand on folders put "a/1" before "a.json".
        yield from sorted(self.listing(prefix))

    def listing(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """As of every store; the version is the ETag, without quotes."""
        start = f"{self.prefix}/" if self.prefix else ""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start + prefix)
        with _reporting("list", self.uri(prefix)):
            found = [item for page in pages for item in page.get("Contents", ())]
        facts = {item["Key"].removeprefix(start): (item["Size"], item["ETag"].strip('"')) for item in found}
        return {key: fact for key, fact in facts.items() if not key.endswith("/")}  # consoles put empty "folders"

    def etag(self, key: str) -> ETag:
        """An object's ETag as it is now; NotFound if there is none."""
        with _reporting("look for", self.uri(key)):
            answer = self._client().head_object(**self._object(key))
        return ETag(answer["ETag"].strip('"'), "kms" in answer.get("ServerSideEncryption", ""))

    def delete(self, *keys: str) -> None:
        for first in range(0, len(keys), _DELETE_BATCH):
            batch = [{"Key": self._object(key)["Key"]} for key in keys[first : first + _DELETE_BATCH]]
            with _reporting("delete", self.uri(keys[first])):
                answer = self._client().delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
                for failed in answer.get("Errors", ()):
                    if failed.get("Code") not in _ABSENT:
                        raise ClientError({"Error": failed}, f"DeleteObjects {failed.get('Key')}")

    def move(self, src: str, dst: str) -> None:
        try:
            with _reporting("move", self.uri(src)):
                self._client().copy_object(**self._object(dst), CopySource=self._object(src))
        except NotFound:
            if self.exists(dst):
                return
            raise
        self.delete(src)

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _object(self, key: str) -> dict[str, str]:
        check_key(key)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def _check_bucket(self) -> None:
        """A HEAD answer has no body: "no such key" and "no such bucket" look the same, so ask once."""
        if self._bucket_seen:
            return
        with _reporting("look into", self.root):
            try:
                self._client().head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    raise ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket") from error
                raise
        self._bucket_seen = True

    def _client(self) -> Any:
        settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "DARKROOM_S3_"))))
        with _reporting("reach", self.root):
            return _build_client(os.getpid(), settings)


@lru_cache(maxsize=8)
def _build_client(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    """One client (thread-safe, pooled) for all stores of a process; the arguments are there to be the cache's key."""
    values = dict(settings)
    attempts = values.get("DARKROOM_S3_ATTEMPTS", "8")
    if not attempts.isdigit() or attempts == "0":
        raise ValueError(f"DARKROOM_S3_ATTEMPTS is {attempts!r}: wanted a whole number of at least 1")
    endpoint = values.get("AWS_ENDPOINT_URL_S3") or values.get("AWS_ENDPOINT_URL")
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": int(attempts)},
        max_pool_connections=32,
        connect_timeout=10,
        read_timeout=60,
        # The newer default adds checksums in trailers, which several S3-compatible servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Servers of one's own rarely have a name per bucket in their DNS.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    # Its own session: the default one must not be used from several threads. boto3 reads AWS_DEFAULT_REGION only.
    session = boto3.session.Session(region_name=values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION"))
    try:
        return session.client("s3", config=config)
    except ValueError as error:  # an AWS_ENDPOINT_URL that is no URL
        raise StorageError(f"could not set up S3: {error}; check AWS_ENDPOINT_URL_S3 and AWS_REGION") from error


def _tries() -> Iterator[bool]:
    """Yields "is this the last try?", with short pauses in between."""
    for count in range(1, _TRIES + 1):
        yield count == _TRIES
        time.sleep(0.1 * 2**count)


@contextmanager
def _reporting(action: str, uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if _code(error) in _ABSENT:
            raise NotFound(f"could not {action} {uri}: nothing is there") from error
        advice = _ADVICE.get(_code(error), "the server refused or failed; check it and try again")
        kind = Refused if _is_refused(error) else StorageError
        raise kind(f"could not {action} {uri}: {advice} ({error})") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        advice = "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        kind = Refused if isinstance(error, NoCredentialsError) else StorageError
        raise kind(f"could not {action} {uri}: {advice} ({error})") from error
    except (ConnectionError, HTTPClientError, OSError) as error:
        advice = "the endpoint cannot be reached; check AWS_ENDPOINT_URL_S3 and the network"
        raise StorageError(f"could not {action} {uri}: {advice} ({error})") from error
    except BotoCoreError as error:
        advice = "the request could not be made or its answer not read; check the AWS_* variables, then try again"
        raise StorageError(f"could not {action} {uri}: {advice} ({error})") from error


def _is_refused(error: ClientError) -> bool:
    """Whether the server works, knows who asks, and will not give this."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    about_it = 400 <= status < 500 and status not in (408, 429) and _code(error) not in _OF_THE_ASKER
    return about_it or status == 301 or _code(error) == "NoSuchBucket"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
