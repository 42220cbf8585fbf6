"""A manifest that comes without a name, on standard input: its format is told by how it begins."""

from __future__ import annotations

import re
import zlib
from typing import Any, BinaryIO

from darkroom.manifest.packed_files import GZIP
from darkroom.manifest.problems import ManifestError, Problems
from darkroom.manifest.readers import rows_in
from darkroom.manifest.sources import PACKED
from darkroom.manifest.texts import BOM

MOST_BYTES = 16 * 2**20  # all of its rows are in memory at once
BEGINNING = 2**16  # bytes that say what it is
HEADER = {b"prompt", b"task", b"label"}  # one of them names a column of any table


def read_rows_of(stream: BinaryIO) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and the place of each in words. ManifestError for what cannot be read, ValueError for too much."""
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"standard input has more than {MOST_BYTES // 2**20} MiB: give that manifest as a file")
    rows = list(rows_in(f"stdin{format_of(content)}", content))
    problems = Problems()
    for number, row in enumerate(rows):
        if row.problem:
            problems.add(number, row.where, row.problem)
    if problems:
        raise ManifestError(problems.lines())
    return [row.data for row in rows], [row.where for row in rows]


def format_of(content: bytes) -> str:
    """The suffix of a file with this content."""
    if content.startswith(b"\x1f\x8b"):
        try:
            return format_of(zlib.decompressobj(GZIP).decompress(content, BEGINNING)) + PACKED
        except zlib.error:
            return f".jsonl{PACKED}"  # whose reader says what is wrong
    if content.startswith(b"PAR1"):
        return ".parquet"
    text = content[:BEGINNING].removeprefix(BOM).lstrip()
    if text[:1] in (b"[", b"{"):
        return ".json" if text[:1] == b"[" else ".jsonl"
    if re.search(rb"^(defaults|rows|matrix)[ ]*:", text, re.MULTILINE):
        return ".yaml"
    header = text.partition(b"\n")[0]
    # Of a table that its reader does not take the columns are told, and not asked for as prompts.
    columns = {column.strip(b' "\r').lower() for column in re.split(rb"[,;|\t]", header)}
    return (".tsv" if b"\t" in header else ".csv") if columns & HEADER else ".txt"
