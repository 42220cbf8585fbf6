"""What a diffusion model is shown by: its pictures, the full DDPM walk against a short DDIM one, and another run."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from torch import Tensor

from darkroom.evaluation.distances import frechet_distance
from darkroom.evaluation.recognition import why_not_judged
from darkroom.models.classifier import SIDE, mnist_classifier
from darkroom.models.network import sampling_row
from darkroom.report.grids import draw_grid
from darkroom.report.samples import COLUMNS, Painter, headings, labels
from darkroom.report.sections import Drawing, Section, Table
from darkroom.report.trained import TrainingRun, after, device, named, one_of_each, to_unit
from darkroom.storage import NotFound, StorageError
from darkroom.training.data import DataSet, read_record

DDIM_STEPS = 50
GUIDANCE = 1.0  # the model as it is: guidance would cost twice the evaluations and hide what the samplers do
SHOWN = 20  # of the pictures of each sampler
LEAST_FOR_FRECHET = 100  # fewer pictures say nothing about a distribution in 128 dimensions
NAMES = {"ddpm": "DDPM", "ddim": "DDIM"}
FIGURES = "report/figures.json"


def default_samples() -> int:
    """How many pictures the samplers are compared by: each costs a thousand evaluations, a CPU does 100 a second."""
    return 500 if device().type == "cuda" else COLUMNS


def by_epoch(run: TrainingRun) -> Section:
    """A row of samples for each shown epoch, from the same noise, by the short walk."""
    made, steps = [], _ddim_steps(run)
    for epoch in run.shown:
        painter = Painter(run, epoch)
        made.append(painter.pictures(_rows(painter, COLUMNS, "ddim", steps)))
    names = [named(epoch) for epoch in run.shown]
    about = f"{steps} DDIM steps, without guidance; every row starts from the same noise. {_schedule(run)}"
    alt = f"A row of samples for each of {', '.join(names)}"
    sheet = Drawing("samples", draw_grid(made, names, headings(run)), alt)
    return Section("samples", "Samples", [about], [sheet])


def samplers(run: TrainingRun, samples: int | None = None) -> Section:
    """All steps of DDPM against a few of DDIM: the same noise to start from, pictures, time and Fréchet distance."""
    painter, count = Painter(run, run.shown[-1]), samples or default_samples()
    reference, about_frechet = _reference(run, count)
    full, short = painter.stage.process.num_timesteps, _ddim_steps(run)
    walks = [_walk(painter, count, *walk, reference) for walk in (("ddpm", full), ("ddim", short))]
    about = f"{count:,} pictures each, from the same noise, without guidance, {after(painter.epoch)}. {_schedule(run)}"
    return Section(
        "samplers",
        "DDPM against DDIM",
        [about, about_frechet],
        [drawing for drawing, _ in walks],
        Table(
            ["sampler", "pictures", "evaluations", "seconds per picture", "Fréchet distance"],
            [_line(numbers) for _, numbers in walks],
        ),
        {"results": [numbers for _, numbers in walks]},
    )


def comparison(run: TrainingRun, numbers: dict[str, Any], against: str) -> Section:
    """This run beside another, by what each one's report measured.

    numbers: what `samplers` found for this one. ValueError if the other has no report.
    """
    other = TrainingRun(against)
    try:
        theirs = json.loads(other.store.read(FIGURES)).get("samplers", {})
        sheets = {sampler: other.store.read(f"report/{sampler}.png") for sampler in NAMES}
    except NotFound:
        raise ValueError(f"{against} has no report of its samples yet: `darkroom report {against}` makes one") from None
    columns = [_compared(run, numbers), _compared(other, theirs)]
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in columns[0]]
    drawings = [
        Drawing(
            f"other-{sampler}", png, f"Samples of the other run by {NAMES[sampler]}", f"{against}: {NAMES[sampler]}"
        )
        for sampler, png in sheets.items()
    ]
    about = (
        "Losses under different schedules or of different predictions measure different things. The distances can be "
        "compared, if they are of as many pictures."
    )
    return Section("comparison", "Against another run", [about], drawings, Table(["", "this run", against], rows))


def _compared(run: TrainingRun, numbers: dict[str, Any]) -> dict[str, str]:
    process, last = run.config["process"], run.epochs[-1] if run.epochs else None
    found = {
        "schedule": process.get("schedule", "explicit"),
        "prediction": process["prediction"],
        "epochs": str(last.epoch) if last else "–",
        "loss": f"{last.loss:.5f}" if last else "–",
        "validation loss": f"{last.validation_loss:.5f}" if last and last.validation_loss is not None else "–",
    }
    for line in numbers.get("results", ()):
        distance = line["frechet_distance"]
        said = "–" if distance is None else f"{distance:.3g} of {line['pictures']:,} pictures"
        found[f"Fréchet distance, {NAMES[line['sampler']]}, {line['steps']:,} steps"] = said
    return found


def _rows(painter: Painter, count: int, sampler: str, steps: int) -> list[dict[str, Any]]:
    asked = labels(painter.num_classes)
    return [sampling_row(seed, asked[seed % len(asked)], GUIDANCE, steps, sampler) for seed in range(count)]


def _walk(
    painter: Painter, count: int, sampler: str, steps: int, reference: Tensor | None
) -> tuple[Drawing, dict[str, Any]]:
    """The first pictures that a sampler makes, and what was measured of all."""
    began = time.monotonic()
    made = painter.pictures(_rows(painter, count, sampler, steps))
    numbers = {
        "sampler": sampler,
        "steps": steps,
        "pictures": count,
        "seconds_per_picture": (time.monotonic() - began) / count,
        "frechet_distance": None if reference is None else frechet_distance(made, reference),
    }
    what = f"{NAMES[sampler]}, {steps:,} steps"
    sheet = draw_grid(made[:SHOWN].split(len(labels(painter.num_classes))), columns=headings(painter.run))
    return Drawing(sampler, sheet, f"Samples by {what}", what), numbers


def _line(numbers: dict[str, Any]) -> list[str]:
    steps, count, distance = numbers["steps"], numbers["pictures"], numbers["frechet_distance"]
    return [
        f"{NAMES[numbers['sampler']]}, {steps:,} steps",
        f"{count:,}",
        f"{count * steps:,}",
        f"{numbers['seconds_per_picture']:.3g}",
        "–" if distance is None else f"{distance:.3g}",
    ]


def _ddim_steps(run: TrainingRun) -> int:
    return min(DDIM_STEPS, Painter(run, None).stage.process.num_timesteps)


def _schedule(run: TrainingRun) -> str:
    process = run.config["process"]
    return f"The schedule is {process.get('schedule', 'explicit')}, the network predicts {process['prediction']}."


def _reference(run: TrainingRun, count: int) -> tuple[Tensor | None, str]:
    """The digits that distances are measured to, [N, 1, 28, 28] in 0..1, and what to know of them; or None, and why."""
    network = run.config["network"]
    if (network["channels"], network["size"]) != (1, SIDE):
        return None, "No Fréchet distance: its features are those of a classifier of 28 x 28 digits."
    if count < LEAST_FOR_FRECHET:
        return None, (
            f"No Fréchet distance: {count} pictures say nothing about a distribution. `darkroom report --samples N` "
            f"makes more, at least {LEAST_FOR_FRECHET} are wanted; a GPU makes 500 by itself."
        )
    try:
        train, test = run.images("train"), run.images("test")
        data = DataSet(run.data_uri, read_record(run.data_uri), train, test)
    except (ValueError, StorageError) as error:
        return None, f"No Fréchet distance: {error}"
    if problem := why_not_judged(mnist_classifier(), data):
        return None, f"No Fréchet distance: {problem}."
    real = to_unit(test.images)
    others = to_unit(train.images[one_of_each(train.labels, -(-count // len(np.unique(train.labels))))[:count]])
    return real, (
        f"The Fréchet distance is from the {len(real):,} test digits, in the features of the frozen digit classifier; "
        f"less is better, and fewer pictures give a larger one. {len(others):,} training digits are at a distance of "
        f"{frechet_distance(others, real):.3g}."
    )
