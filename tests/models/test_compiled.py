"""Compiled predictors on a processor: torch.compile with the backends that need no compiler. A CUDA graph is captured
and replayed on a GPU only, so not here; that its absence is told and harmless is."""

from __future__ import annotations

import pytest
import torch

from darkroom.models.compiled import MODES, compiled
from darkroom.models.errors import ModelError
from darkroom.sampling.engine import Engine
from darkroom.sampling.flow import Flow
from darkroom.sampling.plans import Inputs, Stage, condition_keys, make_plan
from toys import CountingPredictor, make_row, tiny_unet


@pytest.fixture(autouse=True)
def forget():
    yield
    torch._dynamo.reset()


class Small(CountingPredictor):
    """A network of one convolution: what dynamo traces in no time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
        self.process = Flow()

    def __call__(self, x, timestep, condition, noise_level):
        return torch.tanh(self.convolution(x)) * timestep[:, None, None, None] + condition[:, None, None, None]

    def condition(self, key: str) -> torch.Tensor:
        return torch.tensor(len(key) / 10)


@pytest.fixture
def network() -> Small:
    return Small()


def inputs(capacity: int) -> tuple[torch.Tensor, ...]:
    x = torch.randn(capacity, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0, 0.9, capacity), torch.linspace(0, 1, capacity), torch.zeros(capacity, dtype=torch.int64)


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, examples: list) -> torch.fx.GraphModule:
        self.graphs += 1
        return graph


def develop(predictor, rows: int = 5, capacity: int = 4) -> list[torch.Tensor]:
    engine = Engine(predictor, capacity)
    for seed in range(rows):
        row = make_row("text_to_image", label=seed, seed=seed, steps=2 + seed % 2)
        conditions = {key: predictor.condition(key) for key in condition_keys(row)}
        engine.add(make_plan(row, Stage(1, 8, 1, predictor.process), Inputs(conditions)), seed)
    return [one.image for one in sorted(engine.run(), key=lambda one: one.tag)]


def test_an_engine_with_a_compiled_model_makes_the_same_pictures_and_compiles_once(network):
    backend = Counting()
    fast = compiled(network, "default", backend)
    assert all(torch.equal(a, b) for a, b in zip(develop(fast), develop(network), strict=True))
    assert backend.graphs == 1 and fast.notes == []
    develop(fast, capacity=2)  # as after an out-of-memory: another shape, compiled anew
    assert backend.graphs == 2


@pytest.mark.slow
@torch.inference_mode()
def test_if_s_unet_compiles_in_one_piece():
    unet, backend = tiny_unet(8, super_resolution=True), Counting()
    given = (torch.randn(2, 6, 8, 8), torch.tensor([9, 500]), torch.randn(2, 4, 32), torch.tensor([100, 250]))
    fast = compiled(unet, "default", backend)
    assert torch.equal(fast(*given), unet(*given)) and backend.graphs == 1


def test_off_is_the_predictor_itself_and_others_have_all_of_it(network):
    assert compiled(network, "off") is network
    fast = compiled(network, "default", "eager")
    assert (
        fast.condition("label 3") == network.condition("label 3")
        and fast.process is network.process
        and fast.device == network.device
    )
    with pytest.raises(AttributeError):
        _ = fast.nothing_of_the_kind


def test_where_compiling_fails_the_model_runs_as_it_is(network):
    def broken(graph, examples):
        raise RuntimeError("no compiler on this machine")

    fast = compiled(network, "default", broken)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    (note,) = fast.notes
    assert note.startswith("torch.compile failed, the model runs as it is:")


def test_graphs_without_a_gpu_are_told_of_and_not_used(network):
    fast = compiled(network, "graphs", "eager")
    assert fast.notes == ["CUDA graphs are not used: they need a GPU, and this is a cpu"]
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))


def test_want_of_memory_is_not_taken_for_a_failed_compiler(network):
    def full(graph, examples):
        def run(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    fast = compiled(network, "default", full)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        fast(*inputs(3))
    assert fast.notes == []


def test_an_unknown_mode_is_a_sentence(network):
    with pytest.raises(ModelError, match="compile is 'fast', wanted off, default, graphs"):
        compiled(network, "fast")
    assert MODES == ("off", "default", "graphs")
