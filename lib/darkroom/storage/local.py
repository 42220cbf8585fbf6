"""The store that is a local folder."""

from __future__ import annotations

import fcntl
import os
import posixpath
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from darkroom.storage.errors import NotAFile, NotFound, TooLarge, from_os
from darkroom.storage.paths import check_key, local_path

_TEMPORARY = ".tmp-"


class LocalStore:
    """A folder; it is made by the first write. Safe against a killed process; not flushed against a power cut."""

    def __init__(self, uri: str) -> None:
        self.root = local_path(uri)

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r})"

    def read(self, key: str, limit: int | None = None) -> bytes:
        with self._opened(key) as (file, size):
            if limit is None:
                return file.read()
            if size > limit:
                raise TooLarge(self.uri(key), size)
            return file.read(size)  # and no more: what /proc holds has no end that is known

    def size(self, key: str) -> int:
        with self._reporting("look for", key):
            return self._path(key).stat().st_size

    def read_part(self, key: str, start: int, count: int) -> bytes:
        with self._opened(key) as (file, _):
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

    def list_linked(self, enter: Callable[[str], bool]) -> list[str]:
        """The keys of all files, sorted, also of those in folders that links lead to. A folder is read once, by its own
        path where it has one in here; no link is followed to a folder that holds the link, or this one.

        enter: whether to look into a folder, by its key.
        """
        found: list[str] = []
        seen: set[str] = set()
        tops = [self.root]
        with self._reporting("list", ""):
            for top in tops:  # which grows
                real = os.path.realpath(top)
                for folder, inside, names in os.walk(top, onerror=_raise_unless_absent):
                    place = os.path.normpath(os.path.join(real, os.path.relpath(folder, top)))
                    start = "" if folder == self.root else f"{os.path.relpath(folder, self.root)}/"
                    inside[:] = [name for name in inside if place not in seen and enter(start + name)]
                    found += [start + name for name in names if place not in seen]
                    seen.add(place)
                    links = (link for name in sorted(inside) if os.path.islink(link := os.path.join(folder, name)))
                    tops += [link for link in links if not _holds(link, place) and not _holds(link, self.root)]
        return sorted(found)

    def has(self, prefix: str = "", but: str | None = None) -> bool:
        return any(but is None or not key.startswith(but) for key in self.list(prefix))

    def listing(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        found = {}
        for key in self.list(prefix):
            with suppress(NotFound), self._reporting("look for", key):
                fact = self._path(key).stat()
                found[key] = fact.st_size, f"{fact.st_mtime_ns}-{fact.st_ino}"
        return found

    def folders(self, folder: str = "") -> list[str]:
        return self._inside(folder, os.path.isdir)

    def files(self, folder: str = "") -> list[str]:
        return [name for name in self._inside(folder, os.path.isfile) if not name.startswith(_TEMPORARY)]

    def _inside(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            with self._reporting("list", folder), os.scandir(Path(self.root, folder)) as entries:
                return sorted(entry.name for entry in entries if wanted(entry))  # entry.is_dir trips over loops
        except NotFound:
            return []

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
    def _opened(self, key: str) -> Iterator[tuple[BinaryIO, int]]:
        """A file and its size. What is none is not opened: a pipe would wait for its writer, a device might act."""
        with self._reporting("read", key):
            fact = self._path(key).stat()
            if not stat.S_ISREG(fact.st_mode) and not stat.S_ISDIR(fact.st_mode):
                raise NotAFile(f"could not read {self.uri(key)}: it is no file (a device, a pipe or a socket)")
            with self._path(key).open("rb") as file:
                yield file, fact.st_size

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


def _holds(link: str, folder: str) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


def _raise_unless_absent(error: OSError) -> None:
    # os.walk is silent by default; only a folder that is not (or no longer) there may be passed over.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
