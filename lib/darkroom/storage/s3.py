"""Buckets of any S3-compatible server, by boto3 and the standard AWS_* variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from darkroom.storage.errors import NotFound, StorageError, TooLarge
from darkroom.storage.paths import check_key
from darkroom.storage.s3_client import renewed, server
from darkroom.storage.s3_conditions import broken_condition, refusal
from darkroom.storage.s3_errors import ABSENT, EXPIRED, away, code, refusal_code, reporting, status

T = TypeVar("T")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-_]{1,253}[A-Za-z0-9]")
_DELETE_BATCH = 1000  # the most keys one DeleteObjects request may name
_WHOLE, _PART, _PARTS_AT_ONCE = 128 * 2**20, 64 * 2**20, 4  # bytes of an object by one put, of a part of a larger one
_DELETES_AT_ONCE = 8  # where each key is a request
_REFUSED = {400, 401, 403}


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
        return self._get("read", key, limit)[0]

    def size(self, key: str) -> int:
        return self._head("look for", key)["ContentLength"]

    def read_part(self, key: str, start: int, count: int) -> bytes:
        if count <= 0:
            return b""
        try:
            return self._get("read", key, Range=f"bytes={start}-{start + count - 1}")[0]
        except StorageError as error:
            # It begins behind the end: each kind of server has a code of its own for that, and all one status.
            if isinstance(error.__cause__, ClientError) and status(error.__cause__) == 416:
                return b""
            raise

    def read_range(self, key: str, start: int, count: int, etag: str) -> bytes:
        """`count` bytes from `start`, all of which lie in the object, by one request. NotFound where the object there
        is another than that of the ETag."""
        data, found = self._get("read", key, Range=f"bytes={start}-{start + count - 1}")
        if found.strip('"') != etag:
            raise NotFound(f"{self.uri(key)} is another object")
        return data

    def write(self, key: str, data: bytes) -> None:
        if len(data) <= _WHOLE or not self.write_in_parts(key, data, _PART):
            self._ask("write", key, lambda s3: s3.put_object(**self.address(key), Body=data))

    def create(self, key: str, data: bytes) -> bool:
        self._check_conditions()
        return self.put_if("create", key, data, IfNoneMatch="*")

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        self._check_conditions()
        try:
            found, etag = self._get("replace", key)
        except NotFound:
            return False
        return found == old and self.put_if("replace", key, new, IfMatch=etag)

    def exists(self, key: str) -> bool:
        try:
            self._head("look for", key)
        except NotFound:
            self._check_bucket()
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        # Sorted here: AWS answers in order of bytes, servers that stand on folders put "a/1" before "a.json".
        yield from sorted(self.listing(prefix))

    def has(self, prefix: str = "", but: str | None = None) -> bool:
        start = f"{self.prefix}/" if self.prefix else ""
        keys = (item["Key"] for item in self._list("list", prefix, start + prefix) if not item["Key"].endswith("/"))
        return any(but is None or not key.startswith(start + but) for key in keys)

    def listing(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """As of every store; the version is the ETag, without quotes."""
        start = f"{self.prefix}/" if self.prefix else ""
        found = self._list("list", prefix, start + prefix)
        facts = {item["Key"].removeprefix(start): (item["Size"], item["ETag"].strip('"')) for item in found}
        return {key: fact for key, fact in facts.items() if not key.endswith("/")}  # consoles put empty "folders"

    def folders(self, folder: str = "") -> list[str]:
        found = (item["Prefix"] for page in self._inside(folder) for item in page.get("CommonPrefixes", ()))
        return sorted(filter(None, (prefix.rstrip("/").rpartition("/")[2] for prefix in found)))

    def files(self, folder: str = "") -> list[str]:
        found = (item["Key"] for page in self._inside(folder) for item in page.get("Contents", ()))
        return sorted(filter(None, (key.rpartition("/")[2] for key in found)))

    def _inside(self, folder: str) -> Iterator[dict[str, Any]]:
        start = "/".join(filter(None, (self.prefix, folder)))
        return self._pages("list", folder, f"{start}/" if start else "", Delimiter="/")

    def etag(self, key: str) -> ETag:
        """An object's ETag as it is now; NotFound if there is none."""
        answer = self._head("look for", key)
        return ETag(answer["ETag"].strip('"'), "kms" in answer.get("ServerSideEncryption", ""))

    def delete(self, *keys: str) -> None:
        for first in range(0, len(keys), _DELETE_BATCH):
            self._delete(keys[first : first + _DELETE_BATCH])

    def move(self, src: str, dst: str) -> None:
        try:
            self._ask("move", src, lambda s3: s3.copy_object(**self.address(dst), CopySource=self.address(src)))
        except NotFound:
            if self.exists(dst):
                return
            raise
        self.delete(src)

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    def address(self, key: str) -> dict[str, str]:
        check_key(key)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}" if self.prefix else key}

    def put_if(self, action: str, key: str, data: bytes, **condition: str) -> bool:
        """Whether a put was done, of which the server is told the condition. Nothing is known of whether it looks."""

        def put(s3: Any) -> bool:
            try:
                s3.put_object(**self.address(key), Body=data, **condition)
            except ClientError as error:
                if status(error) == 412 or (status(error) == 404 and "IfMatch" in condition):  # 404: deleted meanwhile
                    return False
                raise
            return True

        if self._ask(action, key, put):
            return True
        # A put whose answer was lost is sent again, and then meets its own object: those are our bytes.
        try:
            return self.read(key) == data
        except NotFound:
            return False

    def write_in_parts(self, key: str, data: bytes, size: int) -> bool:
        """Each part of `size` bytes is sent again by itself where it is lost; one put takes 5 GB at most. False where
        the server has no such request."""
        place = self.address(key)
        try:
            upload = self._ask("write", key, lambda s3: s3.create_multipart_upload(**place)["UploadId"])
        except StorageError as error:
            if refusal_code(error):
                return False
            raise
        place["UploadId"] = upload

        def put(number: int) -> dict[str, Any]:
            body = data[(number - 1) * size : number * size]
            answer = self._ask("write", key, lambda s3: s3.upload_part(**place, PartNumber=number, Body=body))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
                parts = list(threads.map(put, range(1, -(-len(data) // size) + 1)))
            self._complete(key, place, parts, data)
        except BaseException:
            with suppress(StorageError):
                self._ask("clean up", key, lambda s3: s3.abort_multipart_upload(**place))
            raise
        return True

    def _complete(self, key: str, place: dict[str, str], parts: list[dict[str, Any]], data: bytes) -> None:
        try:
            self._ask("write", key, lambda s3: s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}))
        except StorageError as error:
            # Sent again as its answer was lost, it finds no such upload any more.
            lost = isinstance(error.__cause__, ClientError) and code(error.__cause__) == "NoSuchUpload"
            if not lost or self.read(key) != data:
                raise

    def _get(self, action: str, key: str, limit: int | None = None, **more: str) -> tuple[bytes, str]:
        """The bytes and the ETag, with its quotes. TooLarge."""

        def get(s3: Any) -> tuple[bytes, str]:
            answer = s3.get_object(**self.address(key), **more)
            if limit is not None and answer["ContentLength"] > limit:
                answer["Body"].close()
                raise TooLarge(self.uri(key), answer["ContentLength"])
            return answer["Body"].read(), answer["ETag"]

        return self._ask(action, key, get)

    def _head(self, action: str, key: str) -> dict[str, Any]:
        def head(s3: Any) -> dict[str, Any]:
            try:
                return s3.head_object(**self.address(key))
            except ClientError as error:
                if status(error) in _REFUSED:  # the answer to a HEAD has no body that says why
                    s3.get_object(**self.address(key), Range="bytes=0-0")["Body"].close()
                raise

        return self._ask(action, key, head)

    def _list(self, action: str, key: str, prefix: str) -> Iterator[dict[str, Any]]:
        for page in self._pages(action, key, prefix):
            yield from page.get("Contents", ())

    def _pages(self, action: str, key: str, prefix: str, **how: str) -> Iterator[dict[str, Any]]:
        """Each is a request of its own: of thousands, some may fail each time."""
        more: dict[str, str] = {}
        while True:
            ask = {"Bucket": self.bucket, "Prefix": prefix, **how, **more}
            page = self._ask(action, key, lambda s3, ask=ask: s3.list_objects_v2(**ask))
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _delete(self, keys: tuple[str, ...]) -> None:
        answering = server()
        if not answering.deletes_singly:
            try:
                return self._ask("delete", keys[0], partial(self._delete_together, keys))
            except StorageError as error:
                if not refusal_code(error):
                    raise
        with ThreadPoolExecutor(_DELETES_AT_ONCE) as threads:
            for _ in threads.map(self._delete_one, keys):
                pass
        answering.deletes_singly = True  # as it takes them so, what it held against the other was no mistake of ours

    def _delete_together(self, keys: tuple[str, ...], s3: Any) -> None:
        objects = [{"Key": self.address(key)["Key"]} for key in keys]
        answer = s3.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        for failed in answer.get("Errors", ()):
            if failed.get("Code") not in ABSENT:
                raise ClientError({"Error": failed}, f"DeleteObjects {failed.get('Key')}")

    def _delete_one(self, key: str) -> None:
        with suppress(NotFound):
            self._ask("delete", key, lambda s3: s3.delete_object(**self.address(key)))

    def _ask(self, action: str, key: str, request: Callable[[Any], T]) -> T:
        """What comes of a request, a function of the SDK's client. It is sent again while the server is away."""
        uri = self.uri(key)
        with reporting(action, uri):
            answering = server()
            try:
                return answering.patience.ask(lambda: request(answering.client), away)
            except ClientError as error:
                if code(error) not in EXPIRED or not renewed(answering):
                    raise
            answering = server()
            return answering.patience.ask(lambda: request(answering.client), away)

    def _check_conditions(self) -> None:
        """StorageError where a server does not keep what `create` and `replace` promise; asked once per bucket."""
        answering = server()
        if self.bucket in answering.trusted:
            return
        if broken := broken_condition(self):
            raise refusal(answering.endpoint, broken, self.root)
        answering.trusted.add(self.bucket)

    def _check_bucket(self) -> None:
        """A HEAD answer has no body: "no such key" and "no such bucket" look the same, so ask once."""
        if self._bucket_seen:
            return

        def head(s3: Any) -> None:
            try:
                s3.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if code(error) in ABSENT:
                    raise ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket") from error
                if status(error) in _REFUSED:
                    s3.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                raise

        self._ask("look into", "", head)
        self._bucket_seen = True
