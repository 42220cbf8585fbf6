"""What a denoiser makes of noise that has no picture in it: the mean of the data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from darkroom.report.denoiser import answers, held_out_pictures
from darkroom.report.grids import draw_grid
from darkroom.report.sections import Drawing, Section, Table
from darkroom.report.trained import TrainingRun, named
from darkroom.sampling import noise

SAMPLES, COLUMNS = 100, 10
WHY = (
    "Why: the noise says nothing about the picture it was paired with, so the best that a network can do under the L2 "
    "loss is one answer for every input, and E|x - f|² is smallest where f = E[x]: the mean of the training pictures. "
    "What is left of a difference between the samples is what the network has not yet learned to ignore."
)


def collapse(run: TrainingRun) -> Section:
    """Samples of every shown epoch beside the training set's mean, and how far they are from it."""
    images = run.images("train").images
    mean = mean_picture(images)
    made = {named(epoch): answers(run.network(epoch), _noise(tuple(mean.shape))) for epoch in run.shown}
    digits, which = held_out_pictures(run, SAMPLES // COLUMNS)
    rows = [[f"mean of {SAMPLES} samples, {label}", distance(out.mean(dim=0), mean)] for label, out in made.items()]
    rows += [[f"one sample, on average, {label}", distances(out, mean)] for label, out in made.items()]
    rows += [[f"one {which}, on average", distances(digits, mean)]]
    samples = [out[:COLUMNS] for out in made.values()]
    return Section(
        "pure-noise",
        "Samples from pure noise",
        [
            f"{COLUMNS} samples each, from the same noise, beside the mean of the {len(images):,} training pictures.",
            WHY,
        ],
        [
            Drawing("samples", draw_grid(samples, list(made), side=84), f"Samples from pure noise: {', '.join(made)}"),
            Drawing("mean", draw_grid([mean[None]], side=84), "The mean of the training pictures", "the mean"),
        ],
        Table(["root mean square distance from the mean picture", ""], [[what, f"{far:.4f}"] for what, far in rows]),
        {"distance_from_the_mean": {what: round(far, 6) for what, far in rows}},
    )


def mean_picture(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> the mean, float32 [C, H, W] in 0..1."""
    return torch.from_numpy(images.mean(axis=0, dtype=np.float64) / 255).permute(2, 0, 1).float()


def distance(a: Tensor, b: Tensor) -> float:
    """Root of the mean squared difference of two pictures' pixels."""
    return (a - b).square().mean().sqrt().item()


def distances(pictures: Tensor, mean: Tensor) -> float:
    """The pictures' distances from the mean, averaged."""
    return (pictures - mean).square().mean(dim=(1, 2, 3)).sqrt().mean().item()


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.from_numpy(noise.normal(seed, 0, noise.START, 0, shape)) for seed in range(SAMPLES)])
