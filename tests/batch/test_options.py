"""Rows per unit."""

from __future__ import annotations

import pytest

from darkroom.batch.options import unit_size


@pytest.mark.parametrize(
    ("rows", "largest", "workers", "seconds", "size"),
    [
        (67, 48, 1, 0.3, 5),  # a demo on one worker: a dozen units
        (4_000, 256, 64, 0.7, 5),  # on 64 GPUs every actor has a dozen
        (1_000_000, 256, 64, 0.7, 85),  # about a minute
        (1_000_000, 64, 1, 1e-6, 256),
        (100_000, 1024, 4, 10.0, 6),
        (100_000, 1024, 4, 900.0, 4),  # a row takes a quarter of an hour, and so be it
        (100_000, 4096, 1, 0.01, 1),  # pictures in flight stay few
        (3, 64, 64, 0.5, 1),
        (300, 64, 64, 0.5, 4),
    ],
)
def test_a_unit_is_a_minute_of_one_actor_and_there_are_enough_for_all(
    rows: int, largest: int, workers: int, seconds: float, size: int
) -> None:
    assert unit_size(rows, largest, workers, seconds) == size
