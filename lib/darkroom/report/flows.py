"""What a flow-matching model is shown by: its pictures after some epochs, under guidance, and on their way."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from darkroom.models.network import sampling_row
from darkroom.report.grids import draw_grid
from darkroom.report.samples import Painter, capacity, headings, labels
from darkroom.report.sections import Drawing, Section
from darkroom.report.trained import TrainingRun, after, named
from darkroom.sampling import noise
from darkroom.sampling.plans import make_plan
from darkroom.sampling.run import walk_plans
from darkroom.sampling.stage import Inputs

STEPS = 20  # of Euler: enough to tell good weights from bad ones, few enough for two cores
GUIDANCE = 5.0
SWEEP = (0.0, 1.0, 2.0, 5.0, 8.0, 10.0)
EACH = 4  # rows of a sheet of samples
FOLLOWED, STOPS = 4, 10  # pictures whose way is drawn, and places on it besides the start


def by_epoch(run: TrainingRun) -> Section:
    """A sheet of samples for each shown epoch, from the same noise."""
    drawings = []
    for epoch in run.shown:
        painter = Painter(run, epoch)
        columns = labels(painter.num_classes)
        rows = [
            sampling_row(seed * len(columns) + place, label, GUIDANCE, STEPS)
            for seed in range(EACH)
            for place, label in enumerate(columns)
        ]
        sheet = draw_grid(painter.pictures(rows).split(len(columns)), columns=headings(run))
        alt = f"{len(rows)} samples {after(epoch)}" + (", a class in each column" if headings(run) else "")
        drawings.append(Drawing(f"samples-{named(epoch).replace(' ', '-')}", sheet, alt, after(epoch)))
    return Section("samples", "Samples", [_how(run) + " Every sheet starts from the same noise."], drawings)


def guidance_sweep(run: TrainingRun) -> Section:
    """The same noise under more and more guidance; the last shown epoch."""
    painter = Painter(run, run.shown[-1])
    columns = labels(painter.num_classes)
    rows = [sampling_row(seed, label, scale, STEPS) for scale in SWEEP for seed, label in enumerate(columns)]
    sheet = draw_grid(painter.pictures(rows).split(len(columns)), [f"{scale:g}" for scale in SWEEP], headings(run))
    about = (
        f"{STEPS} Euler steps, {after(run.shown[-1])}. A row is one guidance scale, a column one class and one "
        "seed. 0 does not listen to the class at all, 1 is the class-conditional model itself, more moves away from "
        "what would be drawn without the class."
    )
    alt = f"Samples of every class under guidance {', '.join(f'{scale:g}' for scale in SWEEP)}"
    return Section("guidance", "Guidance", [about], [Drawing("guidance", sheet, alt)])


def trajectories(run: TrainingRun) -> Section:
    """The states that a few samples pass through, from noise at t = 0 to the picture at t = 1."""
    painter = Painter(run, run.shown[-1])
    every = STEPS // STOPS
    columns = [f"t = {number / STOPS:g}" for number in range(STOPS + 1)]
    asked = labels(painter.num_classes)[:FOLLOWED]
    ways = follow(painter, [sampling_row(seed, label, GUIDANCE, STEPS) for seed, label in enumerate(asked)], every)
    sheet = draw_grid([(way + 1) / 2 for way in ways], columns=columns, side=84)
    about = f"What a sample is at t, on its way from noise to picture; {after(run.shown[-1])}. {_how(run)}"
    alt = f"{len(ways)} samples at {len(columns)} times from 0 to 1"
    return Section("trajectories", "From noise to picture", [about], [Drawing("trajectories", sheet, alt)])


def follow(painter: Painter, rows: list[dict], every: int) -> list[Tensor]:
    """For each row its states [K, C, S, S]: the noise, then what it is after every so many moves."""
    plans = [make_plan(asked, painter.stage, Inputs(painter.predictor.conditions(asked))) for asked in rows]
    plans = [replace(plan, keep=frozenset(range(every - 1, len(plan.moves), every))) for plan in plans]
    done = walk_plans(painter.predictor, plans, capacity(rows))
    starts = [_start(asked["seed"], tuple(finished.image.shape)) for asked, finished in zip(rows, done, strict=True)]
    states = [[finished.states[move] for move in sorted(finished.states)] for finished in done]
    return [torch.stack([start, *kept]) for start, kept in zip(starts, states, strict=True)]


def _start(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that the engine starts a row of stage 1 from."""
    return torch.from_numpy(noise.normal(seed, 1, noise.START, 0, shape))


def _how(run: TrainingRun) -> str:
    if run.config["network"].get("num_classes"):
        return f"{STEPS} Euler steps, guidance {GUIDANCE:g}."
    return f"{STEPS} Euler steps; the network takes no class, so nothing guides it."
