"""What of a run is looked at: filters, order and page, as DuckDB is asked for them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Columns that conditions and the order may name, beside any parameter of a manifest row.
NUMBERS = (
    "seed", "steps", "guidance", "width", "height", "alignment", "concealment", "seconds", "evaluations", "attempts",
    "start_timestep",
)  # fmt: skip
TEXTS = ("id", "task", "status", "error", "error_class", "sampler", "model", "worker", "key")
ORDERS = ("", "id", "alignment", "concealment", "seconds", "evaluations", "seed", "guidance", "steps")
# Of an anagram's or a hybrid's parts any may be meant; != is true where none of them is.
PARTS = {"view": "views", "component": "components"}
_CONDITION = re.compile(r"^([A-Za-z_][\w.]*)(!=|>=|<=|=|>|<|~)(.*)$", re.DOTALL)
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')
# To have no value is to be another than any that is asked for.
_COMPARE = {"=": "=", "!=": "is distinct from", ">": ">", "<": "<", ">=": ">=", "<=": "<="}


@dataclass(frozen=True)
class Condition:
    """name: a column's or a parameter's, `stage2.steps` for one inside; mark: one of = != > < >= <= and ~, contains."""

    name: str
    mark: str
    value: str

    def where(self) -> tuple[str, list[Any]]:
        """In SQL, and what stands for its question marks."""
        named = self.name in TEXTS and self.mark in ("=", "!=")  # digits too are signs there, as many as there are
        number = None if named else _number(self.value)
        if self.mark == "~":
            return f"contains(lower({self._text()}), lower(?))", [*self._path(), self.value]
        if number is not None:
            # 7 and 7.0 are one number, and "07" of a text is none.
            return f"{self._as_number()} {_COMPARE[self.mark]} ?", [*self._path(), number]
        if self.mark not in ("=", "!="):
            raise ValueError(f"{self.name}{self.mark}{self.value}: wanted a number after {self.mark}")
        if self.name in PARTS:
            found = "coalesce(list_contains(json_extract_string(parameters, ?), ?), false)"
            return found if self.mark == "=" else f"NOT {found}", [*self._path(), self.value]
        compared = "is not distinct from" if self.mark == "=" else "is distinct from"
        return f"{self._text()} {compared} ?", [*self._path(), self.value]

    def _text(self) -> str:
        if self.name in TEXTS + NUMBERS:
            return f"CAST({self.name} AS VARCHAR)"
        return "CAST(json_extract_string(parameters, ?) AS VARCHAR)"

    def _as_number(self) -> str:
        return self.name if self.name in NUMBERS else f"TRY_CAST({self._text()} AS DOUBLE)"

    def _path(self) -> list[str]:
        if self.name in TEXTS + NUMBERS:
            return []
        if self.name in PARTS:
            return [f"$.{PARTS[self.name]}[*].{self.name}"]
        return ["$." + ".".join(f'"{part}"' for part in self.name.split("."))]


@dataclass(frozen=True)
class View:
    """Of one run. text: words, all of which stand in a row's prompts or id; where: conditions as people write them;
    lowest, highest: alignment; order: a column, "" for the run's own; page: from 0."""

    tasks: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    text: str = ""
    where: str = ""
    lowest: float | None = None
    highest: float | None = None
    order: str = ""
    down: bool = False
    page: int = 0

    def sql(self) -> tuple[str, list[Any]]:
        """Which rows, as what follows WHERE, and what stands for its question marks. ValueError for a condition that
        says nothing."""
        parts: list[tuple[str, list[Any]]] = []
        for column, wanted in (("task", self.tasks), ("status", self.statuses), ("error_class", self.errors)):
            if wanted:
                parts.append((f"list_contains(?, {column})", [list(wanted)]))
        if self.flags:
            parts.append(("list_has_any(flags, ?)", [list(self.flags)]))
        parts += [("contains(text, lower(?))", [word]) for word in self.text.split()]
        for mark, limit in ((">=", self.lowest), ("<=", self.highest)):
            if limit is not None:
                parts.append((f"alignment {mark} ?", [limit]))
        parts += [condition.where() for condition in conditions(self.where)]
        said = " AND ".join(sql for sql, _ in parts) or "true"
        return said, [value for _, values in parts for value in values]

    def ordered(self) -> str:
        """What follows ORDER BY: rows without a value come last, and equals are in the run's order."""
        if not self.order:
            return "rowid DESC" if self.down else "rowid"
        return f"{self.order} {'DESC' if self.down else 'ASC'} NULLS LAST, rowid"


def conditions(text: str) -> list[Condition]:
    """Conditions as people write them, `guidance>=5 sampler=ddim prompt~"red seven"`. ValueError."""
    found = []
    for word in _WORD.findall(text):
        match = _CONDITION.match(word)
        if match is None:
            raise ValueError(f"{word}: wanted name=value, with one of = != > < >= <= ~, as in guidance>=5 sampler=ddim")
        name, mark, value = match.groups()
        found.append(Condition(name, mark, _unquoted(value)))
    return found


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value[0] == value[-1] == '"'):
        return value
    try:
        return json.loads(value, strict=False)
    except ValueError:
        return value[1:-1]


def _number(text: str) -> float | None:
    """A whole number as an int: a seed may have 63 bits, of which a float keeps 53."""
    try:
        value = float(text)
    except ValueError:
        return None
    if re.fullmatch(r"[+-]?\d{1,30}", text):
        return int(text)
    return value if abs(value) < float("inf") else None
