"""Control networks in a row's walk: which of them have a say at which move, and how much.

ControlNet, arXiv 2302.05543. Whoever answers for a plan with a `Control` is told two things more: HINTS, the row's
own, and for each question what the networks' answers count there, see `Control.shares`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darkroom.sampling.levels import Place
from darkroom.sampling.schedules import Move
from darkroom.sampling.stage import Inputs, Row

HINTS = "hints"  # a field: float32 [K, 3, H, W] in [0, 1], of the picture's size
UNCONTROLLED = "\x1euncontrolled"  # the key of a question that no network has a say in, whatever its text


@dataclass(frozen=True, eq=False)
class Control:
    """nets: names, in the order in which their answers are added; hints: see HINTS; scales: of each at each move.

    guess: the networks answer the prompt's question alone, the shallow ones of their layers softly.
    """

    nets: tuple[str, ...]
    hints: Tensor
    scales: tuple[tuple[float, ...], ...]
    guess: bool = False

    def shares(self, move: int, key: str) -> tuple[float, ...]:
        """What each network's answer counts for a question of this move, and then whether softly."""
        scales = (0.0,) * len(self.nets) if key == UNCONTROLLED else self.scales[move]
        return (*scales, float(self.guess))


def make_control(row: Row, inputs: Inputs, moves: Sequence[Move]) -> Control | None:
    """A row's, by the networks that have a say in it; None where none has."""
    uses = {use["net"]: use for use in row.get("control", ())}
    scales = {name: _scales(moves, uses[name]) for name in inputs.hints}
    nets = tuple(name for name, own in scales.items() if any(own))
    if not nets:
        return None
    hints = torch.stack([inputs.hints[name] for name in nets])
    at_moves = tuple(zip(*(scales[name] for name in nets), strict=True))
    return Control(nets, hints, at_moves, row.get("guess_mode", False))


def _scales(moves: Sequence[Move], use: Mapping[str, Any]) -> list[float]:
    """At each move: the network's own where all of the move lies between `start` and `end`, shares of the schedule,
    as diffusers counts its steps; else 0."""
    scale, start, end = use["scale"], use["start"], use["end"]
    places: dict[tuple[Place, str], int] = {}
    at = [places.setdefault((move.t, move.kind), len(places)) if move.asks else 0 for move in moves]
    count = len(places)
    return [0.0 if place / count < start or (place + 1) / count > end else scale for place in at]
