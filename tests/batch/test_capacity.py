from __future__ import annotations

import pytest
import torch

from darkroom.batch import capacity
from darkroom.batch.capacity import LEAST, MOST, ON_CPU, Agreed, empty_pass, find_capacity, largest
from darkroom.models.catalog import open_model
from darkroom.sampling.flow import Flow
from darkroom.sampling.stage import Stage
from darkroom.storage import open_store
from toys import SHORTAGES, CountingPredictor


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
        fields = model.empty_fields(stage.number)
        predictor = model.predictor(stage.number, torch.device("cpu"))
        answer = predictor(*empty_pass(stage, fields, 3))
        channels = stage.channels * (2 if stage.process.learned_variance else 1)
        assert answer.shape == (3, channels, *stage.shape[1:])
    assert find_capacity(predictor, stage, fields, "rev", "float32") == ON_CPU


def test_all_workers_of_a_run_take_what_the_first_of_them_found(store_uri: str) -> None:
    store, what = open_store(store_uri), "NVIDIA H200 rev stage 1 bfloat16"
    first, second = Agreed(store, what), Agreed(open_store(store_uri), what)
    assert first.read() is None and second.read() is None, "both are to find one"
    assert first.settle(32) == 32
    assert second.settle(64) == 32, "on another node, where more would fit"
    assert Agreed(store, what).read() == 32, "and after a break"
    assert Agreed(store, what.replace("stage 1", "stage 2")).read() is None
    assert Agreed(store, what.replace("H200", "L4")).settle(8) == 8, "another kind of GPU has its own"


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_a_pass_for_which_memory_ends_does_not_fit(monkeypatch: pytest.MonkeyPatch, said: Exception) -> None:
    def full(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        raise said

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    stage, fields = Stage(1, 8, 3, Flow()), (torch.zeros(4), torch.tensor(0))
    assert not capacity._fits(CountingPredictor(stage.process, full), stage, fields, 8, 1.0)
