"""Where a model's files lie: a local folder, a folder of a bucket, a repository of the Hugging Face hub.

A source is named by an address: a path, s3://bucket/prefix or hf://owner/name, each with @revision behind it where one
is meant. To plan, only listings and small files are read; `fetch` brings what is asked for to this machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from darkroom.models.errors import ModelError
from darkroom.models.node_cache import S3Listing, fetch_from_s3, remember, usable
from darkroom.storage import LocalStore, NotFound, open_store

HUB = "hf://"
_LARGE = 2**24  # bytes: hashing them takes a hundredth of a second, and a cascade has 30 GB to be hashed by each worker
_REVISION = re.compile(r"(?P<place>.+)@(?P<revision>[0-9a-f]{7,64})")


class Source(Protocol):
    """A folder of files, named relative to it with "/". Raises ModelError, or StorageError when storage fails."""

    address: str

    @property
    def pinned(self) -> str:
        """The address by which another process gets the same files, or an error."""

    def names(self) -> frozenset[str]:
        """Every file, but for those of formats that are never opened here (pickles, and other frameworks' weights)."""

    def read(self, name: str) -> bytes:
        """A small file; ModelError if there is none."""

    def fetch(self, names: Iterable[str]) -> Path:
        """A local folder in which these files lie; ModelError names the first that is missing."""

    def digest(self, folders: Sequence[str]) -> str:
        """Hex digits that change when a file in one of these folders does."""

    def within(self, folder: str) -> Source:
        """The files of a folder."""


def open_source(address: str) -> Source:
    """The source of that address. A revision given with it must be the one that lies there, else ModelError."""
    if address.startswith(HUB):
        # Here and not at the top: only those who ask the hub need pay for its client.
        from darkroom.models.hub import open_repository

        return open_repository(address)
    place, revision = split_revision(address)
    store = open_store(place)
    source = LocalFolder(store.root) if isinstance(store, LocalStore) else S3Folder(store.root)
    if revision:
        source.check(revision)
    return source


def split_revision(address: str) -> tuple[str, str]:
    """A path or s3:// uri without the hexadecimal @revision behind it, and that revision, "" where there is none."""
    found = None if Path(address).is_dir() else _REVISION.fullmatch(address)
    return (found["place"], found["revision"]) if found else (address, "")


def read_json(source: Source, name: str) -> dict[str, Any]:
    """A JSON object of the source. ModelError names the file."""
    try:
        value = json.loads(source.read(name))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{source.address}/{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{source.address}/{name} is not a JSON object")
    return value


class LocalFolder:
    """A folder of this machine, or of a disk that all machines see."""

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        self.address = str(self.root)

    @property
    def pinned(self) -> str:
        return self.address  # its digest would have every process read every weight

    def names(self) -> frozenset[str]:
        return usable(LocalStore(self.address).list())

    def read(self, name: str) -> bytes:
        try:
            return LocalStore(self.address).read(name)
        except NotFound:
            raise _missing(self, name) from None

    def fetch(self, names: Iterable[str]) -> Path:
        for name in names:
            if not (self.root / name).is_file():
                raise _missing(self, name)
        return self.root

    def digest(self, folders: Sequence[str]) -> str:
        """SHA-256 over the contents of the files."""
        chosen = [name for name in sorted(self.names()) if _in_one_of(name, folders)]
        with ThreadPoolExecutor(8) as threads:
            sums = threads.map(lambda name: file_sha256(self.root / name), chosen)
            lines = [f"{found}  {name}\n" for found, name in zip(sums, chosen, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def within(self, folder: str) -> LocalFolder:
        return LocalFolder(str(self.root / folder))

    def check(self, revision: str) -> None:
        """ModelError unless the digest of everything here begins with that."""
        check_revision(self.address, self.digest([""]), revision)


class S3Folder:
    """A prefix of a bucket; files are fetched once per machine into its cache, see `node_cache`."""

    def __init__(self, uri: str, listing: S3Listing | None = None) -> None:
        self.address = uri
        self._given = listing

    @cached_property
    def _listing(self) -> S3Listing:
        return self._given or S3Listing.of(self.address)

    @property
    def pinned(self) -> str:
        return f"{self.address}@{self.digest([''])[:16]}"

    def names(self) -> frozenset[str]:
        return usable(self._listing.files)

    def read(self, name: str) -> bytes:
        try:
            return open_store(self.address).read(name)
        except NotFound:
            raise _missing(self, name) from None

    def fetch(self, names: Iterable[str]) -> Path:
        wanted = list(names)
        for name in wanted:
            if name not in self._listing.files:
                raise _missing(self, name)
        return fetch_from_s3(self._listing, wanted)

    def digest(self, folders: Sequence[str]) -> str:
        """SHA-256 over sizes and ETags: nothing is downloaded."""
        return self._listing.digest([name for name in sorted(self.names()) if _in_one_of(name, folders)])

    def within(self, folder: str) -> S3Folder:
        return S3Folder(f"{self.address}/{folder}", self._listing.within(folder))

    def check(self, revision: str) -> None:
        """ModelError unless the digest of everything here begins with that."""
        check_revision(self.address, self.digest([""]), revision)


def check_revision(address: str, found: str, wanted: str) -> None:
    """ModelError unless what was found at the address begins with the revision that is wanted; both are hexadecimal."""
    if not found.startswith(wanted):
        raise ModelError(f"{address} has the revision {found[: max(len(wanted), 16)]}, and {wanted} was asked for")


def _missing(source: Source, name: str) -> ModelError:
    return ModelError(f"the model has no file {source.address}/{name}")


def _in_one_of(name: str, folders: Sequence[str]) -> bool:
    return any(not folder or name.startswith(f"{folder}/") for folder in folders)


def folder_digest(source: Source) -> str:
    """Hex digits of all that lies there. Of the hub that is the commit of a whole repository, in whose other folders
    other models may lie."""
    found, folder = source.digest([""]), getattr(source, "folder", "")
    return hashlib.sha256(f"{found} {folder}".encode()).hexdigest() if folder else found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex; a large one's is remembered on this machine as long as its size and times stay."""
    path = path.absolute()
    found = path.stat()
    if found.st_size < _LARGE:
        return _sha256(path)
    facts = f"{path} {found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}"
    return remember("digests", facts, lambda: _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
