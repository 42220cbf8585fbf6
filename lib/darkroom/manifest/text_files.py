"""Files of text as streams of rows: JSON lines, an array of JSON, prompts a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from darkroom.manifest.sweeps import WrittenRow
from darkroom.manifest.texts import BOM, MOST_BYTES, UTF16, BadText, decoded, loads

CHUNK_BYTES = 2**19
MOST_ARRAY, MOST_MARKS = 32 * 2**20, 2_000_000  # bytes and values: it is read whole
BREAK, COMMENT = b"\n", b"#"


class Lines(NamedTuple):
    """Whole lines, not parsed yet. first: the number of the first; prompts: whether each is one, else a JSON object."""

    name: str
    first: int
    text: bytes
    prompts: bool

    def rows(self) -> Iterator[WrittenRow]:
        if not self.text.strip():  # a few bytes of a gzip file are gigabytes of empty lines
            return
        read = _prompt if self.prompts else _object
        for number, line in enumerate(io.BytesIO(self.text), self.first):
            line = (line.removeprefix(BOM) if number == 1 else line).rstrip()
            if not line or (self.prompts and line.lstrip().startswith(COMMENT)):
                continue
            where = f"{self.name} line {number}"
            try:
                yield WrittenRow(where, read(line))
            except BadText as error:
                yield WrittenRow(where, problem=str(error))


def cut_lines(name: str, stream: BinaryIO, prompts: bool) -> Iterator[Lines | list[WrittenRow]]:
    """Lines by about half a megabyte; and what ends the reading, as rows with a problem."""
    first = 1
    while block := stream.read(CHUNK_BYTES):
        if first == 1 and block.startswith(UTF16):
            yield [WrittenRow(name, problem="the text is UTF-16, wanted UTF-8")]
            return
        rest = b"" if block.endswith(BREAK) else stream.readline(MOST_BYTES)
        if len(rest) == MOST_BYTES and not rest.endswith(BREAK):
            block = block[: block.rfind(BREAK) + 1]
            where = f"{name} line {first + block.count(BREAK)}"
            yield Lines(name, first, block, prompts)
            reason = f"has more than {MOST_BYTES // 2**20} MiB; nothing was read from here on"
            yield [WrittenRow(where, problem=reason)]
            return
        yield Lines(name, first, block + rest, prompts)
        first += block.count(BREAK) + rest.count(BREAK)


def array_rows(name: str, stream: BinaryIO) -> Iterator[WrittenRow]:
    """Rows, or prompts, of `[..., ...]`. Their places are numbered from 1."""
    content = stream.read(MOST_ARRAY + 1)
    if len(content) > MOST_ARRAY or sum(map(content.count, (b",", b":", b"[", b"{"))) > MOST_MARKS:
        most = f"{MOST_ARRAY // 2**20} MiB and {MOST_MARKS:,} values"
        yield WrittenRow(name, problem=f"a JSON array may have {most}; for more rows there is JSONL")
        return
    try:
        found = loads(decoded(content.removeprefix(BOM)))
    except BadText as error:
        yield WrittenRow(name, problem=str(error))
        return
    except ValueError as error:
        hint = "; a file with a row on each line is .jsonl" if content.lstrip()[:1] == b"{" else ""
        yield WrittenRow(name, problem=f"not JSON: {error}{hint}")
        return
    if not isinstance(found, list):
        yield WrittenRow(name, problem=f"wanted a list of rows or of prompts, [...], was {str(found)[:60]!r}")
        return
    for number, row in enumerate(found, 1):
        yield _item(f"{name} row {number}", row)


def _item(where: str, row: Any) -> WrittenRow:
    if isinstance(row, str):
        return WrittenRow(where, {"prompt": row})
    if isinstance(row, dict):
        return WrittenRow(where, row)
    return WrittenRow(where, problem=f"a row is an object or a prompt, was {str(row)[:60]}")


def _prompt(line: bytes) -> dict[str, Any]:
    return {"prompt": decoded(line).strip()}


def _object(line: bytes) -> dict[str, Any]:
    """BadText."""
    try:
        data = loads(decoded(line))
    except BadText:
        raise
    except ValueError as error:
        raise BadText(f"not a JSON object: {error}") from None
    if isinstance(data, dict):
        return data
    hint = ": a row is an object of its own, on its own line" if isinstance(data, list) else ""
    raise BadText(f"not a JSON object, was {line[:60].decode(errors='replace')}{hint}")
