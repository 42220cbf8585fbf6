from __future__ import annotations

from pathlib import Path

import pytest
import torch

from darkroom.batch import capacity
from darkroom.batch.capacity import LEAST, MOST, ON_CPU, empty_pass, find_capacity, largest
from darkroom.models.catalog import open_model


@pytest.mark.parametrize(("memory", "found"), [(8, 8), (24, 16), (64, 64), (10**6, MOST), (7, 4), (1, 1), (0, 1)])
def test_the_largest_power_of_two_that_fits(memory: int, found: int) -> None:
    tried: list[int] = []

    def fits(places: int) -> bool:
        tried.append(places)
        return places <= memory

    assert largest(fits) == found
    assert tried[0] == LEAST and max(tried) <= max(2 * max(memory, 4), LEAST), "no try far beyond what fits"


def test_an_empty_pass_is_what_every_stage_takes(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    for stage in model.stages:
        name = model.encoder_of(stage.number)
        condition = torch.zeros(model.encoder_length(name), model.encoder_width(name))
        predictor = model.predictor(stage.number, torch.device("cpu"))
        answer = predictor(*empty_pass(stage, condition, 3))
        channels = stage.channels * (2 if stage.process.learned_variance else 1)
        assert answer.shape == (3, channels, *stage.shape[1:])
    assert find_capacity(predictor, stage, condition, "rev", "float32") == ON_CPU


def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    known = capacity._Known(tmp_path / "capacities", "NVIDIA H200 rev stage 1 bfloat16 1.00")
    assert known.read() is None
    known.write(64)
    assert capacity._Known(tmp_path / "capacities", known.what).read() == 64
    assert capacity._Known(tmp_path / "capacities", "NVIDIA H200 rev stage 1 float32 1.00").read() is None
    known.path.write_text("{torn")
    assert known.read() is None
