"""What an evaluation of a cascade of painted digits leaves: contact sheets (sheet-24.png, ...) and quality.json."""

from __future__ import annotations

import json

from torch import Tensor

from darkroom.evaluation.cascade import CascadeEvaluation, Wish
from darkroom.evaluation.digits import recognise
from darkroom.models.painted_ink import COLOURS, DIGITS
from darkroom.report.evaluation import framed_sheet
from darkroom.storage import open_store

SHOWN = len(DIGITS) * len(COLOURS)  # every digit in every colour
SIDE = 96


def write_cascade_evaluation(evaluation: CascadeEvaluation, out: str) -> str:
    """Writes a sheet for each stage and then quality.json under `out`; what was measured, as lines of text."""
    store = open_store(out)
    for pictures in evaluation.pictures:
        store.write(f"sheet-{pictures.shape[-1]}.png", cascade_sheet(pictures[:SHOWN], evaluation.wishes[:SHOWN]))
    store.write("quality.json", json.dumps(evaluation.record(), indent=1).encode() + b"\n")
    return evaluation.text()


def cascade_sheet(pictures: Tensor, wishes: list[Wish]) -> bytes:
    """PNG of pictures [N, 3, S, S] in [-1, 1], N <= 80: zero to nine, a colour a row; a frame where another digit or
    colour is seen than was wished for."""
    seen = recognise(pictures)
    wrong = [
        (wish.digit, wish.colour) != (digit, colour)
        for wish, digit, colour in zip(wishes, seen.digits, seen.colours, strict=True)
    ]
    rows = [wish.colour for wish in wishes[:: len(DIGITS)]]
    return framed_sheet((pictures + 1) / 2, wrong, rows, DIGITS, SIDE)
