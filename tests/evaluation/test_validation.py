from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from darkroom.evaluation.validation import time_grid, validation_loss
from darkroom.sampling.processes import Diffusion, Flow

PICTURE = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
LABELS = torch.arange(600) % 3


class Exact(nn.Module):
    """Knows that there is one picture, and so what was added to it."""

    num_classes = 0

    def __init__(self, process: Diffusion | Flow) -> None:
        super().__init__()
        self.process = process

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.process.kind == "flow":
            noise = (x - t[:, None, None, None] * PICTURE) / (1 - t[:, None, None, None])
        else:
            zero = torch.zeros_like(x)
            noise = (x - self.process.noise(PICTURE, t, zero)) / self.process.noise(zero, t, torch.ones_like(x))
        return self.process.target(PICTURE, t, noise)


class Constant(nn.Module):
    """Answers zero, or something else; keeps what it was asked."""

    def __init__(self, num_classes: int = 0, channels: int = 1) -> None:
        super().__init__()
        self.num_classes, self.channels, self.asked = num_classes, channels, []

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        self.asked.append((x, *more))
        assert not self.training and not torch.is_grad_enabled()
        return torch.zeros_like(x).repeat(1, self.channels, 1, 1)


PROCESSES = [Flow(), *(Diffusion.cosine(prediction=prediction) for prediction in ("epsilon", "x0", "v"))]


def name(process: Diffusion | Flow) -> str:
    return process.prediction


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_who_knows_the_only_picture_loses_nothing(process: Diffusion | Flow) -> None:
    loss = validation_loss(Exact(process), process, PICTURE.expand(600, -1, -1, -1), LABELS)
    assert loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_who_answers_zero_loses_the_targets_mean_square(process: Diffusion | Flow) -> None:
    """Of the picture m = mean of x0^2, of the noise 1; v weighs them by the noise's and the signal's share."""
    m = PICTURE.square().mean().item()
    share = 0.0 if process.kind == "flow" else process.alphas_cumprod[time_grid(process, 10)].mean().item()
    wanted = {"velocity": m + 1, "epsilon": 1, "x0": m, "v": share + (1 - share) * m}[process.prediction]
    loss = validation_loss(Constant(), process, PICTURE.expand(600, -1, -1, -1), LABELS)
    assert loss == pytest.approx(wanted, rel=0.02)  # 96,000 numbers of noise


def test_the_times_are_the_middles_of_equal_parts() -> None:
    assert time_grid(Flow(), 4).tolist() == [0.125, 0.375, 0.625, 0.875]
    times = time_grid(Diffusion.linear(1000), 4)
    assert times.tolist() == [125, 375, 625, 875] and times.dtype == torch.int64


def test_labels_are_told_to_those_who_take_classes_and_every_picture_is_asked_at_every_time() -> None:
    images = torch.arange(600.0)[:, None, None, None].expand(-1, 1, 4, 4)
    knowing, unknowing = Constant(num_classes=3), Constant()
    for network in (knowing, unknowing):
        network.train()
        validation_loss(network, Flow(), images, LABELS, times=2)
        assert network.training
    assert all(len(asked) == 2 for asked in unknowing.asked)
    assert torch.equal(torch.cat([label for _, _, label in knowing.asked]), LABELS.repeat(2))
    assert torch.cat([t for _, t, _ in knowing.asked]).tolist() == [0.25] * 600 + [0.75] * 600


def test_the_noise_is_the_seeds_and_the_same_for_every_network() -> None:
    images = torch.zeros(300, 1, 4, 4)
    networks = [Constant(), Constant(num_classes=2), Constant()]
    losses = [validation_loss(n, Flow(), images, LABELS[:300], seed=int(n is networks[2])) for n in networks]
    assert losses[0] == losses[1] != losses[2]
    states = [torch.cat([asked[0] for asked in network.asked]) for network in networks]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert len(states[0].unique()) > 0.99 * states[0].numel()


def test_a_learned_variance_is_left_aside() -> None:
    process, images = Diffusion.cosine(learned_variance=True), torch.zeros(300, 1, 4, 4)
    plain = validation_loss(Constant(), process, images, LABELS[:300])
    assert validation_loss(Constant(channels=2), process, images, LABELS[:300]) == plain
