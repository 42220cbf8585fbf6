"""Parquet as a stream of rows, which a small file may claim to have more of than any memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from darkroom.manifest.keys import column_problems
from darkroom.manifest.sweeps import WrittenRow

MOST_ROW_BYTES = 2**20  # unpacked, on an average of a row group
MOST_TEXT_BYTES = 2**17
SLICE = 512  # rows that are Python's at a time: a text that many have is one only as long as it is Arrow's
UNFOLDED = 2**24  # bytes of a column's texts, each as often as rows have it
ROWS_A_BYTE, FREE_ROWS = 100, 10_000_000


class BadParquet(ValueError):
    """What keeps a whole file from being read, in words."""


class ArrowRows(NamedTuple):
    """A stream of Arrow. first: the number of its first row, from 1."""

    name: str
    first: int
    content: pa.Buffer

    def rows(self) -> Iterator[WrittenRow]:
        return _rows(*self)


def cut_parquet(name: str, file: BinaryIO, count: int) -> Iterator[ArrowRows | list[WrittenRow]]:
    """So many rows at a time; and what ends the reading, as rows with a problem."""
    number = 0
    # The bytes came whole, or a StorageError did, so an OSError here is a damaged file and never a failing disk.
    try:
        opened = _open(file)
        if problems := list(column_problems(opened.schema_arrow.names)):
            yield [WrittenRow(name, problem=text) for text in problems]
            return
        for batch in opened.iter_batches(count):
            _refuse_long_texts(batch.columns)
            batch = pa.RecordBatch.from_arrays([*map(_unfolded, batch.columns)], batch.schema.names)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield ArrowRows(name, number + 1, sink.getvalue())
            number += batch.num_rows
    except BadParquet as error:
        yield [WrittenRow(name, problem=str(error))]
    except (pa.ArrowException, OSError, ValueError, RecursionError, OverflowError) as error:
        text = " ".join(str(error).split())[:200]
        yield [WrittenRow(name, problem=f"not a readable Parquet file after row {number}: {text}")]


def _rows(name: str, first: int, content: pa.Buffer) -> Iterator[WrittenRow]:
    table = pa.ipc.open_stream(content).read_all()
    others = [field for field in table.schema if _is_read_otherwise(field.type)]
    for start in range(0, table.num_rows, SLICE):
        for number, data in enumerate(_values(table.slice(start, SLICE)), first + start):
            if isinstance(data, str):
                yield WrittenRow(f"{name} row {number}", problem=data)
                continue
            data |= {field.name: _as_meant(data[field.name], field.type) for field in others}
            yield WrittenRow(f"{name} row {number}", data)


def _open(file: BinaryIO) -> pq.ParquetFile:
    """With texts as Arrow's dictionaries: what a row group repeats is there once. BadParquet before much is read."""
    opened = pq.ParquetFile(file)
    about = opened.metadata
    size = file.seek(0, 2)
    if about.num_rows > max(FREE_ROWS, ROWS_A_BYTE * size):
        raise BadParquet(f"claims {about.num_rows:,} rows in {size:,} bytes")
    for group in map(about.row_group, range(about.num_row_groups)):
        if group.total_byte_size > MOST_ROW_BYTES * max(group.num_rows, 1):
            raise BadParquet(f"{group.num_rows:,} of its rows unpack to {group.total_byte_size:,} bytes")
    columns = map(opened.schema.column, range(len(opened.schema)))
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(file, read_dictionary=texts)


def _refuse_long_texts(arrays: list[pa.Array]) -> None:
    for array in arrays:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary
        if pa.types.is_nested(array.type):
            _refuse_long_texts(array.flatten() if pa.types.is_struct(array.type) else [array.values])
        elif _is_text(array.type) and (longest := pc.max(pc.binary_length(array)).as_py() or 0) > MOST_TEXT_BYTES:
            raise BadParquet(f"holds a text of {longest:,} bytes, wanted at most {MOST_TEXT_BYTES:,}")


def _unfolded(array: pa.Array) -> pa.Array:
    """A dictionary of short texts as the texts, which are read faster."""
    if not pa.types.is_dictionary(array.type):
        return array
    longest = pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    return array.dictionary_decode() if longest * len(array) <= UNFOLDED else array


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)


def _values(table: pa.Table) -> list[dict[str, Any] | str]:
    """Rows, or what is wrong with one: not every value of Arrow's is one of Python's."""
    try:
        return table.to_pylist()
    except (ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        if table.num_rows == 1:
            return [f"cannot be read: {' '.join(str(error).split())[:200]}"]
        return [value for row in range(table.num_rows) for value in _values(table.slice(row, 1))]


def _is_read_otherwise(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    if pa.types.is_float16(kind) or pa.types.is_float32(kind) or _is_bytes(kind):
        return True
    return any(_is_read_otherwise(kind.field(number).type) for number in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _as_meant(value: Any, kind: pa.DataType) -> Any:
    """A float of few bits as the shortest decimal that it stands for: who wrote 7.1 as float32 meant 7.1. Bytes as
    text, which some writers do not say that they are; what is none is left to the row's check."""
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return float(str(np.float32(value) if pa.types.is_float32(kind) else np.float16(value)))
    if pa.types.is_struct(kind):
        return value | {field.name: _as_meant(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_as_meant(item, kind.value_type) for item in value]
    return value
