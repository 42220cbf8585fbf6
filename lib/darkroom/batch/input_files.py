"""The files of a row's pictures: where they may lie, and how much of them is held at once."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from darkroom.manifest.inline_rows import PICTURES
from darkroom.phases import plural
from darkroom.storage import (
    NotAFile,
    NotFound,
    Refused,
    TooLarge,
    folder_of,
    join,
    open_store,
    read_uri,
    spelt_otherwise,
)
from darkroom.storage.paths import local_path

ANYWHERE = ("/", "s3://")  # for rows of whoever may read all that this process may
SMALL_BYTES = 16 * 2**20  # of a file that is read beside others
LISTED = 5  # folders
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
    place = _place(uri)
    if not any(_is_within(place, root) for root in roots):
        raise ValueError(
            f"{path} lies outside of the manifest's folder and bucket; to take pictures from there too, say "
            f"--inputs-root {place.rpartition('/')[0] or '/'}"
        )


def far_folders(line: bytes, row: dict[str, Any]) -> Iterator[str]:
    """The folders, as they are written, of a row's pictures whose paths may lead out of the manifest's own: those that
    are absolute, name a bucket, or climb. line: the row as JSON, which says of most rows that they name none."""
    if b': "/' in line or b"://" in line or b".." in line:
        yield from (_folder(path) for path in _pictures(row) if path.startswith("/") or "://" in path or ".." in path)


def refuse_far(folders: Mapping[str, int], base: str, roots: tuple[str, ...]) -> None:
    """ValueError, in one sentence, where pictures lie in folders that they may not be taken from. folders: with how
    many pictures each has. A link within an allowed folder is followed only once its picture is read."""
    outside = Counter[str]()
    for folder, count in folders.items():
        place = _place(join(base, f"{folder}/x")).rpartition("/")[0]
        if not any(_is_within(f"{place}/x", root) for root in roots):
            outside[place or "/"] += count
    if not outside:
        return
    shown = [f"{count:,} in {place}" for place, count in outside.most_common(LISTED)]
    more = f" and {plural(len(outside) - LISTED, 'more place')}" if len(outside) > LISTED else ""
    advice = " ".join(f"--inputs-root {place}" for place, _ in outside.most_common(LISTED))
    raise ValueError(
        f"{plural(outside.total(), 'picture lies', 'pictures lie')} outside of the manifest's folder and bucket: "
        f"{', '.join(shown)}{more}; to take pictures from there too, say {advice}"
    )


def far_pictures(rows: Iterable[dict[str, Any]], uri: str) -> str:
    """What `refuse_far` will say of these rows in a manifest at `uri`, where no more folders are given; else ""."""
    base = folder_of(uri)
    folders = Counter(folder for row in rows for folder in far_folders(json.dumps(row).encode(), row))
    try:
        refuse_far(folders, base, input_roots((), base, base))
    except ValueError as error:
        return str(error)
    return ""


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


def _place(uri: str) -> str:
    """Where a uri leads, links followed."""
    return uri if uri.startswith("s3://") else os.path.realpath(local_path(uri))


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def _pictures(value: dict[str, Any]) -> Iterator[str]:
    """Of a row and of its parts."""
    for key, item in value.items():
        if key in PICTURES and isinstance(item, str):
            yield item
        for part in item if isinstance(item, list) else [item]:
            if isinstance(part, dict):
                yield from _pictures(part)


def _absolute(root: str) -> str:
    return root if root in ANYWHERE else open_store(root).root


def _is_within(place: str, root: str) -> bool:
    if place.startswith("s3://") or root.startswith("s3://"):
        return place.startswith(root if root == "s3://" else root.rstrip("/") + "/")
    folder = os.path.realpath(root)
    return os.path.commonpath([place, folder]) == folder
