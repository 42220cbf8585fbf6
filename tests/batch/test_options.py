"""Rows per unit."""

from __future__ import annotations

import pytest

from darkroom.batch.options import parse_max_failed, parse_rerun, unit_size


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


def test_candidates_in_flight_stay_few() -> None:
    eight = 8 * 12 * 1024**2  # bytes of eight candidates of 1024 px: ten such rows a unit would be a gigabyte
    assert unit_size(100_000, 1024, 1, 0.1, eight) == 1
    assert unit_size(100_000, 1024, 1, 0.1, 8 * 12 * 64**2) == unit_size(100_000, 1024, 1, 0.1) == 10


@pytest.mark.parametrize(
    ("text", "allowed"), [(None, float("inf")), ("0", 0), ("25", 25), ("1%", 2), ("0.5 %", 1), ("100%", 200)]
)
def test_how_many_rows_may_fail(text: str | None, allowed: float) -> None:
    assert parse_max_failed(text and text.replace(" ", ""), 200) == allowed


@pytest.mark.parametrize("text", ["", "-1", "101%", "2.5", "few", "%"])
def test_what_is_no_number_of_rows(text: str) -> None:
    with pytest.raises(ValueError, match="--max-failed-rows is .*, wanted a number of rows, or a share such as 1%"):
        parse_max_failed(text, 200)


def test_which_failed_rows_are_tried_again() -> None:
    assert parse_rerun("failed") is None and parse_rerun("none") == frozenset()
    assert parse_rerun("storage, numeric") == {"storage", "numeric"}
    with pytest.raises(ValueError, match="--rerun names 'nan', 'oom', wanted failed, none, or of input, numeric,"):
        parse_rerun("oom,nan")
