"""YAML with the line of every key, so that a problem can say where it is."""

from __future__ import annotations

from typing import Any

import yaml

Place = tuple[str | int, ...]


def load(content: bytes, name: str) -> tuple[Any, dict[Place, int]]:
    """The document, and the line (from 1) at which each of its keys and items stands.

    ValueError, with file and line, for what is no YAML or names a key twice.
    """
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name} line {mark.line + 1}" if mark else name
        raise ValueError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:  # ValueError: a date of month 13
        raise ValueError(f"{name}: not YAML: {error}") from None
    lines: dict[Place, int] = {}
    if root is not None:
        _note(root, (), lines, name, frozenset())
    return document, lines


def line_of(place: Place, lines: dict[Place, int]) -> int:
    """The line of a place, or of the nearest above it that the document has."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _note(node: yaml.Node, place: Place, lines: dict[Place, int], name: str, above: frozenset[int]) -> None:
    if id(node) in above:
        raise ValueError(f"{name} line {node.start_mark.line + 1}: not YAML: a value contains itself")
    above |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[*place, number] = item.start_mark.line + 1
            _note(item, (*place, number), lines, name, above)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*place, str(key.value)), key.start_mark.line + 1
            if inner in lines:
                raise ValueError(f"{name} line {line}: the key '{key.value}' is given twice")
            lines[inner] = line
            _note(value, inner, lines, name, above)
