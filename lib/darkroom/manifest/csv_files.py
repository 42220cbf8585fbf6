"""CSV, or TSV, as a stream of rows. An empty cell is an absent key, a row of nothing but empty cells an empty line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from darkroom.manifest.keys import NESTED_FIELDS, SWITCHES, TEXT_FIELDS, column_problems
from darkroom.manifest.sweeps import WrittenRow
from darkroom.manifest.texts import BadText, lines_of, loads
from darkroom.phases import plural

_ROUNDED = re.compile(r"[-+]?[0-9.,]+[eE][-+]?[0-9]+")
MOST_EMPTY = 2**21  # lines one after the other, twice a spreadsheet's
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "commas"}


class Cells(NamedTuple):
    """Rows not parsed yet. found: where each stands, and its cells."""

    header: list[str]
    found: list[tuple[str, list[str]]]

    def rows(self) -> Iterator[WrittenRow]:
        return (_row(where, self.header, cells) for where, cells in self.found)


def cut_csv(name: str, stream: BinaryIO, count: int, separator: str) -> Iterator[Cells | list[WrittenRow]]:
    """So many rows at a time; and what ends the reading, as rows with a problem."""
    table = csv.reader(lines_of(stream), strict=True, delimiter=separator)
    lines = _numbered(name, table)
    found: list[tuple[str, list[str]]] = []
    problem: WrittenRow | None = None
    try:
        where, header = next(lines, ("", []))
        if problems := list(_header_problems(header, separator)):
            yield [WrittenRow(where, problem=text) for text in problems]
            return
        for line in lines:
            found.append(line)
            if len(found) == count:
                yield Cells(header, found)
                found = []
    except (csv.Error, BadText) as error:
        # A mistake in the quotes is told by where its row begins, another by where it is.
        line = table.line_num + (isinstance(error, BadText))
        problem = WrittenRow(f"{name} line {line}", problem=f"cannot be read from here on: {error}")
    if found:
        yield Cells(header, found)
    if problem is not None:
        yield [problem]


def _numbered(name: str, table: Any) -> Iterator[tuple[str, list[str]]]:
    """The lines that say something, each with its place. BadText."""
    before, empty = 0, 0
    for cells in table:
        line, before = before + 1, table.line_num
        if any(cells):
            yield f"{name} line {line}", cells
            empty = 0
        elif (empty := empty + 1) > MOST_EMPTY:
            raise BadText(f"{MOST_EMPTY:,} lines with nothing in them")


def _header_problems(header: list[str], wanted: str) -> Iterator[str]:
    if not header:
        return
    if header[0].startswith("sep="):
        yield f"{header[0]!r} is for a spreadsheet alone: take this line out"
        return
    for separator, words in SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            hint = ", or a name that ends in .tsv" if separator == "\t" else ""
            yield f"the columns are separated by {words}, wanted {SEPARATORS[wanted]}{hint}"
            return
    yield from column_problems(header)


def surplus(row: dict[Any, Any]) -> str:
    """Takes what lies beyond the header out of a row of csv.DictReader; what to say of it, "" where it is nothing."""
    beyond = row.pop(None, [])
    return f"has {len(row) + len(beyond)} cells, the header has {len(row)}" if any(beyond) else ""


def rounded(seed: str) -> str:
    """What to say of a seed whose digits a spreadsheet has left out, "" of any other."""
    if not _ROUNDED.fullmatch(seed):
        return ""
    return f"'seed' is {seed[:60]!r}: a spreadsheet's way to show a rounded number; wanted all of its digits"


def _row(where: str, header: list[str], cells: list[str]) -> WrittenRow:
    if len(cells) != len(header):
        hint = "; a text with commas stands in quotes" if len(cells) > len(header) else ""
        return WrittenRow(where, problem=f"has {plural(len(cells), 'cell')}, the header has {len(header)}{hint}")
    data: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=True):
        if not cell:
            continue
        if column == "seed" and (problem := rounded(cell)):
            return WrittenRow(where, problem=problem)
        try:
            data[column] = cell if column in TEXT_FIELDS else loads(cell.lower() if column in SWITCHES else cell)
        except ValueError as error:
            if column in NESTED_FIELDS:
                return WrittenRow(where, problem=f"the cell of '{column}' is not JSON: {error}")
            data[column] = cell
    return WrittenRow(where, data)
