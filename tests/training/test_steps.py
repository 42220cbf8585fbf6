"""The speed of a training's steps: what cannot be had is given up once, at the first batch, and changes no curve."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from darkroom.models.course_unet import CourseUNet
from darkroom.models.ddpm_unet import DDPMUNet
from darkroom.sampling.diffusion import Diffusion
from darkroom.storage import open_store
from darkroom.training import graphs
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.data import load_images, sample_uri
from darkroom.training.feeds import Resident, Worker
from darkroom.training.loop import fit
from darkroom.training.objectives import DenoisingDiffusion, FlowMatching, Objective
from darkroom.training.steps import Optimization
from two_workers import outputs_of_two

ALONE = Worker(0, 1, torch.device("cpu"))
HOW = Optimization(epochs=2, rate=lambda step: 1e-3 / (1 + step), average=0.9, clip=0.5, fused=True)


def flow() -> FlowMatching:
    """Batch norms, which remember what they have seen."""
    torch.manual_seed(0)
    return FlowMatching(CourseUNet(hidden=4, conditioning="class", num_classes=10), 0.1)


def ddpm(dropout: float = 0.0) -> DenoisingDiffusion:
    torch.manual_seed(0)
    network = DDPMUNet(channels=1, size=28, width=8, multipliers=(1, 2), blocks=1, num_classes=10, dropout=dropout)
    return DenoisingDiffusion(network, Diffusion.cosine(prediction="v"), 0.1)


class Small(nn.Module):
    """A network that even a real compiler is soon done with."""

    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor, label: None) -> Tensor:
        return self.scale * x + t[:, None, None, None]


def run(out: Path, objective: Objective, how: Optimization, **more) -> tuple[Checkpoint, list[str]]:
    images, lines = load_images(sample_uri(), "train"), []
    few = replace(images, images=images.images[:40], labels=images.labels[:40])
    last = fit(objective, Resident(few, 8, 3, ALONE), how, ALONE, open_store(str(out)), {}, lines.append, **more)
    return last, [line for line in lines if not line.startswith("epoch")]


def assert_same(one: Checkpoint, two: Checkpoint) -> None:
    """To the bit: losses, weights, average, moments."""
    assert one.step == two.step == 10
    for kind in ("weights", "average", "moments"):
        for name, tensor in getattr(one, kind).items():
            assert torch.equal(tensor, getattr(two, kind)[name]), (kind, name)
    for name in ("losses", "rates"):
        assert torch.equal(one.curves[name], two.curves[name]), name


def no_compiler(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")


def breaks_backwards(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
    """Compiles to something whose forward has run, and moved the batch norms, when its backward fails."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise subprocess.CalledProcessError(1, "gcc")

    return lambda *given: tuple(Broken.apply(x) for x in module(*given))


@pytest.mark.parametrize(
    ("backend", "why"),
    [(no_compiler, "Failed to find C compiler."), (breaks_backwards, "Command 'gcc' returned non-zero exit status 1.")],
)
def test_a_compile_that_cannot_be_had_is_said_recorded_and_leaves_no_trace(tmp_path: Path, backend, why: str) -> None:
    plain, _ = run(tmp_path / "plain", flow(), HOW)
    objective = flow()
    objective.backend = backend
    tried, lines = run(tmp_path / "tried", objective, replace(HOW, compile=True))
    assert lines == [f"torch.compile failed, the network is trained as it is: {why}"]
    assert tried.config["ran"]["compile"] is False and tried.config["ran"]["notes"] == lines
    assert_same(plain, tried)


def test_a_compile_that_can_be_had_is_recorded_and_its_trial_leaves_no_trace(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", flow(), HOW)
    objective, calls = flow(), []
    objective.backend = lambda module, inputs: lambda *given: calls.append(1) or module(*given)
    compiled, lines = run(tmp_path / "compiled", objective, replace(HOW, compile=True))
    assert lines == [] and compiled.config["ran"]["compile"] is True and len(calls) == 11, "a trial and ten steps"
    assert_same(plain, compiled)


def test_the_real_compiler(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", FlowMatching(Small(), 0.0), HOW)
    compiled, lines = run(tmp_path / "compiled", FlowMatching(Small(), 0.0), replace(HOW, compile=True))
    assert lines == [] and compiled.config["ran"]["compile"] is True
    torch.testing.assert_close(compiled.curves["losses"], plain.curves["losses"], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("at", "error"), [(1, torch.OutOfMemoryError), (3, RuntimeError)])
def test_memory_is_no_reason_to_fall_back_and_later_nothing_is(tmp_path: Path, at: int, error: type) -> None:
    objective, calls = flow(), []

    def compiled(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        def call(*given: Tensor) -> tuple[Tensor, ...]:
            calls.append(1)
            if len(calls) == at:
                raise error("all gone")
            return module(*given)

        return call

    objective.backend = compiled
    with pytest.raises(error, match="all gone"):
        run(tmp_path, objective, replace(HOW, compile=True))
    assert len(calls) == at


class Reexecuted:
    """What a graph does, by a processor: the captured step is run again, on the same tensors."""

    captures = 0

    def warm(self, step: Callable[[], Tensor]) -> Tensor:
        return step()

    def capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        type(self).captures += 1
        loss = torch.empty(())
        return lambda: loss.copy_(step())


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> type[Reexecuted]:
    monkeypatch.setitem(graphs.MAKERS, "cpu", Reexecuted)
    monkeypatch.setattr(Reexecuted, "captures", 0)
    return Reexecuted


@pytest.mark.parametrize("make", [flow, ddpm])
def test_a_graph_gives_the_curve_of_the_steps_it_replays(tmp_path: Path, graphed, make: Callable) -> None:
    """Learning rate, clipping, average and batch norms, and across an interruption."""
    eager, _ = run(tmp_path / "eager", make(), HOW)
    how = replace(HOW, graphs=True)
    replayed, lines = run(tmp_path / "replayed", make(), how)
    assert (graphed.captures, replayed.config["ran"]["graphs"], lines) == (1, True, [])
    assert_same(eager, replayed)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", make(), how, noted=stop)
    assert_same(eager, run(tmp_path / "broken", make(), how)[0])
    assert graphed.captures == 3


def stop(checkpoint: Checkpoint) -> None:
    raise KeyboardInterrupt


def test_dropout_of_a_resumed_training_is_that_of_the_unbroken_one(tmp_path: Path) -> None:
    unbroken, _ = run(tmp_path / "unbroken", ddpm(0.3), HOW)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", ddpm(0.3), HOW, noted=stop)
    assert_same(unbroken, run(tmp_path / "broken", ddpm(0.3), HOW)[0])
    assert not torch.equal(unbroken.curves["losses"], run(tmp_path / "none", ddpm(), HOW)[0].curves["losses"])


@pytest.mark.parametrize("said", [torch.OutOfMemoryError("all gone"), RuntimeError("CUDA error: out of memory")])
def test_want_of_memory_in_a_capture_is_no_reason_to_do_without(
    tmp_path: Path, graphed, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    def short(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        try:
            raise said
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(graphed, "capture", short)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        run(tmp_path, flow(), replace(HOW, graphs=True))
    assert str(raised.value) == str(said)


def test_what_cannot_be_captured_runs_as_it_is(tmp_path: Path, graphed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    eager, _ = run(tmp_path / "eager", flow(), HOW)
    monkeypatch.setattr(graphed, "capture", refuse)
    plain, lines = run(tmp_path / "plain", flow(), replace(HOW, graphs=True))
    assert lines == ["CUDA graphs are not used: CUDA error: operation not permitted when stream is capturing"]
    assert plain.config["ran"]["graphs"] is False and plain.config["ran"]["notes"] == lines
    assert_same(eager, plain)


def test_graphs_want_a_gpu(tmp_path: Path) -> None:
    last, lines = run(tmp_path, flow(), replace(HOW, epochs=1, graphs=True))
    assert lines == ["CUDA graphs are not used: they need a GPU, and this is a cpu"]
    assert last.config["ran"]["graphs"] is False


def test_batch_norms_that_workers_share_keep_the_tensors_that_are_trained() -> None:
    """A training takes hold of its tensors before it knows that it is shared."""
    network = flow().network
    before = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert before.keys() == after.keys() and all(after[name] is tensor for name, tensor in before.items())


TWO = """
from dataclasses import replace
import test_steps as t
from darkroom.training import feeds
from darkroom.training.epochs import Epochs
from darkroom.training.steps import Steps
worker, objective = t.Worker(rank, 2, torch.device("cpu")), t.FlowMatching(t.Small(), 0.0)
feeds.RESIDENT_SHARE = 0.25 - 0.25 * rank  # the second one's node has no room
print(feeds.fits(1, worker))
objective.backend = t.no_compiler if rank else "eager"
epochs = Epochs(Steps(objective, replace(t.HOW, compile=True), worker, print))
images = t.load_images(t.sample_uri(), "train")
few = replace(images, images=images.images[:40], labels=images.labels[:40])
epochs.run(t.Resident(few, 8, 3, worker), print)
print(epochs.losses)
"""


def test_workers_fall_back_together(tmp_path: Path) -> None:
    (fit, note, losses), (fit_other, other, same) = map(
        str.splitlines, outputs_of_two(TWO, tmp_path, Path(__file__).parent)
    )
    assert fit == fit_other == "False", "each streams"
    assert note.endswith("trained as it is: on another worker") and other.endswith("Failed to find C compiler.")
    assert losses == same and losses.count(",") == 4
