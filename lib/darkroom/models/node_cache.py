"""What a machine keeps of models, for all of its processes: files of a bucket, and facts that take long to find.

Both come once, by one process, while the others wait. A file lies in the cache under its own name only when it is whole
and its checksum was right; until then it is NAME.part, at whose end a broken-off download goes on. The folder's name
holds the digest of the listing, so objects that change make another folder, and the parts of one state are never
continued with those of another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from darkroom.storage import NotFound, StorageError, open_store
from darkroom.storage.errors import from_os

SUMS = "SHA256SUMS"  # as `sha256sum` writes it, beside the files
_PIECE = 64 * 2**20  # bytes a request asks for
_STREAMS = 4


@dataclass(frozen=True, eq=False)
class S3Listing:
    """What lay under an s3:// uri when it was looked at. files: name -> (size in bytes, ETag)."""

    uri: str
    files: dict[str, tuple[int, str]]
    above: tuple[S3Listing, str] | None = None  # the listing this is a folder of, and the folder's name

    @classmethod
    def of(cls, uri: str) -> S3Listing:
        from darkroom.storage.s3 import S3Store

        return cls(uri, S3Store(uri).listing())

    def within(self, folder: str) -> S3Listing:
        """The part of a folder."""
        inside = {n.removeprefix(f"{folder}/"): fact for n, fact in self.files.items() if n.startswith(f"{folder}/")}
        return S3Listing(f"{self.uri}/{folder}", inside, (self, folder))

    def digest(self, names: Sequence[str]) -> str:
        """SHA-256, hex, over names, sizes and ETags."""
        lines = [f"{name} {self.files[name][0]} {self.files[name][1]}\n" for name in names]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def sums(self) -> dict[str, str]:
        """name -> SHA-256 as SHA256SUMS has it, the folder's own or one above; empty where there is none."""
        if SUMS in self.files:
            lines = (line.split(maxsplit=1) for line in open_store(self.uri).read(SUMS).decode().splitlines() if line)
            return {name.strip().lstrip("*").removeprefix("./"): found for found, name in lines}
        if self.above is None:
            return {}
        listing, folder = self.above
        return {n.removeprefix(f"{folder}/"): s for n, s in listing.sums.items() if n.startswith(f"{folder}/")}


def cache_folder() -> Path:
    """Where this machine keeps fetched models: DARKROOM_CACHE, or ~/.cache/darkroom."""
    return Path(os.environ.get("DARKROOM_CACHE") or Path.home() / ".cache/darkroom").absolute()


def remember(kind: str, says: str, find: Callable[[], Any]) -> Any:
    """What `find` finds (JSON), looked up in this machine's cache by all that it depends on, `says`. Of several
    processes that ask at once one finds it, and the others wait. A cache that cannot be written is no loss."""
    path = cache_folder() / kind / f"{hashlib.sha256(says.encode()).hexdigest()[:32]}.json"
    if (known := _recall(path, says)) is not None:
        return known[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if (known := _recall(path, says)) is None:
                known = [find()]
                part = path.with_suffix(".part")
                part.write_text(json.dumps({"for": says, "is": known[0]}))
                os.replace(part, path)
        return known[0]
    except OSError:
        return known[0] if known else find()


def _recall(path: Path, says: str) -> list[Any] | None:
    """[what is kept there], None for nothing of the kind."""
    try:
        kept = json.loads(path.read_text())
        return [kept["is"]] if kept["for"] == says else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fetch_from_s3(listing: S3Listing, names: Sequence[str]) -> Path:
    """The folder of the cache in which these files of the listing lie, whole. Raises StorageError."""
    place = hashlib.sha256(listing.uri.encode()).hexdigest()[:8]
    folder = cache_folder() / "s3" / f"{place}-{listing.digest(sorted(listing.files))[:16]}"
    try:
        with ThreadPoolExecutor(_STREAMS) as threads:
            list(threads.map(lambda name: _fetch(listing, name, folder / name), names))
    except OSError as error:
        raise from_os(error, "write", str(folder)) from error
    return folder


def _fetch(listing: S3Listing, name: str, path: Path) -> None:
    size = listing.files[name][0]
    if _is_whole(path, size):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is the operating system's: it goes when its holder dies, however that comes.
    with FileLock(f"{path}.lock"):
        if not _is_whole(path, size):
            _download(listing, name, path)


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _download(listing: S3Listing, name: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    went_on = part.exists() and part.stat().st_size > 0
    _append(listing, name, part)
    if not _is_right(listing, name, part):
        part.unlink()
        if not went_on:
            raise StorageError(
                f"{listing.uri}/{name} did not arrive as it should: its checksum differs; check {SUMS} and the object"
            )
        # What an earlier process left was wrong, as after a power cut: once more from the start.
        return _download(listing, name, path)
    os.replace(part, path)


def _append(listing: S3Listing, name: str, part: Path) -> None:
    store, (size, _) = open_store(listing.uri), listing.files[name]
    with part.open("ab") as file, _noticing_change(listing, name):
        while file.tell() < size:
            piece = store.read_part(name, file.tell(), min(_PIECE, size - file.tell()))
            if not piece:
                raise NotFound(f"{listing.uri}/{name} ended early")
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _is_right(listing: S3Listing, name: str, part: Path) -> bool:
    """SHA-256 where the folder says it; else the MD5 that an ETag is, unless the object was put in several parts."""
    from darkroom.storage.s3 import S3Store

    size, etag = listing.files[name]
    if part.stat().st_size != size:
        return False
    if name in listing.sums:
        return _file_digest(part, "sha256") == listing.sums[name]
    with _noticing_change(listing, name):
        now = S3Store(listing.uri).etag(name)
        if now.value != etag:
            part.unlink()  # of two states
            raise NotFound(f"{listing.uri}/{name} is another object")
    return not now.is_md5 or _file_digest(part, "md5") == etag


@contextmanager
def _noticing_change(listing: S3Listing, name: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        changed = f"{listing.uri}/{name} has changed since the run began; start the run again"
        raise StorageError(changed) from None


def _file_digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
