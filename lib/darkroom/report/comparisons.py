"""Rows that are drawn side by side, because they differ in one thing only, such as where they start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar


class Compared(Protocol):
    """A row that is drawn, see `rows.Shown`."""

    parameters: Mapping[str, Any]


AnyCompared = TypeVar("AnyCompared", bound=Compared)

SWEPT = ("start", "strength")
NOISED = ("forward", "denoise")  # tasks that begin with a picture, noised
COMMON = ("image", "timestep", "seed", "size")  # of rows that show what can be done with one noised picture
DRAWN = ("steps", "stride", "timesteps", "seed", "stage2", "stage3")  # what a figure of text to image goes through


def shared(parameters: Mapping[str, Any], figured: bool) -> str:
    """What the rows of one strip have in common; "" where a row stands alone. figured: it has a figure of its own."""
    task = parameters["task"]
    if task in NOISED:
        common = {name: parameters.get(name) for name in COMMON}
    elif task == "image_to_image" or (figured and task == "text_to_image"):
        axes = SWEPT if task == "image_to_image" else DRAWN
        common = {name: value for name, value in parameters.items() if name not in axes}
    else:
        return ""
    return json.dumps(common, sort_keys=True)


def merged(groups: list[list[AnyCompared]]) -> list[list[AnyCompared]]:
    """Where each noised picture of a figure was put to one use only, those that differ in their noise are one strip."""
    if not all(len(group) == 1 and group[0].parameters["task"] in NOISED for group in groups):
        return groups
    strips: dict[str, list[AnyCompared]] = {}
    for (shown,) in groups:
        use = {name: value for name, value in shown.parameters.items() if name != "timestep"}
        strips.setdefault(json.dumps(use, sort_keys=True), []).append(shown)
    return list(strips.values())


def varying(group: Sequence[Compared]) -> set[str]:
    """Parameters in which the rows of a strip differ. To have no `steps` is to differ in them; to have no `guidance` is
    to ask nothing."""
    found: dict[str, set[str]] = {}
    for name in {*DRAWN, *(name for shown in group for name in shown.parameters)}:
        for shown in group:
            if name in DRAWN or name in shown.parameters:
                found.setdefault(name, set()).add(json.dumps(shown.parameters.get(name)))
    return {name for name, values in found.items() if len(values) > 1}
