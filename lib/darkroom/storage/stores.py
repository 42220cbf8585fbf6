"""Where bytes lie: one vocabulary of a few verbs over local folders and S3-compatible buckets."""

from __future__ import annotations

import fcntl
import os
import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from darkroom.storage.errors import NotFound, from_os

_TEMPORARY = ".tmp-"
_FORMS = "a path, file:///path or s3://bucket/prefix"


class Store(Protocol):
    """A folder or bucket prefix. Keys are relative, "/"-separated, without "." or ".." parts.

    Every verb raises StorageError when the environment fails, and NotFound where something asked for is absent.
    A store pickles as its uri alone: clients are built in the process that uses them.
    """

    root: str

    def read(self, key: str) -> bytes:
        """The bytes at `key`; NotFound if there are none."""

    def size(self, key: str) -> int:
        """How many bytes lie at `key`; NotFound if there are none."""

    def read_part(self, key: str, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fewer where the object ends; NotFound if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Put or replace; a reader sees the old bytes or the new ones, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Put only if nothing is there: of all who try, exactly one is told True.

        Writers who race must bring different bytes (a nonce will do): on S3 a lost answer is told from a lost race by
        comparing what lies there with what was sent.
        """

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` only if the bytes at `key` are `old`: of all who try so at once, exactly one is told True.

        As with `create`, writers who race must bring different bytes, and none that were there before.
        """

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key that begins with `prefix` (a string prefix, not a folder), sorted, at any depth.

        The keys are held in memory while they are handed out, about 100 bytes each: list a million by parts.
        """

    def delete(self, *keys: str) -> None:
        """Remove; a key that is missing is fine."""

    def move(self, src: str, dst: str) -> None:
        """Rename, replacing `dst`. Done already (no `src`, but `dst` is there) counts as done; neither: NotFound."""

    def uri(self, key: str) -> str:
        """The absolute path or s3:// uri of a key, as `read_uri` takes it."""


def open_store(uri: str) -> Store:
    """A store rooted at a local folder (path or file://) or at s3://bucket[/prefix]. Nothing is contacted or made."""
    if uri.startswith("s3://"):
        # Here and not at the top: boto3 costs a third of a second, which local runs need not pay.
        from darkroom.storage.s3 import S3Store

        return S3Store(uri)
    return LocalStore(uri)


def read_uri(uri: str) -> bytes:
    """The bytes at one absolute path, file:// or s3:// uri. NotFound if absent; ValueError if `uri` names no object."""
    folder, _, name = uri.rpartition("/") if uri.startswith("s3://") else _local_path(uri).rpartition("/")
    if name in ("", ".", "..") or folder in ("s3:/", "s3:"):
        raise ValueError(f"{uri!r} names no file: wanted a path, file:///path or s3://bucket/key")
    return open_store(folder or "/").read(name)


def join(base_uri: str, relative: str) -> str:
    """What `relative` means to a reader in the folder `base_uri`; absolute paths and uris stay as they are."""
    if "://" in relative or relative.startswith("/"):
        return relative
    if not base_uri.startswith("s3://"):
        return os.path.normpath(posixpath.join(_local_path(base_uri), relative))
    bucket, _, prefix = base_uri.removeprefix("s3://").partition("/")
    key = posixpath.normpath(posixpath.join(prefix, relative))
    if key.split("/")[0] == "..":
        raise ValueError(f"{relative!r} climbs out of the bucket: it was read relative to {base_uri}")
    return f"s3://{bucket}/{key}"


def check_key(key: str) -> str:
    """Keys are made by this program, so a bad one is our own bug."""
    assert key and not {"", ".", ".."} & set(key.split("/")), f"not a storage key: {key!r}"
    return key


def _local_path(uri: str) -> str:
    """An absolute path: workers of a cluster do not share the caller's working directory."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{uri!r} names the host {host!r}: wanted file:///path")
        return os.path.abspath("/" + unquote(path))
    if separator:
        raise ValueError(f"{uri!r} has the unknown scheme {scheme!r}: wanted {_FORMS}")
    if not uri:
        raise ValueError(f"an empty path was given: wanted {_FORMS}")
    return os.path.abspath(os.path.expanduser(uri))


class LocalStore:
    """A folder; it is made by the first write. Safe against a killed process; not flushed against a power cut."""

    def __init__(self, uri: str) -> None:
        self.root = _local_path(uri)

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r})"

    def read(self, key: str) -> bytes:
        with self._reporting("read", key):
            return self._path(key).read_bytes()

    def size(self, key: str) -> int:
        with self._reporting("look for", key):
            return self._path(key).stat().st_size

    def read_part(self, key: str, start: int, count: int) -> bytes:
        with self._reporting("read", key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def write(self, key: str, data: bytes) -> None:
        with self._reporting("write", key), self._temporary(key, data) as temporary:
            os.replace(temporary, self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        # A hard link, because open(..., "x") would show others an empty or half-written file.
        with self._reporting("create", key), self._temporary(key, data) as temporary:
            try:
                os.link(temporary, self._path(key))
            except FileExistsError:
                return False
            return True

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        path = self._path(key)
        with self._reporting("replace", key), self._temporary(key, new) as temporary, _locked(path.parent):
            try:
                if path.read_bytes() != old:
                    return False
            except FileNotFoundError:
                return False
            os.replace(temporary, path)
            return True

    def exists(self, key: str) -> bool:
        try:
            with self._reporting("look for", key):
                self._path(key).stat()
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        start = Path(self.root, posixpath.dirname(prefix))
        found: list[str] = []
        with self._reporting("list", prefix):
            for folder, _, names in os.walk(start, onerror=_raise_unless_absent):
                inside = os.path.relpath(folder, self.root).replace(os.sep, "/")
                keys = (name if inside == "." else f"{inside}/{name}" for name in names)
                found += [k for k in keys if k.startswith(prefix) and not posixpath.basename(k).startswith(_TEMPORARY)]
        yield from sorted(found)

    def delete(self, *keys: str) -> None:
        for key in keys:
            with self._reporting("delete", key):
                self._path(key).unlink(missing_ok=True)

    def move(self, src: str, dst: str) -> None:
        target = self._path(dst)
        with self._reporting("move", src):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(self._path(src), target)
            except FileNotFoundError:
                if not target.exists():
                    raise

    def uri(self, key: str) -> str:
        return posixpath.join(self.root, key)

    def _path(self, key: str) -> Path:
        return Path(self.root, check_key(key))

    @contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[Path]:
        """`data` in a file beside `key` (a rename must not cross file systems), gone when the block ends.

        Its name begins with a dot: Parquet readers that are pointed at the folder pass over it.
        """
        path = self._path(key)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _reporting(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise from_os(error, action, self.uri(key)) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that lock this folder; the lock ends with its process. It leaves no file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _raise_unless_absent(error: OSError) -> None:
    # os.walk is silent by default; only a folder that is not (or no longer) there may be passed over.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
