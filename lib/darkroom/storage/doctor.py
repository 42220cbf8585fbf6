"""What a place to store things can do, tried out, and what darkroom does about it: `darkroom doctor`."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from darkroom.storage.errors import StorageError
from darkroom.storage.findings import BAD, NOTE, OK, PROBES, Finding, clock_finding, examined, milliseconds, tried
from darkroom.storage.local import LocalStore
from darkroom.storage.stores import open_store

_LITTLE = 2 * 2**30  # bytes free, below which it is said
_NETWORK = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p")


def examine(uri: str) -> Iterator[Finding]:
    """Findings on a folder or a prefix of a bucket, as they are made. Writes a few small objects, and removes them.
    StorageError where it cannot be reached at all."""
    store = open_store(uri)
    if isinstance(store, LocalStore):
        yield from _examine_folder(Path(store.root))
    else:
        from darkroom.storage.s3_doctor import examine_bucket  # here, as in `open_store`

        yield from examine_bucket(uri)


def at_start(uri: str) -> list[Finding]:
    """What of a place is to be said before a job begins there, which holds its lease: the notes of what costs no more
    than a request, and of a bucket only once."""
    store = open_store(uri)
    if isinstance(store, LocalStore):
        found = [tried("free space", lambda: _space(_there(Path(store.root))))]
    else:
        from darkroom.storage.s3_doctor import at_start_in  # here, as in `open_store`

        found = at_start_in(uri)
    return [finding for finding in found if finding.level == NOTE]


def _there(root: Path) -> Path:
    return next(folder for folder in (root, *root.parents) if folder.exists())


def _examine_folder(root: Path) -> Iterator[Finding]:
    there = _there(root)
    made = "" if there == root else f", in {there}, as it is made by the first write"
    kind = _file_system(there)
    shared = "; leases hold among machines where it has locks" if kind.startswith(_NETWORK) else ""
    yield Finding("folder", OK, f"{root}{made}: {kind or 'an unknown file system'}{shared}")
    store = LocalStore(str(there / f".{PROBES}-{secrets.token_hex(6)}"))
    try:
        yield tried("free space", lambda: _space(there))
        yield from examined(store, _OF_A_FOLDER)
    finally:
        shutil.rmtree(store.root, ignore_errors=True)


def _file_system(folder: Path) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""


def _space(folder: Path) -> Finding | str:
    fact = os.statvfs(folder)
    free, files = fact.f_bavail * fact.f_frsize, fact.f_favail
    says = f"{free / 2**30:.1f} GB" + (f", {files:,} files" if fact.f_files else "")
    little = free < _LITTLE or (fact.f_files and files < 10_000)
    return Finding("free space", NOTE, f"{says}: a job that fills it ends, and resumes with room") if little else says


def _rename(store: LocalStore) -> Finding | str:
    took = milliseconds(lambda: store.write("written", b"old"))
    store.write("moved", b"new")
    store.move("moved", "written")
    if store.read("written") != b"new" or store.exists("moved"):
        return Finding("write and rename", BAD, "a file that replaces another is not what is read then")
    return f"{took:.1f} ms; readers see the old file or the new one"


def _create(store: LocalStore) -> Finding | str:
    if not store.create("created", b"first") or store.create("created", b"second") or store.read("created") != b"first":
        return Finding("exclusive create", BAD, "a file that is there is made again: two jobs could own one run")
    return "refused where the file is there (hard links)"


def _replace(store: LocalStore) -> Finding | str:
    store.write("pointer", b"old")
    if store.replace("pointer", b"other", b"new") or not store.replace("pointer", b"old", b"new"):
        return Finding("locked replace", BAD, "a file is replaced that is not what was expected")
    return "refused where the file is another by then (flock)"


def _fsync(store: LocalStore) -> str:
    def flush() -> None:
        with open(Path(store.root, "flushed"), "wb") as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())

    try:
        took = milliseconds(flush, 3)
    except OSError as error:
        raise StorageError(f"could not flush a file in {store.root}: {error.strerror or error}") from error
    return f"{took:.0f} ms for 1 MB; jobs do not wait for it: a killed job loses nothing, a power cut may"


def _clock(store: LocalStore) -> Finding:
    before = time.time()
    store.write("now", b"")
    ahead = Path(store.root, "now").stat().st_mtime - (before + time.time()) / 2
    return clock_finding(ahead, "the file system's clock", "nothing here depends on it")


_OF_A_FOLDER = {
    "write and rename": _rename,
    "exclusive create": _create,
    "locked replace": _replace,
    "fsync": _fsync,
    "clock": _clock,
}
