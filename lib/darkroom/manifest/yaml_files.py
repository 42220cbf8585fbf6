"""A YAML document as plain values: nothing that YAML reads otherwise than people write it, no key twice, nothing that
contains itself, no flood from a few lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

FREE = 1_000_000  # values, however few are written
MOST_REPEATED = 20  # times, above that: rows that all begin with the same dozen of defaults are nothing unusual
MOST_BYTES, MOST_MARKS = 16 * 2**20, 1_000_000  # it is read whole, and each value takes half a kilobyte on the way
MOST_DIGITS = 100  # of a whole number: one of thousands cannot even be said in a message
DEEPEST = 64  # the C loader calls itself for each level, and ends the process some thousand levels down
TOO_DEEP = f"nested too deeply, in more than {DEEPEST} levels"
FREE_TEXTS = frozenset({"id", "prompt", "negative_prompt", "image", "mask"})
Place = tuple[str | int, ...]
Finding = tuple[int, str]
"""A line, from 1, or 0 where nobody can say; and what is to be said of it."""

_SCALARS = {"tag:yaml.org,2002:int": int, "tag:yaml.org,2002:float": float}
_NULL = "tag:yaml.org,2002:null"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(ValueError):
    """What is wrong: all that could be found."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(text for _, text in findings))
        self.findings = findings


@dataclass(frozen=True)
class Document:
    """value: plain; lines: at which each of its keys and items stands; doubts: what may not be meant so."""

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    doubts: tuple[Finding, ...] = ()


def read_yaml(content: bytes, lines: bool = False) -> Document:
    """As `yaml.safe_load` has it. lines: whether they are wanted. BadYaml."""
    try:
        return _load(content, lines)
    except yaml.YAMLError as error:
        raise BadYaml([_of_error(error)]) from None
    except RecursionError:
        raise BadYaml([(0, "nested too deeply")]) from None
    except ValueError as error:
        raise BadYaml(getattr(error, "findings", [(0, f"not YAML: {error}")])) from None


def line_of(place: Place, lines: dict[Place, int]) -> int:
    """The line of a place, or of the nearest above it that the document has."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _of_error(error: yaml.YAMLError) -> Finding:
    if isinstance(error, yaml.reader.ReaderError):
        return 0, f"not YAML: {error.reason} at byte {error.position + 1}; wanted text in UTF-8"
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or f"not YAML: {error}"
    return mark.line + 1 if mark else 0, text


def _load(content: bytes, lines: bool) -> Document:
    _refuse_size(content)
    _refuse_depths(content)
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document()
        checks = _Checks()
        checks.count(node)
        if checks.findings:
            raise BadYaml(list(checks.findings))
        places = dict(_places(node, ())) if lines else {}
        return Document(loader.construct_document(node), places, tuple(_doubts(content, checks.texts)))
    finally:
        loader.dispose()


def _refuse_size(content: bytes) -> None:
    if len(content) > MOST_BYTES:
        raise BadYaml([(0, f"a YAML file may have {MOST_BYTES // 2**20} MiB; for more rows there is JSONL")])
    if np.isin(np.frombuffer(content, np.uint8), list(b",:-[{?\n")).sum() > MOST_MARKS:
        raise BadYaml([(0, f"more than {MOST_MARKS:,} values in a YAML file; for more rows there is JSONL")])


def _refuse_depths(content: bytes) -> None:
    """Depth is counted exactly only where brackets, or what can begin a block on one line, are suspiciously many."""
    letters = np.frombuffer(content, np.uint8)
    brackets = np.isin(letters, list(b"[{")).astype(np.int32) - np.isin(letters, list(b"]}"))
    starts = re.findall(rb"^[\0\t \-?:]{%d,}" % DEEPEST, content, re.MULTILINE)
    if not starts and brackets.cumsum().max(initial=0) <= DEEPEST:
        return
    depth = 0
    for event in yaml.parse(content, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise BadYaml([(event.start_mark.line + 1, TOO_DEEP)])


class _Checks:
    """Walks a document's nodes, each once. Values that a node stands for are counted with those behind its aliases
    each time they are named; that is what building it would cost, and it is known before anything is built.

    findings: what is wrong, in order; texts: scalars without quotes that stand for a text that may hold anything.
    """

    def __init__(self) -> None:
        self.written = 0
        self.findings: dict[Finding, None] = {}
        self.texts: list[yaml.ScalarNode] = []
        self._open: set[int] = set()
        self._counts: dict[int, tuple[int, int]] = {}

    def count(self, node: yaml.Node, key: str = "") -> tuple[int, int]:
        """Values, and levels. key: the one that the node stands under, also as an item of a list."""
        if isinstance(node, yaml.ScalarNode):
            self.written += 1
            self._look_at(node, key)
            return 1, 0
        if id(node) in self._counts:
            return self._counts[id(node)]
        if id(node) in self._open:
            raise _refused("a value contains itself", node)
        self._open.add(id(node))
        self.written += 1
        counts = [self.count(child, name) for name, child in self._children(node, key)]
        total, levels = 1 + sum(count for count, _ in counts), 1 + max((below for _, below in counts), default=0)
        if levels > DEEPEST:
            raise _refused(TOO_DEEP, node)
        if total > max(FREE, MOST_REPEATED * self.written):
            raise _refused(f"its aliases (*name) make {total:,} values of it; a matrix says so in a few", node)
        self._counts[id(node)] = total, levels
        return total, levels

    def _children(self, node: yaml.Node, above: str) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            yield from ((above, child) for child in node.value)
            return
        seen: set[tuple[str, str]] = set()
        for key, child in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, name) in seen:
                    self._find(key, f"the key {_shown(name)} is given twice")
                seen.add((key.tag, name))
                if node.flow_style and _is_alone(key, child):
                    self._find(key, _cut_by_comma(name))
            yield name, child

    def _look_at(self, node: yaml.ScalarNode, key: str) -> None:
        kind = _SCALARS.get(node.tag) if not node.style else None
        if kind and (":" in node.value or (kind is int and re.match(r"[-+]?0[0-9_]", node.value))):
            why = "has colons, which YAML reads in base 60" if ":" in node.value else "begins with 0: YAML reads base 8"
            self._find(node, f"the number {_shown(node.value)} {why}; write it as it is meant, or a text in quotes")
        elif kind is int and len(node.value) > MOST_DIGITS:
            self._find(node, f"the number {_shown(node.value)} has {len(node.value):,} digits")
        elif key in FREE_TEXTS and not node.style and node.value:
            self.texts.append(node)

    def _find(self, node: yaml.Node, text: str) -> None:
        self.findings[node.start_mark.line + 1, text] = None


def _is_alone(key: yaml.ScalarNode, child: yaml.Node) -> bool:
    """Whether nothing follows a key in braces, not even a colon."""
    return child.tag == _NULL and not child.value and child.start_mark.index == key.end_mark.index


def _cut_by_comma(key: str) -> str:
    advice = "a decimal has a point" if re.match(r"[0-9]+$", key) else "put a text with commas in quotes"
    return f"the key {_shown(key)} has no value: in braces a comma begins the next key; {advice}"


def _doubts(content: bytes, texts: list[yaml.ScalarNode]) -> Iterator[Finding]:
    """Texts that end where a comment begins: a # in them would have done that."""
    if not texts or b"#" not in content:
        return
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", content.decode(encoding))
    for node in texts:
        mark = node.end_mark
        rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
        # Two blanks, a # and another are how comments are written, and nobody writes a text so.
        if re.match(r"[ \t]+#", rest) and not re.match(r"[ \t]{2,}#+[ \t]", rest):
            yield (
                mark.line + 1,
                "what follows ' #' is a comment and no part of the text before it; quotes would keep it",
            )


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


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _refused(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
