from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from darkroom.models.if_xs import build_scheduler
from darkroom.sampling.diffusion import Diffusion
from darkroom.training.draws import Draw
from darkroom.training.feeds import Batch
from darkroom.training.objectives import (
    BOUND_SHARE,
    Denoising,
    DenoisingDiffusion,
    FlowMatching,
    LearnedRangeDiffusion,
    Objective,
    shown_labels,
)

ALPHAS_CUMPROD = build_scheduler().alphas_cumprod
OBJECTIVE = LearnedRangeDiffusion(ALPHAS_CUMPROD)
TIMES = torch.tensor([1, 2, 60, 400, 730, 990, 998])


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, epsilon = torch.randn(2, len(TIMES), 3, 4, 4, generator=generator)
    return x0.clamp(-1, 1), epsilon


def bound(predicted: torch.Tensor, fraction: torch.Tensor, x0: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """KL between the posterior and the model's step, from the means of DDPM's equations 7 and 15, in double."""
    alpha_bar = ALPHAS_CUMPROD.double()
    now, before = (values.view(-1, 1, 1, 1) for values in (alpha_bar[TIMES], alpha_bar[TIMES - 1]))
    beta = 1 - now / before
    x = now.sqrt() * x0.double() + (1 - now).sqrt() * epsilon.double()

    def mean(x0: torch.Tensor) -> torch.Tensor:
        signal, state = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        return signal * x0 + state * x

    guessed = (x - (1 - now).sqrt() * predicted.double()) / now.sqrt()
    posterior = beta * (1 - before) / (1 - now)
    share = (fraction.double() + 1) / 2
    variance = (share * beta.log() + (1 - share) * posterior.log()).exp()
    kl = kl_divergence(Normal(mean(x0.double()), posterior.sqrt().expand_as(x)), Normal(mean(guessed), variance.sqrt()))
    return kl.mean(dim=(1, 2, 3)) / math.log(2)


@pytest.mark.parametrize("fraction", [-1.0, -0.3, 0.5, 1.0])
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_variational_bound_is_the_divergence_of_the_two_normals(fraction: float, error: float) -> None:
    x0, epsilon = drawn()
    predicted, fractions = epsilon + error * x0, torch.full_like(x0, fraction)
    found = OBJECTIVE._variational_bound(predicted, fractions, TIMES, epsilon)
    # alpha_bar in single precision is what the scheduler gives: near t = 0 the small betas carry its rounding
    torch.testing.assert_close(found.double(), bound(predicted, fractions, x0, epsilon), rtol=2e-3, atol=2e-6)


def v_of(x0: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    return Diffusion(ALPHAS_CUMPROD, prediction="v").target(x0, TIMES, epsilon)


def test_a_perfect_answer_costs_nothing() -> None:
    x0, epsilon = drawn()
    output = torch.cat([v_of(x0, epsilon), torch.full_like(x0, -1.0)], dim=1)
    assert OBJECTIVE.loss(output, x0, TIMES, epsilon).abs() < 1e-6


def test_the_loss_is_the_squared_error_of_v_plus_a_share_of_the_bound() -> None:
    x0, epsilon = drawn()
    fractions, error = torch.zeros_like(x0), 0.2
    signal = ALPHAS_CUMPROD[TIMES].sqrt().view(-1, 1, 1, 1)
    of_epsilon = epsilon + signal * error  # what is wrong of v is wrong of epsilon by the signal's share
    wanted = error**2 + BOUND_SHARE * bound(of_epsilon, fractions, x0, epsilon).float().mean()
    output = torch.cat([v_of(x0, epsilon) + error, fractions], dim=1)
    torch.testing.assert_close(OBJECTIVE.loss(output, x0, TIMES, epsilon), wanted, rtol=2e-3, atol=1e-6)


def test_the_bound_does_not_pull_on_v() -> None:
    x0, epsilon = drawn()
    output = torch.cat([v_of(x0, epsilon) + 0.2, torch.zeros_like(x0)], dim=1).requires_grad_()
    OBJECTIVE.loss(output, x0, TIMES, epsilon).backward()
    assert output.grad is not None
    v, fraction = output.grad.chunk(2, dim=1)
    of_the_squared_error = torch.full_like(v, 2 * 0.2 / epsilon.numel())
    torch.testing.assert_close(v, of_the_squared_error, rtol=1e-4, atol=1e-9)
    assert fraction.abs().max() > 0


# The objectives of our own networks, on data whose best answer is known. Pictures of one pixel, many of them.

MANY = 200_000
CPU = torch.device("cpu")


class Field(nn.Module):
    """A "network" that is a formula, off by `error`."""

    def __init__(self, formula, num_classes: int = 0) -> None:
        super().__init__()
        self.formula, self.num_classes, self.error = formula, num_classes, 0.0

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.formula(x, *more) + self.error


def batch_of(pictures: Tensor, key: int = 0, labels: Tensor | None = None) -> Batch:
    draw = Draw((key,), len(pictures), slice(0, len(pictures)), CPU)
    labels = torch.zeros(len(pictures), dtype=torch.int64) if labels is None else labels
    return Batch(pictures[:, None, None, None], labels, draw)


def loss_of(objective: Objective, batch: Batch) -> float:
    return objective(*objective.inputs(batch)).item()


def test_the_velocity_field_of_a_gaussian_has_the_least_loss_and_generates_it() -> None:
    """x1 of mean m, deviation s: v(x, t) = m + (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2) (x - t m), and what is left is
    the mean over t of s^2 / ((1 - t)^2 + t^2 s^2)."""
    m, s = 0.3, 0.4

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        t = t[:, None, None, None]
        return m + (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2) * (x - t * m)

    pictures = m + s * torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    field = Field(velocity)
    objective = FlowMatching(field, 0.0)
    t = (torch.arange(1000) + 0.5) / 1000
    least = (s**2 / ((1 - t) ** 2 + t**2 * s**2)).mean().item()
    loss = loss_of(objective, batch_of(pictures))
    assert loss == pytest.approx(least, rel=0.01)
    field.error = 0.1
    assert loss_of(objective, batch_of(pictures)) == pytest.approx(loss + 0.01, rel=0.01)
    field.error, x = 0.0, torch.randn(MANY, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    for step in range(200):
        x = x + velocity(x, torch.full((MANY,), step / 200)) / 200
    assert (x.mean().item(), x.std().item()) == pytest.approx((m, s), abs=0.01)


def test_the_denoiser_of_two_points_has_the_least_loss() -> None:
    """Pixels 0 or 1, equally likely: the best answer is the chance of a 1, a sigmoid of (y - 1/2) / sigma^2."""
    sigma = 0.5

    def chance(y: Tensor) -> Tensor:
        return torch.sigmoid((y - 0.5) / sigma**2)

    pictures = torch.randint(2, (MANY,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1  # as feeds give them
    y = torch.linspace(-4, 5, 9001, dtype=torch.float64)
    density = sum(0.5 * torch.exp(-((y - x) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2) for x in (0, 1))
    least = torch.trapezoid(chance(y) * (1 - chance(y)) * density, y).item()
    field = Field(chance)
    objective = Denoising(field, sigma, pure_noise=False)
    loss = loss_of(objective, batch_of(pictures))
    assert loss == pytest.approx(least, rel=0.01)
    field.error = 0.1
    assert loss_of(objective, batch_of(pictures)) == pytest.approx(loss + 0.01, rel=0.02)


def test_from_pure_noise_the_mean_is_the_best_answer() -> None:
    pictures = torch.randint(2, (MANY,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    objective = Denoising(Field(lambda y: torch.full_like(y, 0.5)), 0.5, pure_noise=True)
    assert loss_of(objective, batch_of(pictures)) == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_a_diffusion_network_that_knows_the_picture_has_no_loss(prediction: str) -> None:
    process = Diffusion.cosine(prediction=prediction)

    def knowing(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        picture = torch.full_like(x, 0.5)
        signal, noise = process.noise(torch.ones_like(x), t, x * 0), process.noise(x * 0, t, torch.ones_like(x))
        return process.target(picture, t, (x - signal * picture) / noise)

    # At the cleanest times epsilon is a small difference, divided by little.
    assert loss_of(DenoisingDiffusion(Field(knowing), process, 0.0), batch_of(torch.full((1000,), 0.5))) < 1e-6


def test_classes_are_withheld_as_often_as_asked() -> None:
    labels = torch.full((MANY,), 3)
    (shown,) = shown_labels(Field(None, num_classes=10), batch_of(torch.zeros(MANY), labels=labels), 0.1)
    assert set(shown.tolist()) == {3, 10}
    assert (shown == 10).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert shown_labels(Field(None), batch_of(torch.zeros(4)), 0.1) == ()
