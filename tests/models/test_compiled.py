"""Compiled predictors on a processor. A CUDA graph is captured and replayed on a GPU only, so not here; that its
absence is told and harmless is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.batch.engine_thread import EngineThread
from darkroom.batch.stuck import Guard
from darkroom.models.compiled import MODES, CompiledPredictor, compiled, mode_in_use, notes_of, warm_up
from darkroom.models.errors import ModelError
from darkroom.sampling.engine import Engine
from darkroom.sampling.flow import Flow
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.stage import Inputs, Stage
from toys import SHORTAGES, CountingPredictor, make_row, tiny_unet


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
    assert backend.graphs == 1 and notes_of(fast) == [] and mode_in_use(fast) == "default"
    develop(fast, capacity=2)  # as after an out-of-memory: another shape, compiled anew
    assert backend.graphs == 2


@pytest.mark.slow
@torch.inference_mode()
def test_if_s_unet_compiles_in_one_piece():
    unet, backend = tiny_unet(8, super_resolution=True), Counting()
    given = (torch.randn(2, 6, 8, 8), torch.tensor([9, 500]), torch.randn(2, 4, 32), torch.tensor([100, 250]))
    fast = compiled(unet, "default", backend)
    assert torch.equal(fast(*given), unet(*given)) and backend.graphs == 1


def test_the_first_rows_find_it_warm(network):
    backend = Counting()
    fast = compiled(network, "default", backend)
    warm_up(fast, inputs(4))  # made outside of inference mode, unlike the engine's
    assert backend.graphs == 1
    develop(fast)
    assert backend.graphs == 1


def test_whatever_pass_compiles_has_the_time_of_a_first_one(network):
    guard, limits = Guard(100, first=500), []

    def backend(graph: torch.fx.GraphModule, examples: list) -> torch.fx.GraphModule:
        limits.append(guard.limit)
        return graph

    thread = EngineThread("stage 1", CompiledPredictor(network, "default", backend), "float32", 2, guard=guard)
    row = make_row("text_to_image", label=1, steps=2, guidance=1.0)
    conditions = {key: network.condition(key) for key in condition_keys(row)}
    for size in (8, 16):
        thread.submit(make_plan(row, Stage(1, size, 1, network.process), Inputs(conditions))).result()
    thread.close()
    assert limits == [500, 500] and guard.limit == 100


def test_off_is_the_predictor_itself_and_others_have_all_of_it(network):
    assert compiled(network, "off") is network
    assert mode_in_use(network) == "off" and notes_of(network) == []
    fast = compiled(network, "default", "eager")
    assert (
        fast.condition("label 3") == network.condition("label 3")
        and fast.process is network.process
        and fast.device == network.device
    )
    with pytest.raises(AttributeError):
        _ = fast.nothing_of_the_kind


SCRIPT = """
import json, torch
from test_compiled import Small, compiled, inputs, mode_in_use, notes_of

network = Small()
fast = compiled(network, "default")
with torch.inference_mode():
    apart = (fast(*inputs(3)) - network(*inputs(3))).abs().max().item()
print(json.dumps([mode_in_use(fast), notes_of(fast), apart]))
"""


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., tuple[str, list[str], float]]:
    """Inductor in a process of its own, with nothing compiled before: mode, notes, and how far from uncompiled."""

    def run(**environment: str) -> tuple[str, list[str], float]:
        beside = [Path(__file__).parent, Path(__file__).parents[1]]
        fresh = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, beside))}
        command, env = [sys.executable, "-c", SCRIPT], {**os.environ, **fresh, **environment}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return tuple(json.loads(done.stdout.splitlines()[-1]))

    return run


def test_without_a_compiler_the_model_runs_as_it_is(alone):
    mode, (note,), apart = alone(PATH="/nonexistent")
    assert mode == "off" and apart == 0
    assert "the model runs as it is: InvalidCxxCompiler: No working C++ compiler found" in note


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_with_a_compiler_it_is_compiled(alone):
    mode, notes, apart = alone()
    assert mode == "default" and notes == [] and apart < 1e-6


def failing(error: Exception, calls: int = 0) -> Callable:
    """A backend whose kernels raise it at every call after the first `calls` of a graph."""

    def backend(graph, examples):
        left = iter(range(calls))

        def run(*given):
            if next(left, None) is None:
                raise error
            return graph(*given)

        return run

    return backend


def test_where_compiling_fails_the_model_runs_as_it_is(network):
    def broken(graph, examples):
        raise ValueError("no such operator")

    fast = compiled(network, "default", broken)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    (note,) = notes_of(fast)
    assert note == "torch.compile failed, the model runs as it is: ValueError: no such operator"
    assert mode_in_use(fast) == "off"


# What Triton raises at a first launch: it finds no compiler, or that fails, or what it built cannot be loaded.
TRITONS = (
    RuntimeError("Failed to find C compiler"),
    FileNotFoundError("gcc"),
    subprocess.CalledProcessError(1, "gcc"),
    ImportError("failed to map segment from shared object"),
    AssertionError("libcuda.so cannot found!"),
)


@pytest.mark.parametrize("error", TRITONS, ids=lambda error: type(error).__name__)
def test_a_launcher_that_cannot_be_built_is_a_failed_compiler(network, error):
    fast = compiled(network, "default", failing(error))
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    assert mode_in_use(fast) == "off" and len(notes_of(fast)) == 1


def test_a_kernel_that_triton_refuses_is_a_failed_compiler(network):
    errors = pytest.importorskip("triton.runtime.errors")
    fast = compiled(network, "default", failing(errors.OutOfResources(300_000, 232_448, "shared memory")))
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    assert mode_in_use(fast) == "off"


def test_after_a_success_an_error_is_an_error(network):
    fast = compiled(network, "default", failing(RuntimeError("CUDA error: unspecified launch failure"), calls=1))
    with torch.inference_mode():
        fast(*inputs(3))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="unspecified launch failure"):
                fast(*inputs(3))
    assert mode_in_use(fast) == "default" and notes_of(fast) == []


def test_each_shape_is_decided_alone(network):
    def only_three(graph, examples):
        if any(one.shape[:1] == (2,) for one in examples if isinstance(one, torch.Tensor)):
            raise RuntimeError("not for two")
        return graph

    fast, modes = compiled(network, "default", only_three), []
    with torch.inference_mode():
        for capacity in (3, 2, 3, 2):
            assert torch.equal(fast(*inputs(capacity)), network(*inputs(capacity)))
            modes.append(mode_in_use(fast))
    assert modes == ["default", "off", "default", "off"] and len(notes_of(fast)) == 1


def test_a_model_that_does_not_compile_whole_is_not_called_compiled(network):
    class Breaking(Small):
        def __call__(self, x, *others):
            torch._dynamo.graph_break()
            return super().__call__(x, *others)

    fast, plain = compiled(Breaking(), "default", "eager"), Breaking()
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), plain(*inputs(3)))
    assert mode_in_use(fast) == "off" and len(notes_of(fast)) == 1


def test_a_fault_of_the_model_is_not_the_compilers(network):
    fast = compiled(network, "default", "eager")
    x, *others = inputs(3)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        fast(x.expand(3, 2, 8, 8), *others)
    assert notes_of(fast) == []


def test_graphs_without_a_gpu_are_told_of_and_not_used(network):
    fast = compiled(network, "graphs", "eager")
    assert notes_of(fast) == ["CUDA graphs are not used: they need a GPU, and this is a cpu"]
    assert mode_in_use(fast) == "default"
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    assert mode_in_use(fast) == "default"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a capture that fails, for want of a GPU")
def test_graphs_that_cannot_be_captured_leave_the_compiled_model(network):
    network.device = torch.device("cuda")  # so says the model; its tensors lie on the processor
    fast = compiled(network, "graphs", "eager")
    assert mode_in_use(fast) == "graphs"
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    (note,) = notes_of(fast)
    assert note.startswith("CUDA graphs are not used: ") and mode_in_use(fast) == "default"


def test_graphs_are_not_captured_of_a_model_that_did_not_compile(network):
    network.device = torch.device("cuda")
    fast = compiled(network, "graphs", failing(RuntimeError("Failed to find C compiler")))
    with torch.inference_mode():
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    assert mode_in_use(fast) == "off" and len(notes_of(fast)) == 1


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_want_of_memory_decides_nothing(network, said):
    fast = compiled(network, "default", failing(said))
    with torch.inference_mode():
        for _ in range(2):
            with pytest.raises(torch.OutOfMemoryError):
                fast(*inputs(3))
    assert notes_of(fast) == []


def test_want_of_memory_in_the_compiler_decides_nothing_either(network):
    full = [torch.OutOfMemoryError("CUDA out of memory")]

    def backend(graph, examples):
        if full:
            raise full.pop()
        return graph

    fast = compiled(network, "default", backend)
    with torch.inference_mode():
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            fast(*inputs(3))
        assert torch.equal(fast(*inputs(3)), network(*inputs(3)))
    assert mode_in_use(fast) == "default" and notes_of(fast) == []


def test_an_unknown_mode_is_a_sentence(network):
    with pytest.raises(ModelError, match="compile is 'fast', wanted off, default, graphs"):
        compiled(network, "fast")
    assert MODES == ("off", "default", "graphs")
