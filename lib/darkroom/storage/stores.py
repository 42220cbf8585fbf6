"""Where bytes lie: one vocabulary of a few verbs over local folders and S3-compatible buckets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from darkroom.storage.local import LocalStore
from darkroom.storage.paths import BAD_KEY, local_path


class Store(Protocol):
    """A folder or bucket prefix. Keys are relative, "/"-separated, without "." or ".." parts.

    Every verb raises StorageError when the environment fails, and NotFound where something asked for is absent.
    A store pickles as its uri alone: clients are built in the process that uses them.
    """

    root: str

    def read(self, key: str, limit: int | None = None) -> bytes:
        """The bytes at `key`; NotFound if there are none, TooLarge where they are more than `limit`."""

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

    def has(self, prefix: str = "", but: str | None = None) -> bool:
        """Whether `list` gives anything that does not begin with `but`; a bucket is asked for no more keys than the
        first of its answers that has one."""

    def listing(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """What `list` gives -> its size in bytes and its version, a text that changes when the content is written."""

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in `folder` ("": the root), sorted; what lies in them is not walked. None
        where there is no such folder."""

    def files(self, folder: str = "") -> list[str]:
        """The names of the files directly in `folder`, as of `folders`."""

    def delete(self, *keys: str) -> None:
        """Remove; a key that is missing is fine."""

    def move(self, src: str, dst: str) -> None:
        """Rename, replacing `dst`. Done already (no `src`, but `dst` is there) counts as done; neither: NotFound."""

    def uri(self, key: str) -> str:
        """The absolute path or s3:// uri of a key, as `read_uri` takes it."""


def write_folder(store: Store, folder: Path) -> None:
    """Every file of a folder on this machine, at its path within it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.write(path.relative_to(folder).as_posix(), path.read_bytes())


def open_store(uri: str) -> Store:
    """A store rooted at a local folder (path or file://) or at s3://bucket[/prefix]. Nothing is contacted or made."""
    if uri.startswith("s3://"):
        # Here and not at the top: boto3 costs a third of a second, which local runs need not pay.
        from darkroom.storage.s3 import S3Store

        return S3Store(uri)
    return LocalStore(uri)


def read_uri(uri: str, limit: int | None = None) -> bytes:
    """The bytes at one absolute path, file:// or s3:// uri. NotFound if absent; TooLarge where they are more than
    `limit`; ValueError if `uri` names no object."""
    store, name = _folder_and_name(uri)
    return store.read(name, limit)


def folder_of(uri: str) -> str:
    """The folder or prefix that a file lies in, absolute. ValueError if `uri` names no file."""
    return _folder_and_name(uri)[0].root


def write_uri(uri: str, data: bytes) -> None:
    """Writes the bytes at one path, file:// or s3:// uri. ValueError if `uri` names no object."""
    store, name = _folder_and_name(uri)
    store.write(name, data)


def _folder_and_name(uri: str) -> tuple[Store, str]:
    folder, _, name = uri.rpartition("/") if uri.startswith("s3://") else local_path(uri).rpartition("/")
    if name in ("", ".", "..") or folder in ("s3:/", "s3:"):
        raise ValueError(f"{uri!r} names no file: wanted a path, file:///path or s3://bucket/key")
    if uri.startswith("s3://") and folder.endswith("/"):  # of which a store makes another key, with one slash
        raise ValueError(f"{uri}: {BAD_KEY}")
    return open_store(folder or "/"), name
