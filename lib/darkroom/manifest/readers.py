"""Manifest files as a stream of rows: JSONL, Parquet, CSV and YAML, local or on S3.

A file is first cut into chunks of some thousand rows that are still as they were written; what that costs is little,
so that one process can cut for many that parse. A YAML file, small by nature, is read whole.

An absent key, a null and an empty CSV cell mean the same thing in every format. What cannot be read is a row that
carries a `problem`, so that one bad line does not hide the next one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

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
from darkroom.manifest.yaml_files import BadYaml, read_yaml
from darkroom.storage import NotFound

# The only cells of a CSV that are taken as they stand; a prompt "7" stays text.
TEXT_FIELDS = frozenset(
    {"id", "task", "prompt", "negative_prompt", "timesteps", "sampler", "image", "mask", "reduction", "method"}
)
NESTED_FIELDS = frozenset({"views", "components", "resample", "stage2", "stage3"})
CHUNK_ROWS, CHUNK_BYTES = 4096, 2**19


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, not parsed yet.

    content: whole lines (JSONL, `first` is the first one's number), a stream of Arrow (Parquet, `first` is the first
    row's), the header and (where, cells) of each row (CSV), or rows that were parsed to be found (YAML, problems).
    """

    name: str
    first: int
    content: bytes | pa.Buffer | tuple[list[str], list[tuple[str, list[str]]]] | list[WrittenRow]
    is_arrow: bool = False

    def rows(self) -> Iterator[WrittenRow]:
        """The rows, parsed."""
        for row in self._parsed():
            yield row if row.problem else WrittenRow(row.where, _without_nulls(row.data))

    def _parsed(self) -> Iterable[WrittenRow]:
        if isinstance(self.content, list):
            return self.content
        if isinstance(self.content, tuple):
            header, found = self.content
            return (_csv_row(where, header, cells) for where, cells in found)
        return _arrow_rows(self) if self.is_arrow else _jsonl_rows(self)


def read_rows(uri: str) -> Iterator[WrittenRow]:
    """Rows of the manifest at `uri` (a file, folder or glob; local or s3://), in order. StorageError when storage
    itself fails."""
    try:
        source = find_parts(uri)
    except (NotFound, ValueError) as error:
        yield WrittenRow(file_name(uri), problem=str(error))
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
        yield from _cut_csv(name, stream)
    elif suffix == ".parquet":
        yield from _cut_parquet(name, seekable(stream))
    elif suffix in ALONE_SUFFIXES:
        yield from _in_chunks(name, _yaml_rows(name, stream.read()))
    else:
        given = f"was '{suffix}'" if suffix else "has none"
        wanted = ", ".join((*PART_SUFFIXES, *ALONE_SUFFIXES))
        yield Chunk(name, 0, [WrittenRow(name, problem=f"unsupported suffix: wanted one of {wanted}, {given}")])


def _in_chunks(name: str, rows: Iterator[WrittenRow]) -> Iterator[Chunk]:
    while batch := list(islice(rows, CHUNK_ROWS)):
        yield Chunk(name, 0, batch)


def _cut_jsonl(name: str, stream: BinaryIO) -> Iterator[Chunk]:
    first = 1
    while block := stream.read(CHUNK_BYTES):
        if not block.endswith(b"\n"):
            block += stream.readline()
        yield Chunk(name, first, block)
        first += block.count(b"\n")


def _jsonl_rows(chunk: Chunk) -> Iterator[WrittenRow]:
    for number, line in enumerate(io.BytesIO(chunk.content), chunk.first):
        where = f"{chunk.name} line {number}"
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip()
        if not line:
            continue
        try:
            data = _json(line.decode())
        except ValueError as error:
            yield WrittenRow(where, problem=f"not a JSON object: {error}")
            continue
        if isinstance(data, dict):
            yield WrittenRow(where, data)
        else:
            yield WrittenRow(where, problem=f"not a JSON object, was {str(data)[:60]}")


def _cut_csv(name: str, stream: BinaryIO) -> Iterator[Chunk]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    table = csv.reader(text, strict=True)
    before = 0
    header: list[str] | None = None
    found: list[tuple[str, list[str]]] = []
    problem: WrittenRow | None = None
    try:
        for cells in table:
            where, before = f"{name} line {before + 1}", table.line_num
            if not cells:
                continue
            if header is None:
                header = cells
                if twice := sorted({column for column in header if header.count(column) > 1}):
                    problem = WrittenRow(
                        where, problem=f"the header names {', '.join(map(repr, twice))} more than once"
                    )
                    break
                continue
            found.append((where, cells))
            if len(found) == CHUNK_ROWS:
                yield Chunk(name, 0, (header, found))
                found = []
    except (csv.Error, UnicodeDecodeError) as error:
        problem = WrittenRow(f"{name} line {before + 1}", problem=f"cannot be read from here on: {error}")
    finally:
        text.detach()  # else it would close the stream, of which the digest is not yet taken
    if header is not None and found:
        yield Chunk(name, 0, (header, found))
    if problem is not None:
        yield Chunk(name, 0, [problem])


def _csv_row(where: str, header: list[str], cells: list[str]) -> WrittenRow:
    if len(cells) != len(header):
        return WrittenRow(where, problem=f"has {len(cells)} cells, the header has {len(header)}")
    data: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=True):
        if not cell:
            continue
        try:
            data[column] = cell if column in TEXT_FIELDS else _json(cell)
        except ValueError as error:
            if column in NESTED_FIELDS:
                return WrittenRow(where, problem=f"the cell of '{column}' is not JSON: {error}")
            data[column] = cell
    return WrittenRow(where, data)


def _cut_parquet(name: str, file: BinaryIO) -> Iterator[Chunk]:
    number = 0
    # The bytes came whole, or a StorageError did, so an OSError here is a damaged file and never a failing disk.
    try:
        for batch in pq.ParquetFile(file).iter_batches(CHUNK_ROWS):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield Chunk(name, number + 1, sink.getvalue(), is_arrow=True)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        problem = f"not a readable Parquet file after row {number}: {error}"
        yield Chunk(name, 0, [WrittenRow(name, problem=problem)])


def _arrow_rows(chunk: Chunk) -> Iterator[WrittenRow]:
    for number, data in enumerate(pa.ipc.open_stream(chunk.content).read_all().to_pylist(), chunk.first):
        yield WrittenRow(f"{chunk.name} row {number}", data)


def _yaml_rows(name: str, content: bytes) -> Iterator[WrittenRow]:
    try:
        document = read_yaml(content)
    except BadYaml as error:
        yield WrittenRow(f"{name} line {error.line}" if error.line else name, problem=str(error))
    else:
        yield from expand(document, name)


def _json(text: str) -> Any:
    """JSON as its standard has it: no NaN or Infinity, no key twice. ValueError otherwise."""
    try:
        data = _loads(text)
        # Every key has a colon behind it: with as many keys as there are colons, none was given twice. A colon in a
        # text, or a row in a row, costs the slower way.
        return data if type(data) is dict and text.count(":") == len(data) else _loads_pairs(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


# Made once: json.loads would make a decoder for every row.
_loads = json.JSONDecoder(parse_constant=_refuse_constant).decode
_loads_pairs = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant).decode
