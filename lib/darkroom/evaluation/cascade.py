"""Measures what paints digits: of a cascade, samples "a red seven on white" for every digit and colour on every paper,
of a latent pipeline scenes of every kind; and judges what comes out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from darkroom.evaluation.digits import Quality, judge
from darkroom.evaluation.scenes import SceneQuality, SceneWish, balanced_scenes, judge_scenes
from darkroom.models.cascade import Cascade
from darkroom.models.catalog import open_model
from darkroom.models.painted_ink import COLOURS, DIGITS
from darkroom.sampling.grids import SPACINGS
from darkroom.sampling.names import unknown
from darkroom.sampling.plans import Inputs, condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.training.painted_digits import BACKGROUNDS

CAPACITY = 32
SCHEDULE = ("guidance", "stride", "steps", "spacing")  # of an evaluation's settings, those that rows have
SHOWN = len(DIGITS) * len(COLOURS)  # wishes that are every digit in every colour


@dataclass(frozen=True)
class Wish:
    """What picture number i is asked to be."""

    digit: int
    colour: str
    paper: str
    seed: int

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {DIGITS[self.digit]} on {self.paper}"


@dataclass(frozen=True, eq=False)
class CascadeEvaluation:
    """What was sampled and how it was judged; pictures [N, 3, S, S] and quality by stage, from the first."""

    wishes: list[Wish]
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
            f"colour {q.colour_accuracy:.1%} (worst: {q.worst['colour']}, {min(q.per_colour.values()):.0%}), "
            f"paper {q.paper_accuracy:.1%} (worst: {q.worst['paper']}, {min(q.per_paper.values()):.0%})"
            for size, q in zip(sizes, self.quality, strict=True)
        )


@dataclass(frozen=True, eq=False)
class SceneEvaluation:
    """What was sampled, pictures [N, 3, 48, 48], and how it was judged."""

    wishes: list[SceneWish]
    pictures: Tensor
    quality: SceneQuality
    settings: dict[str, object]
    seconds: float

    def record(self) -> dict[str, object]:
        """What quality.json holds: settings, and the quality."""
        return {**self.settings, "seconds": round(self.seconds, 1), "quality": asdict(self.quality)}

    def text(self) -> str:
        """A line of all pictures, and one of each kind."""
        q = self.quality
        by_kind = (
            f"\n  {kind}: " + ", ".join(f"{measure} {share:.0%}" for measure, share in measures.items())
            for kind, measures in q.by_kind.items()
        )
        return (
            f"{q.count} pictures: digit {q.digit_accuracy:.1%}, colour {q.colour_accuracy:.1%}, paper "
            f"{q.paper_accuracy:.1%}, size or place {q.place_accuracy:.1%}{''.join(by_kind)}"
        )


def balanced(count: int, seed: int = 0, papers: Sequence[str] = BACKGROUNDS) -> list[Wish]:
    """Every digit in every colour, digits fastest: ten in a row are all digits, the first 80 all there is of both. The
    papers take turns; none is of its ink's colour."""
    wishes = []
    for number in range(count):
        colour = list(COLOURS)[number // 10 % len(COLOURS)]
        others = [paper for paper in papers if paper != colour]
        paper = others[(number + number // 10 + number // SHOWN) % len(others)]
        wishes.append(Wish(number % 10, colour, paper, seed + number))
    return wishes


def sample_and_judge(
    model: str,
    count: int = 500,
    stride: int = 30,
    guidance: float | None = None,
    seed: int = 0,
    stages: int | None = None,
    steps: int | None = None,
    spacing: str | None = None,
) -> CascadeEvaluation | SceneEvaluation:
    """Samples `count` balanced prompts with stages 1 .. `stages` (default all) of an embedded model or a folder.

    Stride 30 makes 34 steps; `steps`, spaced as a row's `spacing` says, are instead of it. Guidance is 7 for a cascade
    and 5 for a pipeline unless given. Raises ValueError for what cannot be sampled or judged.
    """
    cascade = open_model(model)
    stages = len(cascade.stages) if stages is None else stages
    if not 1 <= stages <= len(cascade.stages) or count < 1:
        raise ValueError(f"wanted 1 to {len(cascade.stages)} stages and some pictures, got {stages} and {count}")
    if spacing is not None and spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    scenes = cascade.config.get("kind") == "pipeline"
    guidance = (5.0 if scenes else 7.0) if guidance is None else guidance
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number, was {guidance}")
    began, wishes = time.monotonic(), balanced_scenes(count, seed) if scenes else balanced(count, seed)
    schedule = {"stride": stride} if steps is None else {"steps": steps, "spacing": spacing}
    pictures = sample_wishes(cascade, wishes, {**schedule, "guidance": guidance}, stages)
    settings = {
        "model": cascade.name,
        "model_revision": cascade.revision,
        "count": count,
        **schedule,
        "guidance": guidance,
        "seed": seed,
    }
    if scenes:
        quality = judge_scenes(pictures[0], wishes)
        return SceneEvaluation(wishes, pictures[0], quality, settings, time.monotonic() - began)
    asked = [a.digit for a in wishes], [a.colour for a in wishes], [a.paper for a in wishes]
    quality = [judge(images, *asked) for images in pictures]
    return CascadeEvaluation(wishes, pictures, quality, settings, time.monotonic() - began)


class Asked(Protocol):
    """A wish: of a prompt and the picture's seed."""

    @property
    def prompt(self) -> str: ...

    @property
    def seed(self) -> int: ...


def schedule_of(settings: Mapping[str, object]) -> dict[str, object]:
    """Of an evaluation's settings, those that its rows have."""
    return {key: settings[key] for key in SCHEDULE if key in settings}


def sample_wishes(cascade: Cascade, wishes: Sequence[Asked], settings: dict[str, object], stages: int) -> list[Tensor]:
    """Their pictures [N, 3, S, S] by stage, from the first; settings: what all rows have."""
    common = {"task": "text_to_image", "negative_prompt": "", **settings}
    return paint(cascade, [{**common, "prompt": wish.prompt, "seed": wish.seed} for wish in wishes], stages)


def paint(cascade: Cascade, rows: Sequence[dict[str, object]], stages: int) -> list[Tensor]:
    """The rows' pictures [N, 3, S, S] by stage, from the first; rows: as a manifest's, negative prompt included."""
    cpu = torch.device("cpu")
    keys = list(dict.fromkeys(key for row in rows for key in condition_keys(row)))
    embedded = dict(zip(keys, cascade.text_encoder(cpu).encode(keys), strict=True))
    images: list[Tensor] = []
    for number, stage in enumerate(cascade.stages[:stages], start=1):
        below = images[-1] if images else [None] * len(rows)
        inputs = [Inputs(embedded, low_res=low_res) for low_res in below]
        plans = [make_plan(row, stage, given) for row, given in zip(rows, inputs, strict=True)]
        predictor = cascade.predictor(number, cpu)
        states = torch.stack([row.image for row in walk_plans(predictor, plans, capacity=CAPACITY)])
        if predictor.latents is not None:
            states = torch.cat([predictor.latents.decode(part) for part in states.split(CAPACITY)])
        images.append(states)
    return images
