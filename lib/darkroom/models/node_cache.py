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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from darkroom.storage import NotFound, StorageError, open_store
from darkroom.storage.errors import from_os

if TYPE_CHECKING:
    from darkroom.storage.s3 import S3Store

SUMS = "SHA256SUMS"  # as `sha256sum` writes it, beside the files
# A server or the way to it limits each connection, not their sum. Together: 4 * 8 * 8 MB in memory at the most, and as
# many connections as the client of `storage.s3` keeps.
_PIECE = 8 * 2**20  # bytes a request asks for
_REQUESTS = 8  # at once, for each file
_FILES = 4  # at once
_UNUSABLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".onnx_data", ".lock", ".part")


def usable(names: Iterable[str]) -> frozenset[str]:
    """The names whose files may be opened, or fetched at all."""
    return frozenset(name for name in names if not name.endswith(_UNUSABLE))


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
        with ThreadPoolExecutor(_FILES) as threads:
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
    from darkroom.storage.s3 import S3Store

    store, (size, etag) = S3Store(listing.uri), listing.files[name]
    part = path.with_name(f"{path.name}.part")
    continued = part.exists() and part.stat().st_size > 0
    with _noticing_change(listing, name):
        now = store.etag(name)
        if now.value != etag:
            raise NotFound(f"{listing.uri}/{name} is another object")
        # SHA-256 where the folder says it; else the MD5 that an ETag is, unless the object was put in several parts.
        kind, wanted = ("sha256", listing.sums[name]) if name in listing.sums else ("md5", etag)
        digest = hashlib.new(kind, usedforsecurity=False) if kind == "sha256" or now.is_md5 else None
        _append(store, name, (size, etag), part, digest)
    if part.stat().st_size == size and (digest is None or digest.hexdigest() == wanted):
        os.replace(part, path)
        return
    part.unlink()
    if not continued:
        raise StorageError(
            f"{listing.uri}/{name} did not arrive as it should: its checksum differs; check {SUMS} and the object"
        )
    # What an earlier process left was wrong, as after a power cut: once more from the start.
    _download(listing, name, path)


def _append(store: S3Store, name: str, fact: tuple[int, str], part: Path, digest: Any) -> None:
    """Writes what `part` lacks of the object. All of its bytes pass through the digest (of hashlib) on the way."""
    with part.open("a+b") as file:
        file.seek(0)
        while digest and (written := file.read(_PIECE)):
            digest.update(written)
        for piece in _pieces(store, name, fact, file.seek(0, os.SEEK_END)):
            file.write(piece)
            if digest:
                digest.update(piece)
        file.flush()
        os.fsync(file.fileno())


def _pieces(store: S3Store, name: str, fact: tuple[int, str], start: int) -> Iterator[bytes]:
    """An object's bytes from `start` on, in order. Ranges are asked for ahead, and no more of them wait in memory."""
    size, etag = fact
    starts = iter(range(start, size, _PIECE))

    def ask(first: int) -> Future[bytes]:
        return threads.submit(store.read_range, name, first, min(_PIECE, size - first), etag)

    with ThreadPoolExecutor(_REQUESTS) as threads:
        pending = deque(ask(first) for first in islice(starts, _REQUESTS))
        while pending:
            piece = pending.popleft().result()
            pending.extend(ask(first) for first in islice(starts, 1))
            yield piece


@contextmanager
def _noticing_change(listing: S3Listing, name: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        changed = f"{listing.uri}/{name} has changed since the run began; start the run again"
        raise StorageError(changed) from None
