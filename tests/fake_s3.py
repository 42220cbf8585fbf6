"""A small S3 in memory that lets everybody in, and does what servers that are not AWS's are known to do."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from loopback import Loopback

_CONDITIONS = ("If-None-Match", "If-Match")
_XML = {"Content-Type": "application/xml"}


class FakeS3(Loopback):
    """quirks: "ignores conditions", "refuses conditions", "ignores If-Match", "wants md5", "no multi-delete",
    "no multipart", "ignores md5", "expired" (for every request). skew: seconds that its clock is ahead. expired: keys
    whose time is over."""

    def __init__(self, *quirks: str, skew: float = 0.0) -> None:
        self.quirks, self.skew = set(quirks), skew
        self.objects: dict[str, bytes] = {}  # by bucket/key
        self.parts: dict[str, dict[int, bytes]] = {}  # by upload
        self.requests: list[str] = []
        self.expired: set[str] = set()
        self.lock = threading.Lock()
        super().__init__(_Handler, "s3")

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_S3": self.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class _Handler(BaseHTTPRequestHandler):
    s3: FakeS3
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        self.s3.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        name, words = unquote(url.path).lstrip("/"), dict(parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        if "expired" in self.s3.quirks or key in self.s3.expired:
            return self._refuse(400, "ExpiredToken")
        with self.s3.lock:
            getattr(self, f"_{self.command.lower()}")(name, words, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

    def _put(self, name: str, words: dict[str, str], body: bytes) -> None:
        objects = self.s3.objects
        if "partNumber" in words:
            self.s3.parts[words["uploadId"]][int(words["partNumber"])] = body
            return self._answer(200, ETag=_etag(body))
        if source := self.headers.get("x-amz-copy-source"):
            if (source := unquote(source).lstrip("/")) not in objects:
                return self._refuse(404, "NoSuchKey")
            objects[name] = objects[source]
            return self._answer(
                200, f"<CopyObjectResult><ETag>{_etag(objects[name])}</ETag></CopyObjectResult>", **_XML
            )
        wanted, md5 = self._is_wanted(name), self.headers.get("Content-MD5")
        if wanted is None:
            return self._refuse(501, "NotImplemented")
        if md5 and md5 != _md5(body) and "ignores md5" not in self.s3.quirks:
            return self._refuse(400, "BadDigest")
        if not wanted:
            return self._refuse(412, "PreconditionFailed")
        objects[name] = body
        self._answer(200, ETag=_etag(body))

    def _is_wanted(self, name: str) -> bool | None:
        """Whether a put's condition holds; None where the server knows none."""
        new, match = (self.headers.get(condition) for condition in _CONDITIONS)
        quirks, objects = self.s3.quirks, self.s3.objects
        if (new or match) and "refuses conditions" in quirks:
            return None
        if "ignores conditions" in quirks or (match and "ignores If-Match" in quirks):
            return True
        return not (new and name in objects) and not (match and _etag(objects.get(name)) != match)

    def _get(self, name: str, words: dict[str, str], body: bytes) -> None:
        if "list-type" in words or "/" not in name:
            return self._list(name.split("/")[0], words.get("prefix", ""))
        if name not in self.s3.objects:
            return self._refuse(404, "NoSuchKey")
        data = self.s3.objects[name]
        if asked := self.headers.get("Range"):
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups()
            part = data[int(first) : int(last) + 1]
            about = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}", "ETag": _etag(data)}
            return self._answer(206, part, **about)
        self._answer(200, data, ETag=_etag(data))

    def _list(self, bucket: str, prefix: str) -> None:
        rows = "".join(
            f"<Contents><Key>{quote(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
            for name, data in (
                (full.removeprefix(f"{bucket}/"), data)
                for full, data in sorted(self.s3.objects.items())
                if full.startswith(f"{bucket}/{prefix}")
            )
        )
        about = f"<Name>{bucket}</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{about}{rows}</ListBucketResult>", **_XML)

    def _head(self, name: str, words: dict[str, str], body: bytes) -> None:
        if "/" in name and name not in self.s3.objects:
            return self._answer(404)
        data = self.s3.objects.get(name, b"")
        self._answer(200, data, ETag=_etag(data))

    def _delete(self, name: str, words: dict[str, str], body: bytes) -> None:
        if "uploadId" in words:
            self.s3.parts.pop(words["uploadId"], None)
        else:
            self.s3.objects.pop(name, None)
        self._answer(204)

    def _post(self, name: str, words: dict[str, str], body: bytes) -> None:
        if "delete" in words:
            return self._delete_many(name.split("/")[0], body)
        if "no multipart" in self.s3.quirks:
            return self._refuse(501, "NotImplemented")
        if "uploads" in words:
            upload = f"upload-{len(self.s3.requests)}"
            self.s3.parts[upload] = {}
            answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self._answer(200, answer, **_XML)
        if words["uploadId"] not in self.s3.parts:
            return self._refuse(404, "NoSuchUpload")
        self.s3.objects[name] = b"".join(data for _, data in sorted(self.s3.parts.pop(words["uploadId"]).items()))
        answer = '<CompleteMultipartUploadResult><ETag>"0-2"</ETag></CompleteMultipartUploadResult>'
        self._answer(200, answer, **_XML)

    def _delete_many(self, bucket: str, body: bytes) -> None:
        if "no multi-delete" in self.s3.quirks:
            return self._refuse(501, "NotImplemented")
        if "wants md5" in self.s3.quirks and self.headers.get("Content-MD5") != _md5(body):
            return self._refuse(400, "MissingContentMD5")
        for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
            self.s3.objects.pop(f"{bucket}/{unescape(key)}", None)
        self._answer(200, "<DeleteResult></DeleteResult>", **_XML)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", **_XML)

    def _answer(self, status: int, body: bytes | str = b"", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.s3.skew, usegmt=True)

    def log_message(self, *ignored: object) -> None:
        pass


def _etag(data: bytes | None) -> str:
    return "" if data is None else f'"{hashlib.md5(data).hexdigest()}"'


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()
