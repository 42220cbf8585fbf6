"""Figures that are a sweep: on a grid, one parameter down and another across, a grid for each prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from darkroom.report.captions import in_words, prompt_of
from darkroom.report.rows import Part, Shown


@dataclass(frozen=True)
class Axis:
    """A parameter, its values in the order in which they are drawn, and what is said of each."""

    name: str
    values: tuple[Any, ...]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def words(self) -> list[str]:
        return ["not given" if value is None else in_words(value) or "none" for value in self.values]


@dataclass(frozen=True)
class Sweep:
    """rows: for each value down, the row of each value across. prompt: "" where prompts are an axis themselves."""

    prompt: str
    down: Axis
    across: Axis
    rows: list[list[Shown]]

    @property
    def shown(self) -> list[Shown]:
        return [shown for row in self.rows for shown in row]


def sweeps(part: Part) -> list[Sweep]:
    """The grids of a figure whose rows are all the combinations of two parameters, each once; of those and several
    prompts, a grid for each. [] for any other figure."""
    drawn = [shown for group in part.groups for shown in group]
    if not drawn or not all(map(_is_picture_alone, drawn)):
        return []
    axes = _swept(drawn)
    by_prompt: dict[str, list[Shown]] = {}
    for shown in drawn:
        by_prompt.setdefault(prompt_of(shown.parameters) if len(axes) > 2 else "", []).append(shown)
    if len(axes) == 3 and "prompt" in axes:
        axes.remove("prompt")
    if len(axes) != 2 or part.shown != part.good:
        return []
    found = [_sweep(prompt or _only(rows), rows, axes) for prompt, rows in by_prompt.items()]
    whole = [sweep for sweep in found if sweep is not None]
    return whole if len(whole) == len(found) else []


def _is_picture_alone(shown: Shown) -> bool:
    """Whether nothing that the row was given is to be seen beside its picture."""
    return shown.parameters["task"] == "text_to_image" and not shown.parameters.get("control")


def _swept(rows: list[Shown]) -> list[str]:
    """Parameters in which rows differ, but for those that another one settles, as ddim has an eta and no other solver.
    Not to have one is to differ in it."""
    names = sorted({name for shown in rows for name in shown.parameters})
    values = {name: [_key(shown, name) for shown in rows] for name in names}
    axes = [name for name in names if len(set(values[name])) > 1]
    for name in list(axes):
        others = [values[other] for other in axes if other != name]
        if any(len(set(zip(other, values[name], strict=True))) == len(set(other)) for other in others):
            axes.remove(name)
    return axes


def _only(rows: list[Shown]) -> str:
    prompts = {prompt_of(shown.parameters) for shown in rows}
    return prompts.pop() if len(prompts) == 1 else ""


def _sweep(prompt: str, rows: list[Shown], names: list[str]) -> Sweep | None:
    across, down = sorted((_axis(name, rows) for name in names), key=_fits_across, reverse=True)
    cells = {(_key(shown, down.name), _key(shown, across.name)): shown for shown in rows}
    wanted = [[(_as_key(low), _as_key(high)) for high in across.values] for low in down.values]
    whole = len(cells) == len(rows) == len(down.values) * len(across.values)
    if not whole or any(key not in cells for line in wanted for key in line):
        return None
    return Sweep(prompt, down, across, [[cells[key] for key in line] for line in wanted])


def _axis(name: str, rows: list[Shown]) -> Axis:
    """Numbers ascend, all else is in the manifest's order."""
    values = {_key(shown, name): shown.parameters.get(name) for shown in rows}
    ordered = list(values.values())
    return Axis(name, tuple(sorted(ordered) if all(map(_is_number, ordered)) else ordered))


def _fits_across(axis: Axis) -> tuple[bool, bool, int]:
    """Numbers before words, which have room beside their pictures; of numbers what is not drawn by lot."""
    return all(map(_is_number, axis.values)), axis.name != "seed", len(axis.values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _key(shown: Shown, name: str) -> str:
    return _as_key(shown.parameters.get(name))


def _as_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
