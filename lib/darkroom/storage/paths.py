"""Uris, paths and keys, as texts."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from contextlib import suppress
from urllib.parse import unquote

BAD_KEY = "its key has an empty part, '.' or '..' between slashes, as no folder can have: copy it to another key"
_FORMS = "a path, file:///path or s3://bucket/prefix"
# s3:/bucket, s3//bucket, S3://bucket, s3a://bucket: without a word they would be folders of these names. What a caller
# made absolute has a folder before it.
_NEARLY_S3 = re.compile(r"^\s*s3[an]?(:/*|//+)|/s3[an]?:(/+|$)", re.IGNORECASE)
_ELSEWHERE = {"gs", "gcs", "http", "https", "az", "abfs", "abfss", "wasb", "wasbs", "hdfs", "oss", "cos", "minio", "r2"}
_ONE_SLASH = re.compile(rf"(?:{'|'.join(sorted(_ELSEWHERE))}|file):/", re.IGNORECASE)


def join(base_uri: str, relative: str) -> str:
    """What `relative` means to a reader in the folder `base_uri`; absolute paths and uris stay as they are."""
    if "://" in relative or relative.startswith("/"):
        return relative
    _refuse_nearly_s3(relative)
    if not base_uri.startswith("s3://"):
        return os.path.normpath(posixpath.join(local_path(base_uri), relative))
    bucket, _, prefix = base_uri.removeprefix("s3://").partition("/")
    key = posixpath.normpath(posixpath.join(prefix, relative))
    if key.split("/")[0] == "..":
        raise ValueError(f"{relative!r} climbs out of the bucket: it was read relative to {base_uri}")
    return f"s3://{bucket}/{key}"


def without_secrets(uri: str) -> str:
    """The uri as it may be shown: without a name and password before its host, nor a query, which may be signed."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    rest, question, _ = rest.partition("?")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{'?...' if question else ''}"


def spelt_otherwise(path: str) -> str:
    """What to say where nothing is at this local path, but something by the same letters in another of Unicode's
    spellings, as macOS writes accents; else ""."""
    folder, name = os.path.split(path)
    if "://" in path or name.isascii():
        return ""
    with suppress(OSError, ValueError):
        if any(_composed(other) == _composed(name) for other in os.listdir(folder or ".")):
            return "; what is there by these letters has its accents spelt otherwise (Unicode NFC and NFD): rename it"
    return ""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def is_key(key: str) -> bool:
    """Whether a store takes it. Others may have put objects into a bucket by keys that no folder could have."""
    return not {"", ".", ".."} & set(key.split("/"))


def check_key(key: str) -> str:
    """Keys are made by this program, so a bad one is our own bug."""
    assert is_key(key), f"not a storage key: {key!r}"
    return key


def local_path(uri: str) -> str:
    """An absolute path: workers of a cluster do not share the caller's working directory."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{uri!r} names the host {host!r}: wanted file:///path")
        return os.path.abspath("/" + unquote(path))
    _refuse_nearly_s3(uri)
    if separator:
        server = " (another server's buckets too: AWS_ENDPOINT_URL_S3 is its address)" if scheme in _ELSEWHERE else ""
        raise ValueError(f"{without_secrets(uri)!r} has the unknown scheme {scheme!r}: wanted {_FORMS}{server}")
    if slashed := _ONE_SLASH.match(uri):
        raise ValueError(f"{without_secrets(uri)!r} begins as an address does, {slashed[0]!r}: wanted {_FORMS}")
    if not uri:
        raise ValueError(f"an empty path was given: wanted {_FORMS}")
    return os.path.abspath(os.path.expanduser(uri))


def _refuse_nearly_s3(uri: str) -> None:
    if found := _NEARLY_S3.search(uri):
        meant = without_secrets(f"s3://{uri[found.end() :].lstrip('/') or 'bucket/prefix'}")
        shown = without_secrets(uri)
        raise ValueError(f"{shown!r} is no bucket, and looks like one: did you mean {meant}? Wanted {_FORMS}")
