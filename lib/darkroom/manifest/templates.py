"""Texts of a YAML manifest that are filled in: ids with their row's own values, and every text of a matrix that has
variables with these."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from darkroom.manifest.keys import ROW_KEYS, did_you_mean
from darkroom.sampling.names import nearest

MOST_TEMPLATE, MOST_TEXT = 1000, 20_000  # characters of an id's template, and of what comes of any
# What a number's or a text's format may ask for; a width of ten digits is a memory's worth of blanks.
_SPEC = re.compile(r"(.?[<>=^])?[-+ ]?#?0?[0-9]{0,3}[,_]?(\.[0-9]{1,2})?[a-zA-Z%]?")


def fill_id(template: str, values: Mapping[str, Any]) -> str:
    """`"sdedit-{start}-{seed:03d}"` with the row's own scalar values. ValueError for a name the row does not have."""
    if len(template) > MOST_TEMPLATE:
        raise ValueError(f"id template of {len(template):,} characters, wanted at most {MOST_TEMPLATE:,}")
    scalars = {key: value for key, value in _named(values) if key != "id" and isinstance(value, (str, int, float))}
    return _filled(f"id template {template!r}", template, scalars)


def find_variables(matrix: Mapping[str, Any], defaults: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a matrix that no task has, and that its texts, or those of the defaults, name. Without any, texts are
    as they are written. ValueError for a key that none names."""
    variables = [key for key in matrix if key not in ROW_KEYS]
    if not variables:
        return frozenset()
    texts = {**defaults, **matrix}
    named = {name for key, value in texts.items() if key in ROW_KEYS for name in _names(f"'{key}'", value)}
    if unnamed := [key for key in variables if key not in named]:
        unknown = sorted(named - texts.keys())
        raise ValueError("; ".join(_unnamed(key, matrix, unknown) for key in unnamed[:5]))
    return frozenset(variables)


def fill_texts(row: Mapping[str, Any], variables: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row without its variables, but for its id filled in with these and its own numbers; and the variables.
    ValueError for a value that is neither text nor number, and for a name that is none of either."""
    values = {key: row[key] for key in row if key in variables}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            hint = " (YAML's yes and no are truths: put them in quotes)" if isinstance(value, bool) else ""
            raise ValueError(f"the variable '{key}' is {str(value)[:60]}, wanted a text or a number{hint}")
    own = {key: value for key, value in row.items() if key not in values}
    known = {key: value for key, value in _named(own) if isinstance(value, (int, float))} | values
    return {key: value if key == "id" else _within(key, value, known) for key, value in own.items()}, values


def _named(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """YAML has keys that are no texts, which the row's own check refuses."""
    return ((key, value) for key, value in values.items() if isinstance(key, str))


def _within(key: str, value: Any, values: Mapping[str, Any]) -> Any:
    """A value with each of its texts filled in."""
    if isinstance(value, str):
        return _filled(f"'{key}'", value, values)
    if isinstance(value, Mapping):
        return {name: _within(key, item, values) for name, item in value.items()}
    return [_within(key, item, values) for item in value] if isinstance(value, list) else value


def _names(what: str, value: Any) -> Iterator[str]:
    """The names in the texts of a value. ValueError."""
    if isinstance(value, str):
        yield from (name for _, name, _, _ in _parsed(what, value) if name is not None)
    elif isinstance(value, (list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _names(what, item)


def _filled(what: str, template: str, values: Mapping[str, Any]) -> str:
    parts, length = [], 0
    for literal, name, spec, conversion in _parsed(what, template):
        parts.append(literal)
        if name is not None:
            parts.append(_formatted(what, name, spec or "", conversion, values))
        length += sum(map(len, parts[-2:]))
        if length > 2 * MOST_TEXT:
            raise ValueError(f"{what} becomes longer than {MOST_TEXT:,} characters")
    return "".join(parts)


def _formatted(what: str, name: str, spec: str, conversion: str | None, values: Mapping[str, Any]) -> str:
    if name not in values:
        hint = nearest(name, values) or f"; it has {', '.join(sorted(values)) or 'none'}"
        raise ValueError(f"{what} names '{name}', which this row has no single value for{hint}")
    if conversion:
        raise ValueError(f"{what}: conversions such as !{conversion} are not offered")
    if not _SPEC.fullmatch(spec):
        raise ValueError(f"{what}: the format {spec!r} is not offered")
    value = values[name]
    try:
        return format(value[: MOST_TEXT + 1] if isinstance(value, str) else value, spec)
    except (ValueError, OverflowError) as error:  # of whole numbers that are no character's, or no float's
        raise ValueError(f"{what}: the format {spec!r} does not fit '{name}', {str(value)[:60]!r}: {error}") from None


def _parsed(what: str, template: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    try:
        yield from string.Formatter().parse(template)
    except ValueError as error:
        raise ValueError(f"{what} is no template: {error}; a brace itself is written twice") from None


def _unnamed(key: object, matrix: Mapping[str, Any], names: list[str]) -> str:
    """names: that texts have and nothing is there for."""
    name = str(key)[:60]
    others = f"; they name {', '.join(f'{{{other[:60]}}}' for other in names[:5])}" if names else ""
    hint = did_you_mean(key, ROW_KEYS - matrix.keys()) or f": no text of this matrix names {{{name}}}{others}"
    return f"unknown key {name!r}{hint}"
