"""What a manifest's uri stands for: one file, or the parts of a folder or a glob, and the bytes of each as a stream."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from darkroom.storage import LocalStore, NotFound, Store, StoredFile, open_store, spelt_otherwise
from darkroom.storage.paths import BAD_KEY, is_key, local_path

PIECE = 8 * 2**20  # bytes of a request
IN_MEMORY = 64 * 2**20  # bytes of a part that is wanted in any order; a larger one waits on disk
PART_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv")
NAMED_SUFFIXES = (".txt", ".json")  # parts only of a glob that ends so: folders hold others that are no rows
ALONE_SUFFIXES = (".yaml", ".yml")
PACKED = ".gz"
WILDCARD = re.compile(r"[*?\[]")
ALONE = "a YAML manifest is a file of its own, not a part of a folder or glob: give its path"


def suffix_of(name: str) -> str:
    """In lower case, with its dot; "" where there is none. Of a whole uri its last part counts; of a gzipped file what
    is packed."""
    name = file_name(name).lower()
    return PurePosixPath(name.removesuffix(PACKED)).suffix


def is_packed(name: str) -> bool:
    return name.lower().endswith(PACKED)


def file_name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Part:
    """One file of a manifest. name: what places call it, its path from the manifest's folder."""

    name: str
    store: Store
    key: str

    def open(self) -> StoredFile:
        """NotFound, also of what is no file; StorageError."""
        path = self.store.uri(self.key)
        if isinstance(self.store, LocalStore) and not _may_be_file(path):
            raise NotFound(f"could not read {path}: it is no file (a device, a pipe or a socket)")
        try:
            return StoredFile(self.store, self.key)
        except NotFound as error:
            if spelling := spelt_otherwise(path):
                raise NotFound(f"{error}{spelling}") from None
            self.store.read(self.key)  # says that it could not be read, where a size could not be looked for
            raise


@dataclass(frozen=True)
class Source:
    """Files of a manifest, in order. base: the folder that its relative paths start from; alone: it is one file by its
    own name; unread: files in the folder that cannot be a part of one, each with the reason."""

    uri: str
    base: str
    parts: tuple[Part, ...]
    alone: bool
    unread: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return file_name(self.uri) or self.uri

    def digest_now(self) -> str:
        """As `digest`, by reading all of it. NotFound, StorageError."""
        digests = {}
        for part in self.parts:
            hashing = Hashing(part.open())
            drain(as_stream(hashing))
            digests[part.name] = hashing.sha256.hexdigest()
        return self.digest(digests)

    def digest(self, digests: dict[str, str]) -> str:
        """From the SHA-256 of each part, by its name, that of the whole: of a file alone its own."""
        if self.alone:
            return next(iter(digests.values()), "")
        lines = [f"{digests[name]} {name}\n" for name in sorted(digests)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_parts(uri: str) -> Source:
    """Looks where `uri` points: a file, a folder at any depth, or a glob whose * stays within one name. ValueError
    where that can be no file; StorageError. A file is not looked for: opening it says what is wrong."""
    place = local_path(uri) if uri.startswith("file://") else uri  # an address spells a blank %20, in its last part too
    if WILDCARD.search(place) and not _is_there(place):
        return _of_folder(uri, *_fixed_and_pattern(place))
    if place.endswith("/") or _is_folder(place):
        return _of_folder(uri, place, None)
    folder, slash, name = place.rpartition("/")
    if name in ("", ".", "..") or folder in ("s3:/", "s3:"):
        raise ValueError(f"{uri!r} names no file: wanted a path, file:///path or s3://bucket/key")
    store = open_store(folder or slash or ".")
    # Absolute, because the workers that will open the images stand in other folders.
    base = folder if "://" in place else store.root
    return Source(uri, base, (Part(name, store, name),), alone=True)


def _of_folder(uri: str, folder: str, pattern: str | None) -> Source:
    store = open_store(folder)
    keys = [key for key in _keys(store, pattern) if not _hidden(key) and (pattern is None or _matches(key, pattern))]
    named = [suffix for suffix in NAMED_SUFFIXES if suffix == suffix_of(pattern or "")]
    wanted = [key for key in keys if suffix_of(key) in (*PART_SUFFIXES, *named)]
    parts = tuple(Part(key, store, key) for key in wanted if is_key(key))
    unread = [(key, BAD_KEY) for key in wanted if not is_key(key)]
    unread += [(key, ALONE) for key in keys if suffix_of(key) in ALONE_SUFFIXES]
    return Source(uri, store.root, parts, alone=False, unread=tuple(unread))


def _keys(store: Store, pattern: str | None) -> Iterable[str]:
    """Of files in a folder. pattern: those that it cannot match are not looked for, as far as that spares work."""
    if isinstance(store, LocalStore):
        return store.list_linked(lambda key: not _hidden(key) and (pattern is None or _leads_to(key, pattern)))
    return store.list(WILDCARD.split(pattern or "")[0])


def _may_be_file(path: str) -> bool:
    """Whether opening it does no more than to open a file: a pipe would wait for its writer, a device has no end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True  # opening it says what is wrong
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _is_there(uri: str) -> bool:
    """Whether a file or a folder of this machine has the very name, whatever signs are in it."""
    if "://" in uri:
        return False  # a key that holds a * has to be asked for by its folder
    folder, slash, name = uri.rstrip("/").rpartition("/")
    return os.path.exists(os.path.join(open_store(folder or slash or ".").root, name))


def _is_folder(uri: str) -> bool:
    if not uri.startswith("s3://"):
        return os.path.isdir(open_store(uri).root)
    # Keys that may read one object may not be allowed to list: a name like a file's is looked for first.
    folder, _, name = uri.rpartition("/")
    if suffix_of(name) and folder not in ("s3:/", "s3:") and open_store(folder).exists(name):
        return False
    return open_store(uri).has()


def _fixed_and_pattern(uri: str) -> tuple[str, str]:
    """`a/b/*/c*.csv` -> `a/b`, `*/c*.csv`."""
    names = uri.split("/")
    first = next(index for index, name in enumerate(names) if WILDCARD.search(name))
    return "/".join(names[:first]) or ("/" if uri.startswith("/") else "."), "/".join(names[first:])


def _matches(key: str, pattern: str) -> bool:
    names, wanted = key.split("/"), pattern.split("/")
    return len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))


def _leads_to(folder: str, pattern: str) -> bool:
    """Whether files in it, or further inside, may match."""
    names, wanted = folder.split("/"), pattern.split("/")[:-1]
    return len(names) <= len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))


def _hidden(key: str) -> bool:
    """Programs that write folders of Parquet leave such beside it (_SUCCESS, _metadata, .part.crc)."""
    return any(name.startswith(("_", ".")) and name not in (".", "..") for name in key.split("/"))


class Hashing(io.RawIOBase):
    """A file read from its beginning to its end, whose SHA-256 is taken on the way."""

    def __init__(self, file: io.RawIOBase | BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer)) or b""
        buffer[: len(data)] = data
        self.sha256.update(data)
        return len(data)


def as_stream(file: Hashing) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(file, PIECE))


def in_any_order(part: Part, stream: BinaryIO) -> BinaryIO:
    """A part, whose stream begins, as a file to seek in. A local one is read twice; another waits in memory, or on disk
    where it is large, so that no byte is asked for twice."""
    if isinstance(part.store, LocalStore):
        drain(stream)
        return cast(BinaryIO, part.open())
    # The file lives until its last reader lets go of it.
    kept = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
    shutil.copyfileobj(stream, kept, PIECE)
    kept.seek(0)
    return cast(BinaryIO, kept)


def drain(stream: BinaryIO) -> None:
    """Reads what is left, for the sake of the digest."""
    while stream.read(PIECE):
        pass
