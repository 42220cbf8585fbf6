from __future__ import annotations

import numpy as np
import pytest

from darkroom.sampling.noise import KNOWN, LOWRES, START, STEP, normal


def test_first_numbers_are_pinned():
    # A change here changes every picture ever made from a seed: it needs a new sampler version, not new numbers.
    expected = {
        (0, 0, START, 0): [0.059911035001277924, 0.015559634193778038, -1.1644384860992432, -0.13264712691307068],
        (101, 1, STEP, 7): [0.7082706093788147, 0.08744123578071594, -0.6210309863090515, 0.0709860622882843],
        (-1, 0, 4, 2**40): [1.3694684505462646, -0.7088379263877869, 1.5166115760803223, -0.17414841055870056],
    }
    for key, numbers in expected.items():
        assert normal(*key, (4,)).tolist() == numbers


def test_shape_and_type():
    noise = normal(1, 2, STEP, 3, (3, 24, 24))
    assert noise.shape == (3, 24, 24) and noise.dtype == np.float32


def test_same_whatever_was_drawn_before():
    forwards = [normal(7, 0, STEP, draw, (3, 5, 5)) for draw in range(6)]
    backwards = [normal(7, 0, STEP, draw, (3, 5, 5)) for draw in reversed(range(6))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    np.testing.assert_array_equal(normal(7, 0, STEP, 2, (75,)), forwards[2].ravel())


@pytest.mark.parametrize(
    "other",
    [(6, 1, STEP, 3), (5, 2, STEP, 3), (5, 1, KNOWN, 3), (5, 1, STEP, 4), (5 + 2**63, 1, STEP, 3)],
    ids=["seed", "stage", "stream", "draw", "high bit of seed"],
)
def test_each_part_of_the_key_counts(other):
    one, two = normal(5, 1, STEP, 3, (20_000,)), normal(*other, (20_000,))
    # Not merely different: neither shifted copies of one another nor correlated (5 standard errors).
    assert not np.isin(one[:100], two).all()
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(20_000)


def test_streams_are_distinct():
    assert len({START, STEP, KNOWN, LOWRES}) == 4


def test_seed_is_taken_modulo_two_to_the_64():
    np.testing.assert_array_equal(normal(-1, 0, START, 0, (8,)), normal(2**64 - 1, 0, START, 0, (8,)))


def test_a_long_draw_does_not_run_into_the_next():
    long, following = normal(3, 0, STEP, 0, (100_000,)), normal(3, 0, STEP, 1, (8,))
    assert not np.isin(following, long).all()


def test_moments_across_draws_and_within_one():
    across = np.concatenate([normal(seed, 0, START, 0, (16,)) for seed in range(10_000)])
    within = normal(11, 0, START, 0, (160_000,))
    for sample in (across.astype(np.float64), within.astype(np.float64)):
        n = len(sample)  # bounds are 5 standard errors of each moment
        assert abs(sample.mean()) < 5 / np.sqrt(n)
        assert abs(sample.var() - 1) < 5 * np.sqrt(2 / n)
        assert abs((sample**3).mean()) < 5 * np.sqrt(15 / n)
        assert abs((sample**4).mean() - 3) < 5 * np.sqrt(96 / n)
