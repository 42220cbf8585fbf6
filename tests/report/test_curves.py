from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from darkroom.report.curves import epochs_curve, from_zero, is_steep, moving_mean, smoothing_window, steps_curve
from darkroom.report.grids import page_size

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("window", [1, 2, 7, 50])
def test_the_smoothed_line_is_a_mean_of_neighbours(window: int) -> None:
    values = RANDOM.random(50)
    assert np.allclose(moving_mean(values, window), np.convolve(values, np.full(window, 1 / window), "valid"))


def test_a_long_training_is_smoothed_over_a_hundredth() -> None:
    assert [smoothing_window(count) for count in (1, 99, 250, 9380)] == [1, 1, 2, 93]


def test_a_log_scale_is_for_what_falls_far() -> None:
    steps = np.arange(1000)
    assert is_steep(np.exp(-steps / 300))
    assert not is_steep(1 + np.exp(-steps / 300))
    assert not is_steep(np.where(steps == 500, 10.0, 1.0)), "one outlier"
    assert not is_steep(np.exp(-steps / 300) - 0.5), "there is no logarithm of what is not positive"


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_curves_are_pngs(count: int) -> None:
    for falls in (np.exp(-np.arange(count) / 100), np.ones(count)):
        png = steps_curve(np.arange(count), falls)
        assert Image.open(io.BytesIO(png)).format == "PNG"
        assert png == steps_curve(np.arange(count), falls)
        assert page_size(png) == (590, 350)


def test_epochs_without_validation_are_drawn() -> None:
    for validation in ([None, None], [None, 0.5], [0.7, 0.5]):
        assert Image.open(io.BytesIO(epochs_curve([1, 2], [0.9, 0.4], validation))).format == "PNG"
    assert Image.open(io.BytesIO(epochs_curve([1], [0.9], [0.8]))).format == "PNG"


@pytest.mark.parametrize(("values", "bottom"), [([0.01, 0.9], 0.0), ([5.0, 6.0], 4.95), ([-1.0, 6.0], -1.35)])
def test_what_is_never_negative_has_no_axis_below_zero(values: list[float], bottom: float) -> None:
    axes = Figure().add_subplot()
    axes.plot(values)
    from_zero(axes, np.array(values))
    assert axes.get_ylim()[0] == pytest.approx(bottom)
