"""The files of a row's pictures: where they may lie, and how much of them is held at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from darkroom.storage import NotAFile, NotFound, Refused, TooLarge, join, read_uri, spelt_otherwise
from darkroom.storage.paths import local_path

ANYWHERE = ("/", "s3://")  # for rows of whoever may read all that this process may
SMALL_BYTES = 16 * 2**20  # of a file that is read beside others
LARGEST_BYTES = 256 * 2**20  # of any; those that are not small are read one by one

_LARGE = threading.Lock()  # of this process


def input_roots(given: tuple[str, ...], base: str, run: str) -> tuple[str, ...]:
    """Folders and buckets that pictures may come from: the manifest's folder or its bucket, what was brought into the
    run, and what is given. ValueError for what is no place."""
    own = "/".join(base.split("/")[:3]) if base.startswith("s3://") else base
    return tuple(dict.fromkeys([own, join(run, "inputs"), *map(_absolute, given)]))


def check_place(uri: str, path: str, roots: tuple[str, ...]) -> None:
    """ValueError for a picture that may not be taken from there. path: as the manifest has it, for people.

    Links are followed first: one that leads out of a folder must not bring what lies elsewhere.
    """
    if uri.startswith("s3://") and {".", ".."} & set(uri.split("/")):  # which some servers follow
        raise ValueError(f"{path} names no object: a key has no parts '.' and '..'")
    place = uri if uri.startswith("s3://") else os.path.realpath(local_path(uri))
    if not any(_is_within(place, root) for root in roots):
        raise ValueError(
            f"{path} lies outside of the manifest's folder and bucket; to take pictures from there too, say "
            f"--inputs-root {place.rpartition('/')[0] or '/'}"
        )


@contextmanager
def opened_input(uri: str, path: str) -> Iterator[bytes]:
    """A picture's file, held as long as the block lasts. ValueError where there is none, or it may not be read;
    StorageError for an outage, which is no row's fault."""
    try:
        data = _read(uri, path, SMALL_BYTES)
    except TooLarge:
        with _LARGE:
            yield _read_large(uri, path)
    else:
        yield data


def _read_large(uri: str, path: str) -> bytes:
    try:
        return _read(uri, path, LARGEST_BYTES)
    except TooLarge as error:
        raise ValueError(f"{path}: the file has {error.size:,} bytes, more than {LARGEST_BYTES:,}") from None


def _read(uri: str, path: str, limit: int) -> bytes:
    try:
        return read_uri(uri, limit)
    except (NotAFile, Refused) as error:
        raise ValueError(f"{path}: {error}") from None
    except NotFound:
        raise ValueError(f"there is no file {uri}{spelt_otherwise(uri)}") from None


def _absolute(root: str) -> str:
    return root if root.startswith("s3://") else local_path(root)


def _is_within(place: str, root: str) -> bool:
    if place.startswith("s3://") or root.startswith("s3://"):
        return place.startswith(root if root == "s3://" else root.rstrip("/") + "/")
    folder = os.path.realpath(root)
    return os.path.commonpath([place, folder]) == folder
