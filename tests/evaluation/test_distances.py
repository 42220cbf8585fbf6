from __future__ import annotations

import math

import pytest
import torch

from darkroom.evaluation.distances import (
    bootstrap_interval,
    frechet_distance,
    frechet_of_features,
    nearest,
    precision_and_recall,
)
from darkroom.evaluation.validation import as_tensor
from darkroom.models.classifier import mnist_classifier, to_unit
from darkroom.training.data import load_images, sample_uri


def gaussian(count: int, mean: list[float], spread: list[float], seed: int = 0) -> torch.Tensor:
    """Features whose sample mean and covariance (by N - 1) are these to rounding: no sampling error is left."""
    drawn = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    white = drawn - drawn.mean(dim=0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / (count - 1))).T
    return white * torch.tensor(spread, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    one, two = gaussian(400, [0, 1, 2], [1, 2, 3]), gaussian(300, [3, 1, -2], [2, 2, 0.5], seed=1)
    # axis by axis: (m1 - m2)^2 + (s1 - s2)^2
    assert frechet_of_features(one, two) == pytest.approx(9 + 0 + 16 + 1 + 0 + 6.25, rel=1e-6)


def test_a_set_is_no_way_from_itself() -> None:
    found = gaussian(300, [0] * 20, [1] * 20)
    assert frechet_of_features(found, found) == pytest.approx(0, abs=1e-6)
    assert frechet_of_features(found, found + 1) == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("count", [2, 5, 300])
def test_sets_that_fill_no_volume_have_a_distance_too(count: int) -> None:
    point = torch.ones(count, 128)
    assert frechet_of_features(point, point) == pytest.approx(0, abs=1e-6)
    assert frechet_of_features(point, 3 * point) == pytest.approx(4 * 128)
    few = gaussian(1000, [0] * 128, [1] * 128)[:count]
    assert 0 <= frechet_of_features(few, few) < 1e-3


def test_real_digits_are_near_each_other_and_noise_is_not() -> None:
    digits = to_unit(as_tensor(load_images(sample_uri(), "test").images))
    halves = frechet_distance(digits[:500], digits[500:])
    noise = frechet_distance(torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0)), digits)
    assert 0 < halves < 1 < 20 < noise
    some, bold = digits[:200], 3 * digits[:200] - 1
    features = mnist_classifier().features
    assert frechet_distance(some, some[:99]) == pytest.approx(frechet_of_features(features(some), features(some[:99])))
    assert frechet_distance(bold, some) == pytest.approx(frechet_distance(bold.clamp(0, 1), some))


def test_a_distance_wants_two_finite_features() -> None:
    with pytest.raises(ValueError, match="two or more finite features; the generated are 1"):
        frechet_of_features(torch.ones(1, 4), torch.ones(5, 4))
    with pytest.raises(ValueError, match="finite features; the real are 5"):
        frechet_of_features(torch.ones(5, 4), torch.full((5, 4), math.nan))


def test_precision_and_recall_of_the_same_and_of_far_sets() -> None:
    found = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    assert precision_and_recall(found, found.clone()) == (1.0, 1.0)
    assert precision_and_recall(found, found + 1000) == (0.0, 0.0)
    assert precision_and_recall(torch.zeros(5, 8), torch.zeros(9, 8)) == (1.0, 1.0)


def test_one_mode_of_two_is_precise_and_recalls_half() -> None:
    """Two clusters of real points, of which the model knows the first."""
    cluster = torch.arange(10.0)[:, None]
    real = torch.cat([cluster, cluster + 100])
    assert precision_and_recall(cluster + 0.5, real) == (1.0, 0.5)
    # four of ten are real, six are nowhere
    assert precision_and_recall(torch.cat([cluster[:4], cluster[:6] + 1e4]), real)[0] == 0.4


def test_the_radius_is_that_of_the_third_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [6.0]])  # radii: 6, 5, 3, 6
    for point, inside in ((-6.0, 1.0), (-6.1, 0.0), (12.0, 1.0), (12.1, 0.0)):
        assert precision_and_recall(torch.full((4, 1), point), line)[0] == inside
    with pytest.raises(ValueError, match="want more than 3 pictures of either kind; got 3 and 4"):
        precision_and_recall(line[:3], line)


def test_the_nearest_picture_and_its_distance() -> None:
    others = torch.zeros(6001, 1, 4, 4)
    others[6000] = 1.0
    pictures = torch.stack([torch.full((1, 4, 4), 0.25), torch.full((1, 4, 4), 0.75), torch.ones(1, 4, 4)])
    found = nearest(pictures, others)
    assert found.distances.tolist() == pytest.approx([1.0, 1.0, 0.0])  # 16 pixels, 0.25 each
    assert (found.mean, found.minimum) == (pytest.approx(2 / 3), 0.0)


def test_bytes_count_as_0_to_1_and_a_copy_is_no_way_away() -> None:
    pictures = torch.randint(256, (700, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert nearest(pictures[600:], pictures).distances.tolist() == [0.0] * 100
    black, white = torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.full((1, 1, 3, 3), 255, dtype=torch.uint8)
    assert nearest(black, white).mean == 3.0


def test_the_bootstrap_of_a_constant_is_the_constant_and_of_three_values_their_range() -> None:
    assert bootstrap_interval([0.25] * 3) == (0.25, 0.25)
    assert bootstrap_interval([7.0]) == (7.0, 7.0)
    assert bootstrap_interval([1.0, 5.0, 2.0]) == (1.0, 5.0)


def test_the_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(values.tolist())
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.1 * half)
