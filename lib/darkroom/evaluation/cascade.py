"""Measures a cascade of painted digits: samples "a red seven" for every digit and colour, and judges what comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.evaluation.digits import Quality, Seen, judge, recognise
from darkroom.models.cascade import Cascade
from darkroom.models.catalog import open_model
from darkroom.models.painted_ink import COLOURS, DIGITS
from darkroom.sampling.plans import Inputs, condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.storage import encode_png, open_store

SHEET_COLUMNS, SHEET_PICTURES, SHEET_EDGE = 10, 80, 96
_PAPER, _WRONG = 128, (255, 0, 160)


@dataclass(frozen=True)
class Asked:
    """What picture number i is asked to be."""

    digit: int
    colour: str
    seed: int

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {DIGITS[self.digit]}"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was sampled and how it was judged; pictures [N, 3, S, S] and quality by stage, from the first."""

    asked: list[Asked]
    pictures: list[Tensor]
    quality: list[Quality]
    settings: dict[str, object]
    seconds: float

    def record(self) -> dict[str, object]:
        """What quality.json holds: settings, and the quality by picture size."""
        stages = {str(p.shape[-1]): asdict(q) for p, q in zip(self.pictures, self.quality, strict=True)}
        return {**self.settings, "seconds": round(self.seconds, 1), "quality": stages}

    def text(self) -> str:
        """A line per stage."""
        sizes = (pictures.shape[-1] for pictures in self.pictures)
        return "\n".join(
            f"{size} px, {q.count} pictures: "
            f"digit {q.digit_accuracy:.1%} (worst: {q.worst['digit']}, {min(q.per_digit.values()):.0%}), "
            f"colour {q.colour_accuracy:.1%} (worst: {q.worst['colour']}, {min(q.per_colour.values()):.0%})"
            for size, q in zip(sizes, self.quality, strict=True)
        )


def balanced(count: int, seed: int = 0) -> list[Asked]:
    """Every digit in every colour, digits fastest: ten in a row are all digits, the first 80 all there is."""
    names = list(COLOURS)
    return [Asked(i % 10, names[i // 10 % len(names)], seed + i) for i in range(count)]


def sample_and_judge(
    model: str, count: int = 500, stride: int = 30, guidance: float = 7.0, seed: int = 0, stages: int | None = None
) -> Evaluation:
    """Samples `count` balanced prompts with stages 1 .. `stages` (default all) of an embedded model or a folder.

    Stride 30 makes 34 steps. Raises ValueError for what cannot be sampled or judged.
    """
    cascade = open_model(model)
    stages = len(cascade.stages) if stages is None else stages
    if not 1 <= stages <= len(cascade.stages) or count < 1:
        raise ValueError(f"wanted 1 to {len(cascade.stages)} stages and some pictures, got {stages} and {count}")
    began, asked = time.monotonic(), balanced(count, seed)
    pictures = _sample(cascade, asked, stride, guidance, stages)
    settings = {
        "model": cascade.name,
        "model_revision": cascade.revision,
        "count": count,
        "stride": stride,
        "guidance": guidance,
        "seed": seed,
    }
    quality = [judge(made, [a.digit for a in asked], [a.colour for a in asked]) for made in pictures]
    return Evaluation(asked, pictures, quality, settings, time.monotonic() - began)


def evaluate(model: str, out: str, count: int, stride: int, guidance: float, seed: int) -> Evaluation:
    """`sample_and_judge` all stages; writes contact sheets (sheet-24.png, ...) and then quality.json under `out`."""
    store, evaluation = open_store(out), sample_and_judge(model, count, stride, guidance, seed)
    for pictures in evaluation.pictures:
        shown = pictures[:SHEET_PICTURES]
        sheet = contact_sheet(shown, evaluation.asked[: len(shown)], recognise(shown))
        store.write(f"sheet-{pictures.shape[-1]}.png", encode_png(sheet))
    store.write("quality.json", json.dumps(evaluation.record(), indent=1).encode() + b"\n")
    return evaluation


def contact_sheet(pictures: Tensor, asked: Sequence[Asked], seen: Seen) -> np.ndarray:
    """Rows of ten, zero to nine, a colour a row; uint8 [H, W, 3]. A frame marks what was judged wrong."""
    cell = SHEET_EDGE + 4
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = np.full((rows * cell, SHEET_COLUMNS * cell, 3), _PAPER, np.uint8)
    large = F.interpolate(pictures, size=SHEET_EDGE).clamp(-1, 1)
    tiles = ((large + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for i, (tile, wanted, digit, colour) in enumerate(zip(tiles, asked, seen.digits, seen.colours, strict=True)):
        top, left = i // SHEET_COLUMNS * cell, i % SHEET_COLUMNS * cell
        if (wanted.digit, wanted.colour) != (digit, colour):
            sheet[top : top + cell, left : left + cell] = _WRONG
        sheet[top + 2 : top + 2 + SHEET_EDGE, left + 2 : left + 2 + SHEET_EDGE] = tile
    return sheet


def _sample(cascade: Cascade, asked: list[Asked], stride: int, guidance: float, stages: int) -> list[Tensor]:
    rows = [
        {"task": "text_to_image", "prompt": a.prompt, "negative_prompt": "", "seed": a.seed}
        | {"guidance": guidance, "stride": stride}
        for a in asked
    ]
    cpu = torch.device("cpu")
    keys = list(dict.fromkeys(key for row in rows for key in condition_keys(row)))
    embedded = dict(zip(keys, cascade.text_encoder(cpu).encode(keys), strict=True))
    made: list[Tensor] = []
    for number, stage in enumerate(cascade.stages[:stages], start=1):
        below = made[-1] if made else [None] * len(rows)
        inputs = [Inputs(embedded, low_res=low_res) for low_res in below]
        plans = [make_plan(row, stage, given) for row, given in zip(rows, inputs, strict=True)]
        finished = walk_plans(cascade.predictor(number, cpu), plans, capacity=32)
        made.append(torch.stack([one.image for one in finished]))
    return made
