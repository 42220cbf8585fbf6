"""A YAML document as plain values: no key twice, nothing that contains itself, no flood from a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

FREE = 1_000_000  # values, however few are written
MOST_REPEATED = 20  # times, above that: rows that all begin with the same dozen of defaults are nothing unusual


class BadYaml(ValueError):
    """What is wrong. line: where, from 1; 0 where nobody can say."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def read_yaml(content: bytes) -> Any:
    """As `yaml.safe_load` has it. BadYaml."""
    try:
        return _load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        text = getattr(error, "problem", None) or f"not YAML: {error}"
        raise BadYaml(text, mark.line + 1 if mark else 0) from None
    except (ValueError, RecursionError) as error:
        raise BadYaml(f"not YAML: {error}") from None


def _load(content: bytes) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Counter().count(node)
        return loader.construct_document(node)
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
