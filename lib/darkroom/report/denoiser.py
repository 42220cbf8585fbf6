"""What a denoiser is shown by: digits noised and cleaned, and noise it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from darkroom.evaluation.denoising import SIGMAS, Denoise, noised, psnr, psnr_table
from darkroom.report.grids import draw_grid
from darkroom.report.sections import Drawing, Section, Table
from darkroom.report.trained import TrainingRun, after, device, one_of_each, to_unit

MEASURED_EACH = 10  # pictures of each class that PSNR is measured on
COLUMNS = 10
SWEPT = 3  # pictures shown under every sigma


def noising(run: TrainingRun) -> Section:
    """Digits under every sigma: no network has a say."""
    pictures, which = held_out_pictures(run, 1)
    columns = [f"sigma {sigma:g}" for sigma in SIGMAS]
    grid = draw_grid(_by_picture([noised(pictures[:5], sigma) for sigma in SIGMAS]), columns=columns, side=84)
    return Section(
        "noising",
        "Noising",
        [
            "x + sigma eps, with x in [0, 1] and eps of the standard normal distribution. "
            f"A row is one {which} with one eps; {_trained_at(run)}."
        ],
        [Drawing("noising", grid, f"Five digits under noise of sigma {', '.join(f'{s:g}' for s in SIGMAS)}")],
    )


def denoised(run: TrainingRun) -> Section:
    """Original, noisy, and what the network of each shown epoch makes of it."""
    pictures, which = held_out_pictures(run, 1)
    pictures, sigma = pictures[:COLUMNS], run.recipe["sigma"]
    noisy = noised(pictures, sigma)
    made = [denoiser(run.network(epoch))(noisy) for epoch in run.shown]
    labels = ["original", f"noisy, {sigma:g}", *(after(epoch) for epoch in run.shown)]
    quality = ", ".join(f"{psnr(out, pictures):.1f} dB {label}" for out, label in zip(made, labels[2:], strict=True))
    return Section(
        "denoised",
        "Denoised",
        [f"The first {which} of each class under the noise it was trained on, sigma {sigma:g}. PSNR: {quality}."],
        [Drawing("denoised", draw_grid([pictures, noisy, *made], labels, side=84), f"Rows: {', '.join(labels)}")],
        numbers={f"psnr {label}": _finite(psnr(out, pictures)) for out, label in zip(made, labels[2:], strict=True)},
    )


def out_of_distribution(run: TrainingRun) -> Section:
    """Noise of every sigma, of which the network has seen one."""
    pictures, which = held_out_pictures(run, MEASURED_EACH)
    last, trained_at = run.shown[-1], run.recipe["sigma"]
    denoise = denoiser(run.network(last))
    found = psnr_table(denoise, pictures)
    shown = pictures[:SWEPT]
    noisy = [noised(shown, sigma) for sigma in SIGMAS]
    pairs = zip(_by_picture(noisy), _by_picture([denoise(x) for x in noisy]), strict=True)
    rows = [row for pair in pairs for row in pair]
    grid = draw_grid(rows, ["noisy", "denoised"] * SWEPT, [f"sigma {sigma:g}" for sigma in SIGMAS], side=84)
    return Section(
        "out-of-distribution",
        "Out of distribution",
        [
            f"The network {after(last)} under noise it was not trained on; {_trained_at(run)}. PSNR against the "
            f"clean pictures over {len(pictures)} {which}s, for a data range of 1, nothing clipped."
        ],
        [Drawing("out-of-distribution", grid, "Digits, noisy above and denoised below, under every sigma")],
        Table(
            ["sigma", "noisy, dB", "denoised, dB", "gain, dB"],
            [
                [f"{sigma:g}", _decibels(before), _decibels(after), _gain(before, after)]
                for sigma, before, after in found
            ],
            marked=SIGMAS.index(trained_at) if trained_at in SIGMAS else None,
        ),
        {"psnr": [{"sigma": s, "noisy": _finite(before), "denoised": _finite(after)} for s, before, after in found]},
    )


@torch.inference_mode()
def answers(network: nn.Module, inputs: Tensor, batch: int = 100) -> Tensor:
    """The network's answer to pictures [N, C, S, S], on the host."""
    where = device()
    network.to(where)
    return torch.cat([network(part.to(where)).float().cpu() for part in inputs.split(batch)])


def denoiser(network: nn.Module) -> Denoise:
    """Noisy pictures to clean ones."""
    return lambda noisy: answers(network, noisy)


def held_out_pictures(run: TrainingRun, each: int) -> tuple[Tensor, str]:
    """The first pictures of every class, [N, C, S, S] in 0..1, and what they are: of the test split if there is one."""
    try:
        images, which = run.images("test"), "test picture"
    except ValueError:
        images, which = run.images("train"), "training picture"
    return to_unit(images.images[one_of_each(images.labels, each)]), which


def _trained_at(run: TrainingRun) -> str:
    return f"the network was trained at sigma {run.recipe['sigma']:g}"


def _by_picture(columns: Sequence[Tensor]) -> list[Tensor]:
    """Columns of N pictures each, as N rows."""
    return list(torch.stack(list(columns), dim=1))


def _decibels(value: float) -> str:
    return "no error" if math.isinf(value) else f"{value:.2f}"


def _gain(before: float, after: float) -> str:
    return "–" if math.isinf(before) or math.isinf(after) else f"{after - before:+.2f}"


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else round(value, 4)
