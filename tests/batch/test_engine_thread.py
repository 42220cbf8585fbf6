"""An engine in its thread, where the device's memory ends."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

import pytest
import torch

from darkroom.batch.engine_thread import EngineThread, Sample
from darkroom.batch.row_state import is_device_lost
from darkroom.models.compiled import compiled
from darkroom.sampling.engine import Failed
from darkroom.sampling.flow import Flow
from darkroom.sampling.plans import Plan, condition_keys, make_plan
from darkroom.sampling.stage import Inputs, Stage
from toys import SHORTAGES, CountingPredictor, make_row

SIZE, SHAPE = 8, (3, 8, 8)


def plan_of(seed: int = 0, size: int = SIZE) -> Plan:
    row = make_row("text_to_image", prompt="a", seed=seed, steps=3)
    return make_plan(row, Stage(1, size, 3, Flow()), Inputs({key: torch.zeros(4) for key in condition_keys(row)}))


def room_for(evaluations: int, said: Exception = SHORTAGES[0]) -> CountingPredictor:
    """A predictor whose device has memory for a pass of so many evaluations of the usual size, and what it says."""

    def answer(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        if x.numel() > evaluations * 3 * SIZE**2:
            raise said
        return torch.zeros_like(x)

    return CountingPredictor(Flow(), answer)


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_a_row_that_is_too_large_fails_alone_and_the_capacity_stays(said: Exception) -> None:
    engine = EngineThread("stage 1", room_for(8, said), "float32", 8)
    usual = [engine.submit(plan_of(seed)) for seed in range(3)]
    large = engine.submit(plan_of(size=4 * SIZE))
    usual += [engine.submit(plan_of(seed)) for seed in range(3)]
    failed = large.result(20)
    assert isinstance(failed, Failed) and isinstance(failed.error, torch.OutOfMemoryError)
    assert "a state of shape [3, 32, 32] does not fit" in str(failed.error) and not is_device_lost(failed.error)
    samples = [future.result(20) for future in usual]
    assert all(isinstance(sample, Sample) and sample.capacity == 8 for sample in samples)
    engine.close()


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_memory_that_ends_in_whose_words_ever_halves_the_capacity(said: Exception) -> None:
    engine = EngineThread("stage 1", room_for(2, said), "float32", 8)
    sample = engine.submit(plan_of()).result(20)
    assert isinstance(sample, Sample) and sample.capacity == 2
    engine.close()


class Plain:
    """A predictor that says that it is on a GPU, and is not; with control networks it is the same."""

    process, device = Flow(), torch.device("cuda")

    def __call__(self, x: torch.Tensor, *told: torch.Tensor) -> torch.Tensor:
        return 0.1 * x

    def controlled(self, names: tuple[str, ...]) -> Plain:
        return Plain()


def test_smaller_passes_begin_without_what_larger_ones_were_captured_in(monkeypatch: pytest.MonkeyPatch) -> None:
    held = WeakSet["Graph"]()

    class Graph:
        """In the place of CUDA's, which takes what a pass of its size takes as long as it is there."""

        def __init__(self, ask: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> None:
            self.ask, self.size = ask, len(inputs[0])
            held.add(self)

        def fits(self, inputs: tuple[torch.Tensor, ...]) -> bool:
            return len(inputs[0]) == self.size

        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.ask(*inputs)

    monkeypatch.setattr("darkroom.models.compiled._Graph", Graph)
    fast = compiled(Plain(), "graphs", "eager")
    fast.device = torch.device("cpu")
    with torch.inference_mode():
        fast.controlled(("a",))(torch.zeros(8, *SHAPE), torch.zeros(8))
    engine = EngineThread("stage 1", fast, "float32", 8)
    before = engine.submit(plan_of()).result(60)
    assert isinstance(before, Sample) and (before.compile, before.capacity) == ("graphs", 8)
    assert [graph.size for graph in held] == [8, 8]
    assert engine._make_room("CUDA out of memory, decoding") and not held
    after = engine.submit(plan_of()).result(60)
    assert isinstance(after, Sample) and (after.compile, after.capacity) == ("graphs", 4)
    assert [graph.size for graph in held] == [4]
    engine.close()
