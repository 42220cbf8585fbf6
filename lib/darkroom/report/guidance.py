"""What guidance does to pictures, in curves: whether they show what was asked, how far the seeds of a prompt are apart,
how much of them is at the end of what a pixel can hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
import torch

from darkroom.evaluation.scenes import verdict, wish_of
from darkroom.report.captions import prompt_of
from darkroom.report.curves import lines_curve
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Shown
from darkroom.report.sections import Drawing, Table
from darkroom.report.sweeps import Sweep
from darkroom.training.painted_scenes import SIDE

FEWEST = 3  # values of guidance that make a curve
READERS = 8
DIGITS, ALL = "the asked digits", "all that was asked"  # what the judge of painted digits sees


@dataclass(frozen=True)
class Measured:
    """The pictures of one prompt under one guidance. judged: shares of pictures, by what the judge looked for; scored:
    their mean alignment, None where a row has none; diversity, saturation: see `diversity`, `saturation`."""

    guidance: float
    judged: dict[str, float] | None
    scored: float | None
    diversity: float | None
    saturation: float


@dataclass(frozen=True)
class Curve:
    """lines: values by guidance, under what each is called. percent: they are shares."""

    name: str
    title: str
    lines: dict[str, list[float]]
    percent: bool = True


def guidance_curves(sweeps: Sequence[Sweep], pictures: Pictures) -> tuple[list[Drawing], Table | None]:
    """Curves over the guidance that was swept for several seeds, and their numbers; none where it was not, or a picture
    is gone."""
    if not all(_is_of_guidance(sweep) for sweep in sweeps):
        return [], None
    groups = [(value, column) for sweep in sweeps for value, column in _columns(sweep)]
    try:
        with ThreadPoolExecutor(READERS, thread_name_prefix="report") as pool:
            found = list(pool.map(lambda group: measure(*group, pictures), groups))
    except ValueError:
        return [], None  # the grid says which
    scorer = json.loads(sweeps[0].rows[0][0].row.get("scores") or "{}").get("scorer", "")
    places = sorted({one.guidance for one in found})
    curves = _curves(found, scorer)
    return [_drawing(curve, places) for curve in curves], _table(curves, places)


def _is_of_guidance(sweep: Sweep) -> bool:
    return (sweep.across.name, sweep.down.name) == ("guidance", "seed") and len(sweep.across.values) >= FEWEST


def _drawing(curve: Curve, places: list[float]) -> Drawing:
    png = lines_curve(curve.title, "guidance", places, curve.lines, curve.percent)
    return Drawing(curve.name, png, f"{curve.title}, over guidance from {places[0]:g} to {places[-1]:g}")


def _columns(sweep: Sweep) -> list[tuple[float, list[Shown]]]:
    return list(zip(sweep.across.values, map(list, zip(*sweep.rows, strict=True)), strict=True))


def measure(guidance: float, group: list[Shown], pictures: Pictures) -> Measured:
    """Rows of one prompt that differ in their seed. ValueError where a picture is gone or damaged."""
    drawn = [pictures.made(shown) for shown in group]
    scores = [shown.row.get("alignment") for shown in group]
    return Measured(
        guidance,
        judged(prompt_of(group[0].parameters), drawn),
        None if None in scores else fmean(scores),
        diversity(drawn),
        fmean(map(saturation, drawn)),
    )


def judged(prompt: str, drawn: Sequence[np.ndarray]) -> dict[str, float] | None:
    """Shares of pictures uint8 [48, 48, 3] on which the judge of painted digits sees the asked digits, and all that was
    asked; None where it does not understand the prompt, or the pictures are of another size than it knows."""
    wish = wish_of(prompt)
    if wish is None or any(picture.shape != (SIDE, SIDE, 3) for picture in drawn):
        return None
    verdicts = [verdict(torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1, wish) for picture in drawn]
    return {DIGITS: fmean(right[0] for right in verdicts), ALL: fmean(all(right) for right in verdicts)}


def diversity(drawn: Sequence[np.ndarray]) -> float | None:
    """The mean distance of two pictures, uint8 [H, W, 3]: root of the mean square over pixels and channels, as a share
    of the range. None of a single one."""
    pairs = [np.square((one.astype(np.float32) - other) / 255).mean() ** 0.5 for one, other in combinations(drawn, 2)]
    return float(np.mean(pairs)) if pairs else None


def saturation(picture: np.ndarray) -> float:
    """The share of values, of every pixel and channel, that are 0 or 255: no more, or no less, can be shown."""
    return float(np.isin(picture, (0, 255)).mean())


def _curves(found: list[Measured], scorer: str) -> list[Curve]:
    """Means over prompts."""
    by_guidance: dict[float, list[Measured]] = {}
    for one in sorted(found, key=lambda one: one.guidance):
        by_guidance.setdefault(one.guidance, []).append(one)

    def means(read: Callable[[Measured], float]) -> list[float]:
        return [fmean(map(read, group)) for group in by_guidance.values()]

    curves = []
    if all(one.judged for one in found):
        lines = {name: means(lambda one, name=name: one.judged[name]) for name in (DIGITS, ALL)}
        curves.append(Curve("quality", "Quality: share of pictures on which the judge sees", lines))
    if all(one.scored is not None for one in found):
        lines = {f"scorer {scorer}": means(lambda one: one.scored)}
        curves.append(Curve("alignment", "Quality: alignment with the prompt", lines, percent=False))
    if all(one.diversity is not None for one in found):
        lines = {"mean over the pairs of a prompt": means(lambda one: one.diversity)}
        curves.append(Curve("diversity", "Diversity: how far seeds are apart, of a value's range", lines))
    lines = {"mean over pictures": means(lambda one: one.saturation)}
    return [*curves, Curve("saturation", "Saturation: share of values that are 0 or 255", lines)]


def _table(curves: list[Curve], places: list[float]) -> Table:
    columns = [
        (f"{curve.name}: {line}" if len(curve.lines) > 1 else curve.name, curve.percent, values)
        for curve in curves
        for line, values in curve.lines.items()
    ]
    rows = [
        [f"{place:g}", *(f"{100 * own[at]:.1f} %" if percent else f"{own[at]:.3f}" for _, percent, own in columns)]
        for at, place in enumerate(places)
    ]
    return Table(["guidance", *(name for name, _, _ in columns)], rows)
