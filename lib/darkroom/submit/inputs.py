"""A manifest of this machine, and the pictures it names, brought to where a cluster's workers can read them.

    RUN/inputs/DIGEST/...              the pictures, at their paths as the manifest writes them
    RUN/inputs/DIGEST/NAME-DIGEST.yaml the manifest, beside them as it was here

The paths stay as written, since a row's key holds them: a run goes on wherever it is started from. The first digest is
of the pictures alone, so that a manifest whose words change takes none of them along again.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkroom.manifest import ManifestError, parse_task, read_rows
from darkroom.manifest.inline_rows import PICTURES
from darkroom.manifest.messages import sentences
from darkroom.manifest.sources import is_packed
from darkroom.storage import NotFound, open_store, read_uri
from darkroom.storage.paths import local_path

UPLOADS = 16  # at once


def check_without_model(manifest: str) -> None:
    """What can be said of a manifest's rows by themselves. ManifestError with every problem."""
    problems = []
    for row in read_rows(manifest):
        try:
            found = [row.problem] if row.problem else []
            if not found:
                parse_task(row.data)
        except ValidationError as error:
            found = sentences(error, row.data)
        problems += [f"{row.where}: {text}" for text in found]
    if problems:
        raise ManifestError(problems)


def upload(manifest: str, run: str) -> tuple[str, list[str]]:
    """Brings a local manifest and its pictures into the run, what is there already excepted. Its new uri, and the
    pictures that are not here: their rows will fail, as they would here. ManifestError where a path means nothing
    elsewhere, StorageError."""
    data = read_uri(manifest)
    here = Path(local_path(manifest))
    digests: dict[str, str] = {}
    missing: list[str] = []
    for path in _pictures(manifest):
        try:
            digests[path] = hashlib.sha256(read_uri(str(here.parent / path))).hexdigest()
        except NotFound:
            missing.append(path)
    folder = _folder(digests)
    store = open_store(run)

    def put(path: str) -> None:
        key = posixpath.normpath(f"{folder}/{path}")
        if not store.exists(key):
            store.write(key, read_uri(str(here.parent / path)))

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(put, digests))
    stem = here.name.removesuffix(suffixes := "".join(here.suffixes[-1 - is_packed(here.name) :]))
    key = f"{folder}/{stem}-{hashlib.sha256(data).hexdigest()[:16]}{suffixes}"
    if not store.exists(key):
        store.write(key, data)
    return store.uri(key), missing


def _folder(digests: dict[str, str]) -> str:
    """Where the manifest goes: so deep that paths which climb out of its folder stay within their digest's."""
    lines = [f"{digests[path]} {path}\n" for path in sorted(digests)]
    climbs = max((posixpath.normpath(path).split("/").count("..") for path in digests), default=0)
    return "/".join(["inputs", hashlib.sha256("".join(lines).encode()).hexdigest()[:16], *["up"] * climbs])


def _pictures(manifest: str) -> list[str]:
    """The relative paths that rows name, sorted. ManifestError for absolute ones."""
    paths: set[str] = set()
    problems: list[str] = []
    for row in read_rows(manifest):
        for path in _named(row.data):
            if path.startswith(("/", "~", "file://")):
                reason = "only this machine has it; wanted a path relative to the manifest, or s3://bucket/key"
                problems.append(f"{row.where}: the picture {path}: {reason}")
            elif "://" not in path:
                paths.add(path)
    if problems:
        raise ManifestError(problems)
    return sorted(paths)


def _named(value: Any) -> Iterator[str]:
    """Pictures anywhere in a row: its own, its components'."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in PICTURES and isinstance(item, str):
                yield item
            else:
                yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
