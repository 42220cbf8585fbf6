"""From one YAML document to its rows: defaults merged under, combinations of listed values, ids from templates."""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.sampling.names import nearest

MOST_ROWS = 10_000_000  # of a file's matrices: who writes more zeros than meant would wait for hours
MOST_TEMPLATE, MOST_ID = 1000, 200  # characters
# What a number's or a text's format may ask for; a width of ten digits is a memory's worth of blanks.
_SPEC = re.compile(r"(.?[<>=^])?[-+ ]?#?0?[0-9]{0,3}[,_]?(\.[0-9]{1,2})?[a-zA-Z%]?")
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


def _axes(matrix: Mapping[str, Any]) -> list[list[Any]]:
    """The values of each key."""
    axes = []
    for key, value in matrix.items():
        swept = isinstance(value, list)
        if key in LIST_FIELDS:
            swept = swept and all(isinstance(choice, list) for choice in value)
        if swept and not value:
            raise ValueError(f"'{key}' lists no values, so there is no combination")
        axes.append(value if swept else [value])
    return axes


def fill_template(template: str, values: Mapping[str, Any]) -> str:
    """`"sdedit-{start}-{seed:03d}"` with the row's own scalar values. ValueError for a name the row does not have."""
    if len(template) > MOST_TEMPLATE:
        raise ValueError(f"id template of {len(template):,} characters, wanted at most {MOST_TEMPLATE:,}")
    scalars = {key: value for key, value in values.items() if key != "id" and isinstance(value, (str, int, float))}
    parts = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        parts.append(literal)
        if name is None:
            continue
        if name not in scalars:
            hint = nearest(name, scalars) or f"; it has {', '.join(sorted(scalars)) or 'none'}"
            raise ValueError(f"id template {template!r} names '{name}', which this row has no single value for{hint}")
        if conversion:
            raise ValueError(f"id template {template!r}: conversions such as !{conversion} are not offered")
        if not _SPEC.fullmatch(spec):
            raise ValueError(f"id template {template!r}: the format {spec!r} is not offered")
        value = scalars[name]
        parts.append(format(value[: MOST_ID + 1] if isinstance(value, str) else value, spec))
    return "".join(parts)


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
    for number, row in enumerate(rows, 1):
        yield _row(row, defaults, f"{name} row {number}")


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
            if total > left:
                raise ValueError(f"{total:,} combinations; all matrices of a file may have {MOST_ROWS:,} together")
            left -= total
            for count, row in enumerate(combinations(matrix), 1):
                yield _row(row, defaults, f"{where} combination {count}")
        except ValueError as error:
            yield WrittenRow(where, problem=str(error))


def _row(row: Any, defaults: Mapping[str, Any], where: str) -> WrittenRow:
    if not isinstance(row, Mapping):
        return WrittenRow(where, problem=f"must be a mapping, was {_kind(row)}")
    replaced = {other for group in ALTERNATIVES if group & row.keys() for other in group}
    data = {key: value for key, value in defaults.items() if key not in replaced} | dict(row)
    if isinstance(data.get("id"), str):
        try:
            data["id"] = fill_template(data["id"], data)
        except ValueError as error:
            return WrittenRow(where, problem=str(error))
    return WrittenRow(where, data)


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "a mapping", str: "text", type(None): "nothing"}
    return names.get(type(value), repr(value))
