"""Loss curves as PNG. Matplotlib's object-oriented API alone: pyplot keeps figures alive and looks for a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from darkroom.report.grids import DENSITY
from darkroom.report.sheets import EDGE, INK, PAPER

SOFT, ACCENT, FAINT_LINE = "#6f685e", "#a8321f", "#c9bfb0"
SIZE = (5.9, 3.5)  # inches at 100 pixels each on the page: two curves lie beside each other
SMOOTHED_OVER = 100  # a smoothed line of so many independent values
STEEP = 4.0  # a loss that falls by more is drawn on a log scale


def steps_curve(steps: np.ndarray, losses: np.ndarray) -> bytes:
    """Loss per step and its moving mean. steps int64 [N], losses float64 [N], N >= 1, finite."""
    figure, axes = _axes("loss per step", "step")
    window = smoothing_window(len(losses))
    axes.plot(steps, losses, color=FAINT_LINE, linewidth=0.6, label="each step", rasterized=True)
    if window > 1:
        middle = steps[window // 2 : window // 2 + len(losses) - window + 1]
        axes.plot(middle, moving_mean(losses, window), color=ACCENT, linewidth=1.6, label=f"mean of {window} steps")
    _scale(axes, losses)
    return _png(figure, axes)


def epochs_curve(epochs: Sequence[int], losses: Sequence[float], validation: Sequence[float | None]) -> bytes:
    """Mean loss of each epoch, and the validation loss where there is one; sequences of one length, at least 1."""
    figure, axes = _axes("loss per epoch", "epoch")
    axes.plot(epochs, losses, color=SOFT, marker="o", markersize=4, linewidth=1.4, label="training, mean of the epoch")
    known = [(epoch, value) for epoch, value in zip(epochs, validation, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), color=ACCENT, marker="o", markersize=4, linewidth=1.4, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    _scale(axes, np.array([*losses, *(value for _, value in known)]))
    return _png(figure, axes)


def lines_curve(
    title: str, below: str, places: Sequence[float], lines: Mapping[str, Sequence[float]], percent: bool = True
) -> bytes:
    """A line for each name, of values at the same places; sequences of one length, at least 1. percent: they are shares
    of 0..1."""
    figure, axes = _axes(title, below)
    for colour, (name, values) in zip((ACCENT, SOFT, INK, FAINT_LINE), lines.items(), strict=False):
        drawn = 100 * np.array(values) if percent else values
        axes.plot(places, drawn, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    return _png(figure, axes)


def metric_curve(
    title: str,
    times: Sequence[datetime],
    candidates: Sequence[Mapping[str, Any]],
    promoted: Sequence[bool],
    champion: Sequence[float | None],
    bound: float | None,
) -> bytes:
    """One metric across ticks: candidates {"mean", "interval"}, filled where promoted; the champion each was held
    against; the gate's bound. Sequences of one length, at least 2."""  # fmt: skip
    figure, axes = _axes(title, "tick")
    means = np.array([one["mean"] for one in candidates])
    ends = np.array([one["interval"] for one in candidates])
    spread = np.abs(np.stack([means - ends[:, 0], ends[:, 1] - means]))
    axes.errorbar(times, means, spread, fmt="none", ecolor=FAINT_LINE, elinewidth=1.2, capsize=2, zorder=1)
    for kind, colour, label in ((True, ACCENT, "promoted"), (False, PAPER, "refused")):
        chosen = [place for place, was in enumerate(promoted) if was == kind]
        if chosen:
            axes.scatter([times[i] for i in chosen], means[chosen], s=30, color=colour, edgecolor=ACCENT, label=label)
    known = [(time, value) for time, value in zip(times, champion, strict=True) if value is not None]
    if known:
        axes.scatter(*zip(*known, strict=True), s=26, marker="_", color=INK, label="the champion then")
    if bound is not None:
        axes.axhline(bound, color=SOFT, linewidth=0.9, linestyle="--", label="bound")
    from_zero(axes, means)
    locator = AutoDateLocator(minticks=2, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return _png(figure, axes)


def from_zero(axes: Axes, values: np.ndarray) -> None:
    """No axis of shares, distances or counts begins below 0, whatever margin or interval would have it so."""
    if values.min() >= 0:
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))


def smoothing_window(count: int) -> int:
    """How many steps the smoothed line averages over."""
    return max(1, count // SMOOTHED_OVER)


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """[N] -> [N - window + 1], means of `window` neighbours."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return (sums[window:] - sums[:-window]) / window


def is_steep(losses: np.ndarray) -> bool:
    """Does a log scale show more? Judged by the smoothed line: lone outliers have no say."""
    smooth = moving_mean(losses, smoothing_window(len(losses)))
    return bool(losses.min() > 0 and smooth.max() > STEEP * smooth.min())


def _axes(title: str, below: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=100 * DENSITY, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(below, fontsize=9, color=SOFT)
    axes.tick_params(which="both", colors=SOFT, labelsize=8.5, length=3)
    axes.grid(which="major", color=EDGE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(EDGE)
    return figure, axes


def _scale(axes: Axes, losses: np.ndarray) -> None:
    if is_steep(losses):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.legend(frameon=False, fontsize=8.5, labelcolor=SOFT, loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER, metadata={"Software": None})  # the same bytes everywhere
    return buffer.getvalue()
