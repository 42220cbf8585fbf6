"""From one YAML document to its rows: defaults merged under, combinations of listed values and ranges, texts and ids
from templates."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darkroom.manifest.keys import NUMBER_FIELDS, ROW_KEYS
from darkroom.manifest.templates import fill_id, fill_texts, find_variables
from darkroom.sampling.names import nearest

MOST_ROWS = 10_000_000  # of a file's matrices: who writes more zeros than meant would wait for hours
_RANGE = re.compile(r"\s*(-?[0-9]{1,18})\s*\.\.\s*(-?[0-9]{1,18})\s*")
LIST_FIELDS = frozenset({"views", "components", "guidance_interval"})
TOP_LEVEL = ("defaults", "rows", "matrix")
# A row that names one of these means it instead of a default's other one, not together with it.
ALTERNATIVES = (
    frozenset({"prompt", "label"}),
    frozenset({"steps", "stride", "timesteps"}),
    frozenset({"start", "strength"}),
)


@dataclass(frozen=True)
class WrittenRow:
    """A row as it was written, before its meaning is checked.

    where: the place in words, such as "demo.yaml row 12" or "jobs.jsonl line 3".
    problem: what kept it from being read, "" when nothing did; `data` is not to be used when there is one.
    """

    where: str
    data: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def expand(document: Any, name: str) -> Iterator[WrittenRow]:
    """Rows of a YAML manifest: those under `rows` first, then the combinations of each `matrix`, last key fastest."""
    if not isinstance(document, Mapping):
        wanted = "a YAML manifest is a mapping with defaults, rows and matrix"
        hint = " (put the list under 'rows:')" if isinstance(document, list) else ""
        yield WrittenRow(name, problem="the file is empty" if document is None else f"{wanted}, this is not one{hint}")
        return
    yield from _unknown_keys(document, name)
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, Mapping):
        yield WrittenRow(name, problem=f"'defaults' must be a mapping, was {_kind(defaults)}")
        defaults = {}
    yield from _written(document.get("rows"), defaults, name)
    yield from _swept(document.get("matrix"), defaults, name)


def combinations(matrix: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the listed values; what is not listed is the same in all. ValueError for an empty list."""
    for chosen in itertools.product(*_axes(matrix)):
        yield dict(zip(matrix, chosen, strict=True))


def _axes(matrix: Mapping[str, Any]) -> list[Sequence[Any]]:
    """The values of each key. ValueError."""
    axes: list[Sequence[Any]] = []
    for key, value in matrix.items():
        swept = isinstance(value, list)
        if key in LIST_FIELDS:
            swept = swept and all(isinstance(choice, list) for choice in value)
        if swept and not value:
            raise ValueError(f"'{key}' lists no values, so there is no combination")
        axes.append(_spread(key, value if swept else [value]))
    return axes


def _spread(key: Any, values: list[Any]) -> Sequence[Any]:
    """The values, with each range's numbers in its place. ValueError."""
    ranges = [_range(key, value) for value in values]
    if len(ranges) == 1 and ranges[0]:
        return ranges[0]  # as it is, which may be long: the combinations are counted before any is made
    _refuse_many(sum(map(len, filter(None, ranges))), MOST_ROWS)
    return [item for value, found in zip(values, ranges, strict=True) for item in found or [value]]


def _range(key: Any, value: Any) -> range | None:
    """`0..7` as its numbers, both ends among them; None for what is none: a text, or a variable's. ValueError."""
    if not isinstance(value, str) or ".." not in value or (key in ROW_KEYS and key not in NUMBER_FIELDS):
        return None
    shown = f"'{str(key)[:60]}: {value.strip()[:40]}'"
    found = _RANGE.fullmatch(value)
    if found is None and key in NUMBER_FIELDS:
        raise ValueError(f"{shown} is no range, wanted such as 0..7, of whole numbers")
    if found is None:
        return None
    first, last = map(int, found.groups())
    if first > last:
        raise ValueError(f"{shown} goes down: wanted its smaller end first")
    return range(first, last + 1)


def _refuse_many(count: int, left: int) -> None:
    if count > left:
        raise ValueError(f"{count:,} combinations; all of a file may have {MOST_ROWS:,} together")


def _unknown_keys(document: Mapping[str, Any], name: str) -> Iterator[WrittenRow]:
    for key in document:
        if key not in TOP_LEVEL:
            hint = nearest(key, TOP_LEVEL) or f"; there are {', '.join(TOP_LEVEL)}"
            yield WrittenRow(name, problem=f"unknown top-level key {str(key)[:60]!r}{hint}")


def _written(rows: Any, defaults: Mapping[str, Any], name: str) -> Iterator[WrittenRow]:
    if rows is None:
        return
    if not isinstance(rows, list):
        yield WrittenRow(name, problem=f"'rows' must be a list, was {_kind(rows)}")
        return
    left = MOST_ROWS
    for number, row in enumerate(rows, 1):
        where = f"{name} row {number}"
        try:
            ranges = _ranges_of(row)
            count = math.prod(map(len, ranges.values()))
            _refuse_many(count, left)
        except ValueError as error:
            yield WrittenRow(where, problem=str(error))
            continue
        left -= count
        for place, chosen in enumerate(itertools.product(*ranges.values()), 1):
            part = row | dict(zip(ranges, chosen, strict=True)) if ranges else row
            yield _row(part, defaults, f"{where} combination {place}" if ranges else where)


def _ranges_of(row: Any) -> dict[str, range]:
    """Of the row's own numbers. ValueError."""
    own = row.items() if isinstance(row, Mapping) else ()
    return {key: found for key, value in own if key in NUMBER_FIELDS and (found := _range(key, value))}


def _swept(matrices: Any, defaults: Mapping[str, Any], name: str) -> Iterator[WrittenRow]:
    if matrices is None:
        return
    if not isinstance(matrices, (list, Mapping)):
        yield WrittenRow(name, problem=f"'matrix' must be a mapping or a list of mappings, was {_kind(matrices)}")
        return
    left = MOST_ROWS
    for number, matrix in enumerate([matrices] if isinstance(matrices, Mapping) else matrices, 1):
        where = f"{name} matrix {number}"
        if not isinstance(matrix, Mapping):
            yield WrittenRow(where, problem=f"must be a mapping, was {_kind(matrix)}")
            continue
        try:
            total = math.prod(map(len, _axes(matrix)))
            _refuse_many(total, left)
            left -= total
            variables = find_variables(matrix, defaults)
            for count, row in enumerate(combinations(matrix), 1):
                yield _row(row, defaults, f"{where} combination {count}", variables)
        except ValueError as error:
            yield WrittenRow(where, problem=str(error))


def _row(row: Any, defaults: Mapping[str, Any], where: str, variables: frozenset[str] = frozenset()) -> WrittenRow:
    if not isinstance(row, Mapping):
        return WrittenRow(where, problem=f"must be a mapping, was {_kind(row)}")
    replaced = {other for group in ALTERNATIVES if group & row.keys() for other in group}
    data, values = {key: value for key, value in defaults.items() if key not in replaced} | dict(row), {}
    try:
        if variables:
            data, values = fill_texts(data, variables)
        if isinstance(data.get("id"), str):
            data["id"] = fill_id(data["id"], data | values)
    except ValueError as error:
        return WrittenRow(where, problem=str(error))
    return WrittenRow(where, data)


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "a mapping", str: "text", type(None): "nothing"}
    return names.get(type(value), repr(value))
