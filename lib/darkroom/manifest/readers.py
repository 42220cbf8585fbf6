"""Manifest files as a stream of rows: JSONL, Parquet, CSV and YAML, local or on S3.

A file is first cut into chunks of some thousand rows that are still as they were written; what that costs is little,
so that one process can cut for many that parse. A YAML file, small by nature, is read whole.

An absent key, a null and an empty CSV cell mean the same thing in every format. What cannot be read is a row that
carries a `problem`, so that one bad line does not hide the next one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from darkroom.manifest.csv_files import Cells, cut_csv
from darkroom.manifest.keys import without_nulls
from darkroom.manifest.parquet_files import cut_parquet, rows_of
from darkroom.manifest.sources import (
    ALONE_SUFFIXES,
    PART_SUFFIXES,
    Hashing,
    Part,
    Source,
    as_stream,
    drain,
    file_name,
    find_parts,
    in_any_order,
    suffix_of,
)
from darkroom.manifest.sweeps import WrittenRow, expand
from darkroom.manifest.texts import BOM, MOST_BYTES, UTF16, BadText, decoded, loads
from darkroom.manifest.yaml_files import MOST_BYTES as MOST_YAML
from darkroom.manifest.yaml_files import BadYaml, read_yaml
from darkroom.storage import NotFound, without_secrets

CHUNK_ROWS, CHUNK_BYTES = 4096, 2**19
BREAK = b"\n"


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, not parsed yet.

    content: whole lines (JSONL, `first` is the first one's number), a stream of Arrow (Parquet, `first` is the first
    row's), cells (CSV), or rows that were parsed to be found (YAML, problems). doubts: place and text of what can be
    read and may not be meant so.
    """

    name: str
    first: int
    content: bytes | pa.Buffer | Cells | list[WrittenRow]
    is_arrow: bool = False
    doubts: tuple[tuple[str, str], ...] = ()

    def rows(self) -> Iterator[WrittenRow]:
        """The rows, parsed."""
        for row in self._parsed():
            yield row if row.problem else _plain(row, nulls=not self.is_arrow and not isinstance(self.content, Cells))

    def _parsed(self) -> Iterable[WrittenRow]:
        if isinstance(self.content, list):
            return self.content
        if isinstance(self.content, Cells):
            return self.content.rows()
        return rows_of(self.name, self.first, self.content) if self.is_arrow else _jsonl_rows(self)


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
        yield Chunk(source.name, 0, [WrittenRow(source.name, problem=wanted)])
    for name in source.unread:
        reason = "a YAML manifest is a file of its own, not a part of a folder or glob: give its path"
        yield Chunk(name, 0, [WrittenRow(name, problem=reason)])
    for part in source.parts:
        yield from _chunks_of(part, digests)


def _chunks_of(part: Part, digests: dict[str, str]) -> Iterator[Chunk]:
    try:
        hashing = Hashing(part.open())
        stream = as_stream(hashing)
        yield from _cut(part.name, part.key, stream, lambda stream: in_any_order(part, stream))
        drain(stream)
    except NotFound as error:
        yield Chunk(part.name, 0, [WrittenRow(part.name, problem=str(error))])
    else:
        digests[part.name] = hashing.sha256.hexdigest()


def _cut(name: str, key: str, stream: BinaryIO, seekable: Any) -> Iterator[Chunk]:
    suffix = suffix_of(key)
    if suffix in (".jsonl", ".ndjson"):
        yield from _cut_jsonl(name, stream)
    elif suffix == ".csv":
        for piece in cut_csv(name, stream, CHUNK_ROWS):
            yield Chunk(name, 0, piece)
    elif suffix == ".parquet":
        for piece in cut_parquet(name, seekable(stream), CHUNK_ROWS):
            yield Chunk(name, 0, piece) if isinstance(piece, list) else Chunk(name, *piece, is_arrow=True)
    elif suffix in ALONE_SUFFIXES:
        yield from _cut_yaml(name, stream)
    else:
        given = f"was '{suffix}'" if suffix else "has none"
        wanted = ", ".join((*PART_SUFFIXES, *ALONE_SUFFIXES))
        yield Chunk(name, 0, [WrittenRow(name, problem=f"unsupported suffix: wanted one of {wanted}, {given}")])


def _cut_yaml(name: str, stream: BinaryIO) -> Iterator[Chunk]:
    def place(line: int) -> str:
        return f"{name} line {line}" if line else name

    try:
        document = read_yaml(stream.read(MOST_YAML + 1))
    except BadYaml as error:
        yield Chunk(name, 0, [WrittenRow(place(line), problem=text) for line, text in error.findings])
        return
    doubts = tuple((place(line), text) for line, text in document.doubts)
    rows = expand(document.value, name)
    while batch := list(islice(rows, CHUNK_ROWS)):
        yield Chunk(name, 0, batch, doubts=doubts)
        doubts = ()


def _cut_jsonl(name: str, stream: BinaryIO) -> Iterator[Chunk]:
    first = 1
    while block := stream.read(CHUNK_BYTES):
        if first == 1 and block.startswith(UTF16):
            yield Chunk(name, 0, [WrittenRow(name, problem="the text is UTF-16, wanted UTF-8")])
            return
        rest = b"" if block.endswith(b"\n") else stream.readline(MOST_BYTES)
        if len(rest) == MOST_BYTES and not rest.endswith(b"\n"):
            block = block[: block.rfind(b"\n") + 1]
            where = f"{name} line {first + block.count(BREAK)}"
            reason = f"has more than {MOST_BYTES // 2**20} MiB; nothing was read from here on"
            yield Chunk(name, first, block)
            yield Chunk(name, 0, [WrittenRow(where, problem=reason)])
            return
        yield Chunk(name, first, block + rest)
        first += block.count(BREAK) + rest.count(BREAK)


def _jsonl_rows(chunk: Chunk) -> Iterator[WrittenRow]:
    for number, line in enumerate(io.BytesIO(chunk.content), chunk.first):
        where = f"{chunk.name} line {number}"
        if number == 1:
            line = line.removeprefix(BOM)
        line = line.rstrip()
        if not line:
            continue
        try:
            data = loads(decoded(line))
        except BadText as error:
            yield WrittenRow(where, problem=str(error))
            continue
        except ValueError as error:
            yield WrittenRow(where, problem=f"not a JSON object: {error}")
            continue
        if isinstance(data, dict):
            yield WrittenRow(where, data)
        else:
            hint = ": a row is an object of its own, on its own line" if isinstance(data, list) else ""
            yield WrittenRow(where, problem=f"not a JSON object, was {line[:60].decode(errors='replace')}{hint}")
