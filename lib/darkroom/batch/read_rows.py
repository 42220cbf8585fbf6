"""The rows of a manifest that is known to be good, ready to be held against a run.

They are read before a run is touched, so that it stays as it was while a manifest may still turn out to be wrong. A run
that was planned from this very manifest has them already: then nothing is parsed again, and a start takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import darkroom
from darkroom.batch.planned_rows import Maker, PlannedRows, PlanRows
from darkroom.batch.units import read_files
from darkroom.manifest import Abilities, Manifest
from darkroom.manifest.checks import Reading
from darkroom.manifest.sources import find_parts
from darkroom.sampling.plans import SAMPLER_VERSION
from darkroom.storage import NotFound, Store

IN_MEMORY = 64 * 2**20  # bytes
CODE = ("manifest", "sampling", "batch/planned_rows.py")  # says what a row's line and key are


class ReadRows:
    """Iterating gives planned rows, in chunks, as often as it is asked for. They wait packed: in memory, or in a
    temporary file where they are many, about 80 bytes each; or in the run, where it was planned from them before."""

    manifest: Manifest

    def __init__(self, uri: str, abilities: Abilities, maker: Maker, store: Store | None = None) -> None:
        """ManifestError with all problems of all rows, StorageError. store: of a run that may have them already."""
        self._store, self._abilities, self._maker = store, abilities, maker
        self._plan = self._planned_before(uri)
        if self._plan is None:
            self._read(uri)

    @property
    def mark(self) -> dict[str, Any]:
        """What a run that is planned from these rows, all of them, has to remember: see `_planned_before`."""
        manifest = self.manifest
        about = {"rows": manifest.rows, "by_task": manifest.by_task}
        return about | {"from": _fingerprint(manifest.digest, self._abilities, self._maker)}

    def __iter__(self) -> Iterator[PlannedRows]:
        if self._plan is not None:
            assert self._store is not None
            for data in read_files(self._store, f"manifest/{self._plan}"):
                yield PlannedRows.of_lines(data.split(b"\n"))
            return
        self._file.seek(0)
        for length in self._lengths:
            yield PlannedRows.unpack(self._file.read(length))

    def _read(self, uri: str) -> None:
        reading = Reading(uri, self._abilities, PlanRows(self._maker.without_tokens()))
        # It lives as long as this object.
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._lengths: list[int] = []
        for packed in reading:
            self._file.write(packed)
            self._lengths.append(len(packed))
        self.manifest = reading.manifest

    def _planned_before(self, uri: str) -> str | None:
        """The run's plan, where it was made from these bytes, for this model, by this code. What was to be warned of
        was said when they were read."""
        try:
            run = json.loads(self._store.read("run.json")) if self._store else {}
            mark = run.get("checked")
            if not mark:
                return None
            source = find_parts(uri)
            digest = source.digest_now()
        except (NotFound, ValueError):
            return None
        if mark["from"] != _fingerprint(digest, self._abilities, self._maker):
            return None
        able = self._abilities
        self.manifest = Manifest(uri, source.base, digest, mark["rows"], mark["by_task"], able.sizes)
        return run["plan"]


def _fingerprint(digest: str, abilities: Abilities, maker: Maker) -> str:
    able = asdict(replace(abilities, prompt_tokens=None))
    own = [maker.revision, maker.finish, maker.judge, maker.default_size, SAMPLER_VERSION]
    return hashlib.sha256(json.dumps([digest, able, own, _code()], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of the program's own text, as far as rows depend on it: a version may not have risen."""
    root = Path(darkroom.__file__).parent
    files = sorted(file for name in CODE for file in (root / name, *(root / name).rglob("*.py")) if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
