"""Rows of a manifest that a job is confined to, by their ids: what `--ids FILE` names."""

from __future__ import annotations

import json

import numpy as np

from darkroom.storage import NotFound, read_uri
from darkroom.storage.hashing import hashes

SHOWN = 5


class RowFilter:
    """ids: of the rows that may be made."""

    def __init__(self, uri: str, ids: list[str]) -> None:
        self.uri, self.ids = uri, list(dict.fromkeys(ids))
        self._hashes = hashes(self.ids)
        self._seen = np.zeros(len(self.ids), dtype=bool)

    @classmethod
    def read(cls, uri: str) -> RowFilter:
        """A text file with an id on each line, or JSON lines with an `id` in each, such as `darkroom failed` writes.
        StorageError; ValueError where there is no such file, or a line is neither."""
        try:
            lines = read_uri(uri).decode().splitlines()
        except NotFound:
            raise ValueError(f"--ids: there is no file {uri}") from None
        except UnicodeDecodeError:
            raise ValueError(f"--ids: {uri} is no text, wanted an id on each line") from None
        ids = [_id_of(f"{uri}:{number}", line) for number, line in enumerate(map(str.strip, lines), 1) if line]
        if not ids:
            raise ValueError(f"--ids: {uri} is empty, wanted an id on each line")
        return cls(uri, ids)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """bool [N]: which of these rows, uint64 hashes of their ids, are named."""
        self._seen |= np.isin(self._hashes, ids)
        return np.isin(ids, self._hashes)

    def check(self) -> None:
        """After all rows were seen: ValueError where an id was nobody's."""
        unknown = [row_id for row_id, seen in zip(self.ids, self._seen.tolist(), strict=True) if not seen]
        if unknown:
            shown = ", ".join(map(repr, unknown[:SHOWN])) + ", ..." * (len(unknown) > SHOWN)
            counts = f"{len(unknown):,} of the {len(self.ids):,} ids in {self.uri}"
            raise ValueError(f"--ids: the manifest has no row of {counts}: {shown}")


def _id_of(where: str, line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--ids: {where}: wanted an id, or a JSON object that has one; was {line[:80]!r}") from None
