from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from darkroom.models.if_xs import build_scheduler
from darkroom.training.objectives import LearnedRangeDiffusion

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


def test_noise_mixes_signal_and_noise_by_alpha_bar() -> None:
    x0, epsilon = drawn()
    noised = OBJECTIVE.noise(x0, TIMES, epsilon)
    for row, t in enumerate(TIMES):
        wanted = ALPHAS_CUMPROD[t].sqrt() * x0[row] + (1 - ALPHAS_CUMPROD[t]).sqrt() * epsilon[row]
        torch.testing.assert_close(noised[row], wanted)


@pytest.mark.parametrize("fraction", [-1.0, -0.3, 0.5, 1.0])
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_variational_bound_is_the_divergence_of_the_two_normals(fraction: float, error: float) -> None:
    x0, epsilon = drawn()
    predicted, fractions = epsilon + error * x0, torch.full_like(x0, fraction)
    found = OBJECTIVE._variational_bound(predicted, fractions, TIMES, epsilon)
    # alpha_bar in single precision is what the scheduler gives: near t = 0 the small betas carry its rounding
    torch.testing.assert_close(found.double(), bound(predicted, fractions, x0, epsilon), rtol=2e-3, atol=2e-6)


def test_a_perfect_answer_costs_nothing() -> None:
    x0, epsilon = drawn()
    output = torch.cat([epsilon, torch.full_like(x0, -1.0)], dim=1)
    assert OBJECTIVE.loss(output, x0, TIMES, epsilon).abs() < 1e-6


def test_the_loss_is_weighted_squared_error_plus_the_bound() -> None:
    x0, epsilon = drawn()
    predicted, fractions = epsilon + 0.2, torch.zeros_like(x0)
    snr = ALPHAS_CUMPROD / (1 - ALPHAS_CUMPROD)
    weights = torch.tensor([min(5.0, snr[t].item()) / snr[t].item() for t in TIMES])
    wanted = (weights * 0.04).mean() + bound(predicted, fractions, x0, epsilon).float().mean()
    torch.testing.assert_close(
        OBJECTIVE.loss(torch.cat([predicted, fractions], dim=1), x0, TIMES, epsilon), wanted, rtol=2e-3, atol=1e-6
    )


def test_noisy_times_count_more_up_to_the_shape_weight() -> None:
    ratio = LearnedRangeDiffusion(ALPHAS_CUMPROD, shape_weight=20.0).weight / OBJECTIVE.weight
    torch.testing.assert_close(ratio, (1 / ALPHAS_CUMPROD).clamp(max=20.0))
    assert ratio[999] == 20 and ratio[0] < 1.001


def test_the_bound_does_not_pull_on_epsilon() -> None:
    x0, epsilon = drawn()
    output = torch.cat([epsilon + 0.2, torch.zeros_like(x0)], dim=1).requires_grad_()
    OBJECTIVE.loss(output, x0, TIMES, epsilon).backward()
    assert output.grad is not None
    predicted, fraction = output.grad.chunk(2, dim=1)
    wanted = OBJECTIVE.weight[TIMES].view(-1, 1, 1, 1) * 2 * 0.2 / epsilon.numel()  # of the squared error alone
    torch.testing.assert_close(predicted, wanted.expand_as(predicted), rtol=1e-4, atol=1e-9)
    assert fraction.abs().max() > 0
