from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from darkroom.storage import open_store
from darkroom.training.checkpoints import Checkpoint, epochs_kept, load_checkpoint, save_checkpoint
from darkroom.training.data import Images
from darkroom.training.draws import Draw
from darkroom.training.feeds import Batch, Resident, Worker
from darkroom.training.loop import fit
from darkroom.training.objectives import Objective
from darkroom.training.steps import Optimization
from two_workers import outputs_of_two

CPU = torch.device("cpu")
ALONE = Worker(0, 1, CPU)
HOW = Optimization(epochs=3, rate=lambda step: 0.05, average=0.9)


class Line(Objective):
    """Fits a number to the mean of the pictures: the least loss is known."""

    def __init__(self) -> None:
        network = nn.Module()
        network.number = nn.Parameter(torch.zeros(1))
        super().__init__(network)

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        return (batch.images,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.network.number - images.mean(dim=(1, 2, 3))).square().mean()


def pictures(count: int = 40) -> Images:
    values = torch.arange(count, dtype=torch.uint8).numpy() * 5
    return Images(values[:, None, None, None].repeat(4, 1).repeat(4, 2), torch.arange(count).numpy() % 10, "digest")


def feed(worker: Worker = ALONE) -> Resident:
    return Resident(pictures(), 8, 3, worker)


def run(tmp_path: Path, how: Optimization = HOW, **more) -> Checkpoint:
    return fit(Line(), feed(), how, ALONE, open_store(str(tmp_path)), {"name": "line"}, lambda line: None, **more)


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    last = run(tmp_path, replace(HOW, epochs=60))
    mean = (pictures().images / 127.5 - 1).mean()
    assert last.sampling_weights["number"].item() == pytest.approx(mean, abs=0.05)


def test_the_average_follows_its_closed_form(tmp_path: Path) -> None:
    """Weights after every step are known from trainings of as many steps; the average is their weighted sum."""
    last = run(tmp_path / "all", replace(HOW, epochs=2))
    seen: list[float] = []

    class Watched(Line):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(self.network.number.item())
            return super().forward(images)

    fit(Watched(), feed(), replace(HOW, epochs=2), ALONE, open_store(str(tmp_path / "w")), {}, lambda line: None)
    after = [*seen[1:], last.weights["number"].item()]
    expected = 0.0
    for step, weight in enumerate(after):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert last.average["number"].item() == pytest.approx(expected, rel=1e-5)


def test_rank_0_notes_every_image_and_the_mean_loss(tmp_path: Path) -> None:
    noted: list[tuple[int, float]] = []
    worker = replace(ALONE, note=lambda images, loss: noted.append((images, loss)))
    last = fit(Line(), feed(worker), HOW, worker, open_store(str(tmp_path)), {}, lambda line: None)
    assert [images for images, _ in noted] == [40, 40, 40], "five steps of 8 in each of three epochs"
    losses = last.curves["losses"].reshape(3, 5).mean(dim=1).tolist()
    assert [loss for _, loss in noted] == pytest.approx(losses)


@pytest.mark.parametrize("fused", [False, True])
def test_interrupted_and_resumed_equals_unbroken(tmp_path: Path, fused: bool) -> None:
    how = replace(HOW, fused=fused)
    unbroken = run(tmp_path / "unbroken", how)

    def stop(checkpoint: Checkpoint) -> None:
        if checkpoint.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", how, noted=stop)
    resumed = run(tmp_path / "broken", how)
    for name in ("losses", "rates"):
        assert torch.equal(resumed.curves[name], unbroken.curves[name])
    assert torch.equal(resumed.weights["number"], unbroken.weights["number"])
    assert torch.equal(resumed.average["number"], unbroken.average["number"])
    assert run(tmp_path / "broken", how).step == unbroken.step, "a finished training takes no more steps"


RANK = """
import test_loop as t
worker = t.Worker(rank, 2, t.CPU)
last = t.fit(t.Line(), t.feed(worker), t.HOW, worker, t.open_store(folder), {}, lambda line: None)
print(last.epoch, last.step, last.weights["number"].item(), last.sampling_weights["number"].item())
"""


def test_every_worker_of_a_resumed_training_ends_with_the_last_weights(tmp_path: Path) -> None:
    """A phase that follows begins from them, with networks that no optimizer would bring together again."""
    run(tmp_path, replace(HOW, epochs=1))
    first, second = outputs_of_two(RANK, tmp_path, Path(__file__).parent)
    assert first == second and first.startswith("3 15 ")


def test_the_newest_the_best_and_the_shown_are_kept(tmp_path: Path) -> None:
    losses = iter([5.0, 1.0, 4.0, 3.0, 2.5, 2.0])
    run(tmp_path, replace(HOW, epochs=6, keep_last=2, keep=(1,)), validate=lambda weights: next(losses))
    assert epochs_kept(open_store(str(tmp_path))) == [1, 2, 5, 6]


def test_a_loss_that_is_no_number_names_step_rate_and_checkpoint(tmp_path: Path) -> None:
    class Broken(Line):
        steps = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            return super().forward(images) * (float("nan") if self.steps == 8 else 1.0)

    with pytest.raises(
        FloatingPointError, match="epoch 2, step 7: the loss is nan at a learning rate of 0.05; last good"
    ):
        fit(Broken(), feed(), HOW, ALONE, open_store(str(tmp_path)), {}, lambda line: None)
    assert epochs_kept(open_store(str(tmp_path))) == [1]


def test_a_checkpoint_says_what_it_is_and_comes_back(store_uri: str) -> None:
    store = open_store(store_uri)
    saved = Checkpoint(7, 70, {"name": "x"}, {"w": torch.randn(2, 3)}, {"w": torch.zeros(2, 3)}, {}, {})
    save_checkpoint(store, saved)
    back = load_checkpoint(store, 7)
    assert (back.epoch, back.step, back.config) == (7, 70, {"name": "x"})
    assert torch.equal(back.weights["w"], saved.weights["w"]) and torch.equal(
        back.sampling_weights["w"], saved.average["w"]
    )
    with pytest.raises(ValueError, match=r"epoch-0008.*there are those of the epochs \[7\]"):
        load_checkpoint(store, 8)
    store.write("checkpoints/epoch-0009.safetensors", store.read("checkpoints/epoch-0007.safetensors")[:100])
    with pytest.raises(ValueError, match="epoch-0009.safetensors is damaged"):
        load_checkpoint(store, 9)
    with pytest.raises(FloatingPointError, match="weights/w is no longer finite"):
        save_checkpoint(store, replace(saved, epoch=10, weights={"w": torch.tensor([float("inf")])}))


def test_shares_of_a_batch_make_the_batch_whatever_their_number() -> None:
    def first(worker: Worker) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for number in (1, 2):
            batch = next(iter(feed(worker).epoch(number)))
            yield batch.images, batch.labels, batch.draw.normal((2,))

    whole = list(first(ALONE))
    halves = list(zip(first(Worker(0, 2, CPU)), first(Worker(1, 2, CPU)), strict=True))
    for one, (left, right) in zip(whole, halves, strict=True):
        for mine, *theirs in zip(one, left, right, strict=True):
            assert torch.equal(mine, torch.cat(theirs))
    assert not torch.equal(whole[0][1], whole[1][1]), "every epoch has an order of its own"
    thirds = [next(first(Worker(rank, 3, CPU))) for rank in range(3)]
    assert [len(labels) for _, labels, _ in thirds] == [2, 3, 3]
    assert torch.equal(torch.cat([labels for _, labels, _ in thirds]), whole[0][1])
    with pytest.raises(ValueError, match="a batch of 8 cannot be shared by 9 workers"):
        list(feed(Worker(0, 9, CPU)).epoch(1))


def test_draws_are_of_their_key_alone() -> None:
    def draw(key: tuple[int, ...]) -> torch.Tensor:
        return Draw(key, 1000, slice(0, 1000), CPU).normal(())

    assert torch.equal(draw((1, 2, 3)), draw((1, 2, 3)))
    assert not torch.equal(draw((1, 2, 3)), draw((1, 3, 2)))
    assert abs(draw((1, 2, 3)).mean()) < 0.15 and draw((1, 2, 3)).std() == pytest.approx(1, abs=0.1)
    assert set(Draw((0,), 1000, slice(0, 1000), CPU).integers(5).tolist()) == set(range(5))
