"""Lists of prompts as people share them become a manifest: TXT, TSV, CSV, a JSON array, JSON lines; also gzipped."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from darkroom.manifest.csv_files import SEPARATORS, rounded, surplus
from darkroom.manifest.keys import ROW_KEYS, SWITCHES, TEXT_FIELDS, did_you_mean
from darkroom.manifest.packed_files import unpacked
from darkroom.manifest.sources import file_name, is_packed, suffix_of
from darkroom.manifest.texts import BOM, BadText, decoded, loads
from darkroom.storage import TooLarge, read_uri, write_uri

MOST_BYTES = 64 * 2**20  # of a list, unpacked
END = "\0the end"  # of a table: where quotes are open it is within a text, and all rows since are too
SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Converted:
    """rows: written; left_out: how often each column has a value that no key takes."""

    rows: int
    left_out: dict[str, int]


def convert(source: str, out: str, defaults: Iterable[str] = (), columns: Iterable[str] = ()) -> Converted:
    """Writes the list at `source` as JSON lines at `out`. defaults: "key=value", of rows that name no other; columns:
    "column=key", what a column of the list is called in a manifest. What no key takes is left out.

    ValueError for what the user can mend, StorageError.
    """
    if suffix_of(out) != ".jsonl":
        raise ValueError(f"--out {out}: wanted a name that ends in .jsonl")
    given = {key: _value(key, text) for key, text in _pairs("--default", defaults)}
    keys = dict(_pairs("--column", columns, named=1))
    left_out: Counter[str] = Counter()
    lines = []
    for values in _rows(source):
        row = _renamed(values, keys, file_name(source))
        left_out.update(key for key in row if key not in ROW_KEYS)
        if known := {key: _value(key, value) for key, value in row.items() if key in ROW_KEYS}:
            lines.append(json.dumps(given | known, ensure_ascii=False))
    if not lines:
        found = f"; its columns are {', '.join(map(repr, list(left_out)[:10]))}" if left_out else ""
        raise ValueError(
            f"{file_name(source)} has no row with a key of a manifest{found}: name one by --column NAME=prompt"
        )
    write_uri(out, "".join(f"{line}\n" for line in lines).encode())
    return Converted(len(lines), dict(left_out))


def _renamed(values: dict[str, Any], keys: dict[str, str], where: str) -> dict[str, Any]:
    """A row by the keys of a manifest, without its empty cells. ValueError where two of its columns are one key, or its
    seed is a rounded one."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        if value in (None, ""):
            continue
        if (key := keys.get(name, name)) in row:
            both = " and ".join(repr(other) for other in values if keys.get(other, other) == key)
            raise ValueError(f"{where}: {both} are both {key!r}, and a row has both: leave one out")
        if key == "seed" and isinstance(value, str) and (problem := rounded(value)):
            raise ValueError(f"{where}: {problem}")
        row[key] = value
    return row


def _pairs(option: str, texts: Iterable[str], named: int = 0) -> Iterator[tuple[str, str]]:
    """named: which of the two is a key of manifests."""
    for text in texts:
        pair = text.partition("=")[::2]
        if not all(pair):
            raise ValueError(f"{option} {text}: wanted two names with = between them")
        if pair[named] not in ROW_KEYS:
            raise ValueError(f"{option} {text}: no task takes {pair[named]!r}{did_you_mean(pair[named], ROW_KEYS)}")
        yield pair


def _value(key: str, value: Any) -> Any:
    if key in TEXT_FIELDS or not isinstance(value, str):
        return value
    try:
        return loads(value.lower() if key in SWITCHES else value)
    except ValueError:
        return value


def _rows(source: str) -> Iterator[dict[str, Any]]:
    name = file_name(source)
    try:
        data = read_uri(source, MOST_BYTES)
    except TooLarge as error:
        raise ValueError(f"{name}: has {error.size:,} bytes, wanted at most {MOST_BYTES:,}: cut it in parts") from None
    if data.startswith(b"\x1f\x8b") or is_packed(name):
        data, name = _unpacked(data, name), name.removesuffix(".gz")
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        raise ValueError(f"{name}: wanted a list that ends in {', '.join(SUFFIXES)}, or in one of them and .gz")
    text = decoded(data.removeprefix(BOM))
    if suffix == ".txt":
        lines = filter(None, map(str.strip, _lines(text)))
        return ({"prompt": line} for line in lines if not line.startswith("#"))
    if suffix in (".tsv", ".csv"):
        return _table(text, name, suffix)
    return _objects(text, name, suffix)


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        found = unpacked(io.BytesIO(data)).read(MOST_BYTES + 1)
    except BadText as error:
        raise ValueError(f"{name}: {error}") from None
    if len(found) > MOST_BYTES:
        raise ValueError(f"{name}: more than {MOST_BYTES // 2**20} MiB unpacked")
    return found


def _lines(text: str) -> io.StringIO:
    """Ended by \\n, \\r\\n or \\r: str.splitlines also cuts at U+2028 and others, which prompts may hold."""
    return io.StringIO(text, newline=None)


def _table(text: str, name: str, suffix: str) -> Iterator[dict[str, Any]]:
    lead = re.match(r"(sep=[^\r\n]*)?[\r\n]*", text)[0]  # a line for spreadsheets alone, and empty ones
    skipped, text = len(list(_lines(lead))), text.removeprefix(lead)
    if not text:
        return
    header = next(_lines(text), "")
    separator = max(",\t;" if suffix == ".csv" else "\t,;", key=header.count)
    # In a list between tabs a quote is mostly one that somebody typed.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    end = separator.join([END] * (header.count(separator) + 1))  # of columns of one name DictReader has the last
    table = csv.DictReader(io.StringIO(f"{text}\n{end}", newline=""), delimiter=separator, quoting=quoting)
    before = last = 1 + skipped  # lines at which the row before this one ends, and this one
    try:
        for column, count in Counter(table.fieldnames).items():
            if column and count > 1:  # of their cells a row would have the last one alone
                raise ValueError(f"{name} line {last}: the column {column[:60]!r} is there {count:,} times")
        for row in table:
            if END in row.values():
                return
            before, last = last, table.line_num + skipped
            if counts := surplus(row):
                hint = f"; a text with {SEPARATORS[separator]} stands in quotes" if quoting == csv.QUOTE_MINIMAL else ""
                raise ValueError(f"{name} line {last}: {counts}{hint}")
            yield row
    except csv.Error as error:
        raise ValueError(f"{name}: {error}") from None
    raise ValueError(f"{name}: quotes that open after line {before} are never closed")


def _objects(text: str, name: str, suffix: str) -> Iterator[dict[str, Any]]:
    whole = suffix == ".json" or text.lstrip().startswith("[")
    try:
        found = loads(text) if whole else [loads(line) for line in _lines(text) if line.strip()]
    except ValueError as error:
        raise ValueError(f"{name}: not JSON: {error}") from None
    for row in found if isinstance(found, list) else [found]:
        if not isinstance(row, (dict, str)):
            raise ValueError(f"{name}: wanted a list of objects or of prompts, one of its items is {str(row)[:60]!r}")
        yield {"prompt": row} if isinstance(row, str) else row
