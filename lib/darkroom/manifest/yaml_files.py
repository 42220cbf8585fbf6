"""A YAML document as plain values: no key twice, nothing that contains itself, no flood from a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

FREE = 1_000_000  # values, however few are written
MOST_REPEATED = 20  # times, above that: rows that all begin with the same dozen of defaults are nothing unusual
Place = tuple[str | int, ...]


class BadYaml(ValueError):
    """What is wrong. line: where, from 1; 0 where nobody can say."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def read_yaml(content: bytes) -> Any:
    """As `yaml.safe_load` has it. BadYaml."""
    return read_yaml_lines(content, lines=False)[0]


def read_yaml_lines(content: bytes, lines: bool = True) -> tuple[Any, dict[Place, int]]:
    """The document, and the line, from 1, at which each of its keys and items stands. BadYaml."""
    try:
        return _load(content, lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        text = getattr(error, "problem", None) or f"not YAML: {error}"
        raise BadYaml(text, mark.line + 1 if mark else 0) from None
    except (ValueError, RecursionError) as error:
        raise BadYaml(f"not YAML: {error}") from None


def line_of(place: Place, lines: dict[Place, int]) -> int:
    """The line of a place, or of the nearest above it that the document has."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _load(content: bytes, lines: bool) -> tuple[Any, dict[Place, int]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _Counter().count(node)
        places = dict(_places(node, ())) if lines else {}
        return loader.construct_document(node), places
    finally:
        loader.dispose()


class _Counter:
    """Walks a document's nodes, each once. Values that a node stands for are counted with those behind its aliases
    each time they are named; that is what building it would cost, and it is known before anything is built."""

    def __init__(self) -> None:
        self.written = 0
        self._open: set[int] = set()
        self._counts: dict[int, int] = {}

    def count(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            self.written += 1
            return 1
        if id(node) in self._counts:
            return self._counts[id(node)]
        if id(node) in self._open:
            raise _refused("a value contains itself", node)
        self._open.add(id(node))
        self.written += 1
        total = 1 + sum(map(self.count, _children(node)))
        if total > max(FREE, MOST_REPEATED * self.written):
            raise _refused(f"its aliases (*name) make {total:,} values of it; a matrix says so in a few", node)
        self._counts[id(node)] = total
        return total


def _places(node: yaml.Node, above: Place) -> Iterator[tuple[Place, int]]:
    """Places are from the top: the keys, as text, and the numbers of items. The document contains no circle."""
    if isinstance(node, yaml.ScalarNode):
        return
    named = isinstance(node, yaml.MappingNode)
    for number, entry in enumerate(node.value):
        key, child = entry if named else (entry, entry)
        place = (*above, str(key.value) if named else number)
        yield place, key.start_mark.line + 1
        yield from _places(child, place)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        yield from node.value
        return
    seen: set[tuple[str, str]] = set()
    for key, child in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise _refused(f"the key '{key.value}' is given twice", key)
            seen.add((key.tag, key.value))
        yield child


def _refused(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
