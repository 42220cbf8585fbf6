"""Manifest files as a stream of rows: JSONL, Parquet, CSV, TSV, prompts a line, JSON arrays and YAML, local or on S3;
but for Parquet also gzipped.

A file is first cut into chunks of some thousand rows that are still as they were written; what that costs is little,
so that one process can cut for many that parse. A YAML file and an array, small by nature, are read whole.

An absent key, a null and an empty CSV cell mean the same thing in every format. What cannot be read is a row that
carries a `problem`, so that one bad line does not hide the next one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from darkroom.manifest.csv_files import Cells, cut_csv
from darkroom.manifest.keys import without_nulls
from darkroom.manifest.packed_files import unpacked
from darkroom.manifest.parquet_files import ArrowRows, cut_parquet
from darkroom.manifest.sources import (
    ALONE_SUFFIXES,
    NAMED_SUFFIXES,
    PART_SUFFIXES,
    Hashing,
    Part,
    Source,
    as_stream,
    drain,
    file_name,
    find_parts,
    in_any_order,
    is_packed,
    suffix_of,
)
from darkroom.manifest.sweeps import WrittenRow, expand
from darkroom.manifest.text_files import Lines, array_rows, cut_lines
from darkroom.manifest.texts import BadText
from darkroom.manifest.yaml_files import MOST_BYTES as MOST_YAML
from darkroom.manifest.yaml_files import BadYaml, read_yaml
from darkroom.storage import NotFound, without_secrets

CHUNK_ROWS = 4096
SUFFIXES = (*PART_SUFFIXES, *NAMED_SUFFIXES, *ALONE_SUFFIXES)


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, not parsed yet, or those that were parsed to be found (arrays, YAML, problems).

    doubts: place and text of what can be read and may not be meant so.
    """

    content: Lines | Cells | ArrowRows | list[WrittenRow]
    doubts: tuple[tuple[str, str], ...] = ()

    def rows(self) -> Iterator[WrittenRow]:
        """The rows, parsed."""
        content = self.content
        found: Iterable[WrittenRow] = content if isinstance(content, list) else content.rows()
        for row in found:
            yield row if row.problem else _plain(row, nulls=isinstance(content, (list, Lines)))


def _plain(row: WrittenRow, nulls: bool) -> WrittenRow:
    """nulls: one is written by who means it, not by a table for want of a value; of a negative prompt that counts."""
    kept = {"negative_prompt": None} if nulls and row.data.get("negative_prompt", "") is None else {}
    try:
        return WrittenRow(row.where, without_nulls(row.data) | kept)
    except ValueError as error:
        return WrittenRow(row.where, problem=str(error))


def read_rows(uri: str) -> Iterator[WrittenRow]:
    """Rows of the manifest at `uri` (a file, folder or glob; local or s3://), in order. StorageError when storage
    itself fails."""
    try:
        source = find_parts(uri)
    except (NotFound, ValueError) as error:
        yield WrittenRow(file_name(without_secrets(uri)), problem=str(error))
        return
    for chunk in read_chunks(source, {}):
        yield from chunk.rows()


def rows_in(uri: str, content: bytes) -> Iterator[WrittenRow]:
    """Rows of a manifest's content; the suffix of `uri` says the format."""
    name = file_name(uri)
    for chunk in _cut(name, name, io.BytesIO(content), lambda stream: stream):
        yield from chunk.rows()


def read_chunks(source: Source, digests: dict[str, str]) -> Iterator[Chunk]:
    """The manifest's chunks, in order; the SHA-256 of each part, by its name, goes into `digests` when it was read."""
    if not source.parts:
        wanted = f"wanted a file, or a folder or glob with files of {', '.join(PART_SUFFIXES)}; there is none"
        yield Chunk([WrittenRow(source.name, problem=wanted)])
    for name, reason in source.unread:
        yield Chunk([WrittenRow(name, problem=reason)])
    for part in source.parts:
        yield from _chunks_of(part, digests)


def _chunks_of(part: Part, digests: dict[str, str]) -> Iterator[Chunk]:
    try:
        hashing = Hashing(part.open())
        stream = as_stream(hashing)
        yield from _cut(part.name, part.key, stream, lambda stream: in_any_order(part, stream))
        drain(stream)
    except NotFound as error:
        yield Chunk([WrittenRow(part.name, problem=str(error))])
    else:
        digests[part.name] = hashing.sha256.hexdigest()


def _cut(name: str, key: str, stream: BinaryIO, seekable: Callable[[BinaryIO], BinaryIO]) -> Iterator[Chunk]:
    suffix = suffix_of(key)
    if suffix not in SUFFIXES:
        given = f"was '{suffix}'" if suffix else "has none"
        problem = f"unsupported suffix: wanted one of {', '.join(SUFFIXES)}, {given}"
        yield Chunk([WrittenRow(name, problem=problem)])
        return
    if is_packed(key) and suffix == ".parquet":
        yield Chunk([WrittenRow(name, problem="a Parquet file packs its own columns: wanted it without .gz")])
        return
    try:
        yield from _cut_by(suffix, name, unpacked(stream) if is_packed(key) else stream, seekable)
    except BadText as error:
        yield Chunk([WrittenRow(name, problem=str(error))])


def _cut_by(suffix: str, name: str, stream: BinaryIO, seekable: Callable[[BinaryIO], BinaryIO]) -> Iterator[Chunk]:
    """By the format that a suffix stands for. BadText."""
    if suffix in ALONE_SUFFIXES:
        yield from _cut_yaml(name, stream)
    elif suffix == ".json":
        rows = array_rows(name, stream)
        while batch := list(islice(rows, CHUNK_ROWS)):
            yield Chunk(batch)
    elif suffix == ".parquet":
        yield from map(Chunk, cut_parquet(name, seekable(stream), CHUNK_ROWS))
    elif suffix in (".csv", ".tsv"):
        yield from map(Chunk, cut_csv(name, stream, CHUNK_ROWS, "," if suffix == ".csv" else "\t"))
    else:
        yield from map(Chunk, cut_lines(name, stream, prompts=suffix == ".txt"))


def _cut_yaml(name: str, stream: BinaryIO) -> Iterator[Chunk]:
    def place(line: int) -> str:
        return f"{name} line {line}" if line else name

    try:
        document = read_yaml(stream.read(MOST_YAML + 1))
    except BadYaml as error:
        yield Chunk([WrittenRow(place(line), problem=text) for line, text in error.findings])
        return
    doubts = tuple((place(line), text) for line, text in document.doubts)
    rows = expand(document.value, name)
    while batch := list(islice(rows, CHUNK_ROWS)):
        yield Chunk(batch, doubts)
        doubts = ()
