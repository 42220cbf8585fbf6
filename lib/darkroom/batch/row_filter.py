"""Rows of a manifest that a job is confined to, by their ids: what `--ids FILE` names."""

from __future__ import annotations

import json

import numpy as np

from darkroom.storage import NotFound, read_uri
from darkroom.storage.hashing import HashSet, hashes

SHOWN = 5


class RowFilter:
    """ids: of the rows that may be made."""

    def __init__(self, uri: str, ids: list[str]) -> None:
        self.uri, self.ids = uri, list(dict.fromkeys(ids))
        self._named, self._seen = HashSet(), HashSet()
        self._named.add(hashes(self.ids))

    @classmethod
    def read(cls, uri: str) -> RowFilter:
        """A text file with an id on each line, or JSON lines with an `id` in each, such as `darkroom failed` writes.
        StorageError; ValueError where there is no such file, or a line is neither."""
        try:
            lines = read_uri(uri).decode("utf-8-sig").split("\n")  # splitlines would cut a prompt at U+2028
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
        named = self._named.contains(ids)
        self._seen.add(ids[named])
        return named

    def check(self, limit: int | None = None) -> None:
        """After all rows were seen: ValueError where an id was nobody's. limit: of the rows that were looked at."""
        seen = self._seen.contains(hashes(self.ids)).tolist()
        unknown = [row_id for row_id, was_seen in zip(self.ids, seen, strict=True) if not was_seen]
        if unknown:
            shown = ", ".join(map(repr, unknown[:SHOWN])) + ", ..." * (len(unknown) > SHOWN)
            counts = f"{len(unknown):,} of the {len(self.ids):,} ids in {self.uri}"
            among = "the manifest has" if limit is None else f"of the manifest's first {limit:,} there is"
            raise ValueError(f"--ids: {among} no row of {counts}: {shown}")


def _id_of(where: str, line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--ids: {where}: wanted an id, or a JSON object that has one; was {line[:80]!r}") from None
