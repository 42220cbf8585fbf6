"""What an evaluation of painted digits leaves: contact sheets (of a cascade sheet-24.png, ..., of scenes sheet.png) and
quality.json."""

from __future__ import annotations

import json

from torch import Tensor

from darkroom.evaluation.cascade import SHOWN, CascadeEvaluation, SceneEvaluation, Wish
from darkroom.evaluation.digits import recognise
from darkroom.evaluation.scenes import SceneWish, verdict
from darkroom.models.painted_ink import DIGITS
from darkroom.report.evaluation import framed_sheet
from darkroom.storage import open_store
from darkroom.training.painted_scenes import KINDS

SIDE = 96


def write_cascade_evaluation(evaluation: CascadeEvaluation | SceneEvaluation, out: str) -> str:
    """Writes a sheet for each stage and then quality.json under `out`; what was measured, as lines of text."""
    store, wishes = open_store(out), evaluation.wishes[:SHOWN]
    if isinstance(evaluation, SceneEvaluation):
        store.write("sheet.png", scene_sheet(evaluation.pictures[:SHOWN], wishes))
    else:
        for pictures in evaluation.pictures:
            store.write(f"sheet-{pictures.shape[-1]}.png", cascade_sheet(pictures[:SHOWN], wishes))
    store.write("quality.json", json.dumps(evaluation.record(), indent=1).encode() + b"\n")
    return evaluation.text()


def cascade_sheet(pictures: Tensor, wishes: list[Wish]) -> bytes:
    """PNG of pictures [N, 3, S, S] in [-1, 1], N <= 80: zero to nine, a colour a row; a frame where another digit,
    colour or paper is seen than was wished for."""
    seen = recognise(pictures)
    wrong = [
        (wish.digit, wish.colour, wish.paper) != tuple(found)
        for wish, *found in zip(wishes, seen.digits, seen.colours, seen.papers, strict=True)
    ]
    rows = [wish.colour for wish in wishes[:: len(DIGITS)]]
    return framed_sheet((pictures + 1) / 2, wrong, rows, DIGITS, SIDE)


def scene_sheet(pictures: Tensor, wishes: list[SceneWish]) -> bytes:
    """PNG of pictures [N, 3, 48, 48] in [-1, 1], N <= 80: a kind a column, a digit a row; a frame where anything is
    not as it was wished for."""
    wrong = [not all(verdict(picture, wish)) for picture, wish in zip(pictures, wishes, strict=True)]
    columns = [kind or "plain" for kind in KINDS]
    rows = [f"{wish.colours[0]} {DIGITS[wish.digits[0]]}" for wish in wishes[:: len(columns)]]
    return framed_sheet((pictures + 1) / 2, wrong, rows, columns, SIDE)
