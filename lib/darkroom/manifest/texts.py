"""Lines of text and JSON as their standards have them, with an answer in plain words for those that are not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

MOST_BYTES = 4 * 2**20  # of a line: a row is some hundred
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"


class BadText(ValueError):
    """What is no text, and no line of it."""


def decoded(line: bytes) -> str:
    """The line as text. BadText."""
    if line.startswith(UTF16):
        raise BadText("the text is UTF-16, wanted UTF-8 (spreadsheets call it 'CSV UTF-8')")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start : error.start + 1]
        perhaps = byte.decode("cp1252", "ignore")
        perhaps = f" (in Windows-1252 it would be {perhaps})" if perhaps.isprintable() and perhaps else ""
        raise BadText(f"is not UTF-8: byte {error.start + 1} is 0x{byte.hex()}{perhaps}; save it as UTF-8") from None


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """The lines of a text, each with its end: \\n, \\r\\n or, as old spreadsheets write, \\r. BadText."""
    first = True
    while line := stream.readline(MOST_BYTES):
        if len(line) == MOST_BYTES and not line.endswith(b"\n"):
            raise BadText(f"a line has more than {MOST_BYTES // 2**20} MiB")
        text = decoded(line.removeprefix(BOM) if first else line)
        first = False
        yield from _cut(text) if "\r" in text[:-2] else (text,)


def _cut(text: str) -> list[str]:
    return re.findall(r"[^\r]*(?:\r\n?|$)", text)[:-1] if text.endswith(("\r", "\n")) else text.split("\r")


def loads(text: str) -> Any:
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
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} is given twice")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# Made once: json.loads would make a decoder for every row.
_loads = json.JSONDecoder(parse_constant=_refuse_constant).decode
_loads_pairs = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant).decode
