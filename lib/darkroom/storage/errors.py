"""What a room that stands on storage may have to catch."""

from __future__ import annotations

import errno


class StorageError(Exception):
    """The environment failed (disk, network, keys, a damaged object): the same command resumes once it is mended."""


class NotFound(StorageError):  # noqa: N818 - the name of the contract; it reads better at `except`
    """Nothing lies at this uri; the storage itself answered properly."""


class NotAFile(NotFound):
    """What lies at this uri is no file: a folder, a device, a pipe."""


class Refused(StorageError):
    """The storage answered properly, and will not give this: no permission, no such bucket. Of the one store of a job
    that is an outage, of one picture among a million it is that row's fault."""


class TooLarge(StorageError):
    """More bytes lie at this uri than were wanted; `size` says how many."""

    def __init__(self, uri: str, size: int) -> None:
        super().__init__(f"{uri} has {size:,} bytes")
        self.size = size


# A path that cannot name a file (a folder, a name that is too long, a file used as a folder) is an absence and not an
# outage: one bad path in a manifest must fail its own row and not stop the job.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_NO_FILE = {errno.EISDIR, errno.ENXIO, errno.ENODEV}
_REFUSED = {errno.EACCES, errno.EPERM}

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission was denied; check the owner and mode of the folder",
    errno.EPERM: "the file system refused; check its permissions, and that it supports hard links",
    errno.ENOTSUP: "the file system does not support this; use one with hard links",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ESTALE: "the network file system lost the file; check the mount",
}


def from_os(error: OSError, action: str, uri: str) -> StorageError:
    """Turn an OSError into a sentence: what was tried, where, what to check. `action` is a verb ("read", "write")."""
    if error.errno in _ABSENT:
        reason = error.strerror.lower() if error.errno != errno.ENOENT else "nothing is there"
        return NotFound(f"could not {action} {uri}: {reason}")
    if error.errno in _NO_FILE:
        return NotAFile(f"could not {action} {uri}: it is no file ({error.strerror.lower()})")
    advice = _ADVICE.get(error.errno or 0, "check the disk and its mount")
    kind = Refused if error.errno in _REFUSED else StorageError
    return kind(f"could not {action} {uri}: {advice} ({error.strerror or error})")
