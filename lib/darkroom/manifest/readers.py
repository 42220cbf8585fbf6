"""Manifest files as a stream of rows: JSONL, Parquet, CSV and YAML, local or on S3.

An absent key, a null and an empty CSV cell mean the same thing in every format. What cannot be read is a row that
carries a `problem`, so that one bad line does not hide the next one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from darkroom.manifest.sweeps import Row, expand
from darkroom.storage import NotFound, read_uri

# The only cells of a CSV that are taken as they stand; a prompt "7" stays text.
TEXT_FIELDS = frozenset(
    {"id", "task", "prompt", "negative_prompt", "timesteps", "sampler", "image", "mask", "reduction", "method"}
)
NESTED_FIELDS = frozenset({"views", "components", "resample", "stage2", "stage3"})
PARQUET_BATCH_ROWS = 1024


def read_rows(uri: str) -> Iterator[Row]:
    """Rows of the manifest at `uri` (local path or s3://), in order. StorageError when storage itself fails."""
    try:
        content = read_uri(uri)
    except (NotFound, ValueError) as error:
        yield Row(file_name(uri), problem=str(error))
        return
    yield from rows_in(uri, content)


def rows_in(uri: str, content: bytes) -> Iterator[Row]:
    """Rows of a manifest's content; the suffix of `uri` says the format."""
    name = file_name(uri)
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    reader = READERS.get(suffix)
    if reader is None:
        given = f"was '{suffix}'" if suffix else "has none"
        yield Row(name, problem=f"unsupported suffix: wanted one of {', '.join(READERS)}, {given}")
        return
    for row in reader(name, content):
        yield row if row.problem else Row(row.where, _without_nulls(row.data))


def file_name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _read_jsonl(name: str, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(io.BytesIO(content), 1):
        where = f"{name} line {number}"
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip()
        if not line:
            continue
        try:
            data = _json(line.decode())
        except ValueError as error:
            yield Row(where, problem=f"not a JSON object: {error}")
            continue
        is_object = isinstance(data, dict)
        yield Row(where, data) if is_object else Row(where, problem=f"not a JSON object, was {str(data)[:60]}")


def _read_csv(name: str, content: bytes) -> Iterator[Row]:
    table = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=""), strict=True)
    before = 0
    header: list[str] | None = None
    try:
        for cells in table:
            where, before = f"{name} line {before + 1}", table.line_num
            if not cells:
                continue
            if header is None:
                header = cells
                twice = sorted({column for column in header if header.count(column) > 1})
                if twice:
                    yield Row(where, problem=f"the header names {', '.join(map(repr, twice))} more than once")
                    return
                continue
            yield _csv_row(where, header, cells)
    except (csv.Error, UnicodeDecodeError) as error:
        yield Row(f"{name} line {before + 1}", problem=f"cannot be read from here on: {error}")


def _csv_row(where: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return Row(where, problem=f"has {len(cells)} cells, the header has {len(header)}")
    data: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=True):
        if not cell:
            continue
        try:
            data[column] = cell if column in TEXT_FIELDS else _json(cell)
        except ValueError as error:
            if column in NESTED_FIELDS:
                return Row(where, problem=f"the cell of '{column}' is not JSON: {error}")
            data[column] = cell
    return Row(where, data)


def _read_parquet(name: str, content: bytes) -> Iterator[Row]:
    number = 0
    # The content is in memory, so an OSError here is a damaged file, never a failing disk.
    try:
        for batch in pq.ParquetFile(pa.BufferReader(content)).iter_batches(PARQUET_BATCH_ROWS):
            for data in batch.to_pylist():
                number += 1
                yield Row(f"{name} row {number}", data)
    except (pa.ArrowException, OSError) as error:
        yield Row(name, problem=f"not a readable Parquet file after row {number}: {error}")


def _read_yaml(name: str, content: bytes) -> Iterator[Row]:
    try:
        document = _yaml(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name} line {mark.line + 1}" if mark else name
        yield Row(where, problem=getattr(error, "problem", None) or f"not YAML: {error}")
    except (ValueError, RecursionError) as error:
        yield Row(name, problem=f"not YAML: {error}")
    else:
        yield from expand(document, name)


def _yaml(content: bytes) -> Any:
    """safe_load that refuses a key given twice and a value that contains itself."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, open_nodes=set(), done=set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_node(node: yaml.Node, open_nodes: set[int], done: set[int]) -> None:
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    if id(node) in open_nodes:
        raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
    open_nodes.add(id(node))
    seen: set[tuple[str, str]] = set()
    for child in node.value:
        if isinstance(node, yaml.MappingNode):
            key, child = child
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key '{key.value}' is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        _check_node(child, open_nodes, done)
    done.add(id(node))


def _json(text: str) -> Any:
    """JSON as its standard has it: no NaN or Infinity, no key twice. ValueError otherwise."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
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


READERS = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
