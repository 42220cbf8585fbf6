"""What a network is trained to minimise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.sampling.diffusion import Diffusion
from darkroom.training.feeds import Batch

BOUND_SHARE = 0.1  # of the variational bound, beside the error of v


class LearnedRangeDiffusion:
    """v prediction (arXiv 2202.00512) with a learned variance: L_simple of v + BOUND_SHARE L_vlb (arXiv 2102.09672,
    equations 14 to 17).

    Of v, not of epsilon: at noisy times, where it is settled what will be on which paper, epsilon is nearly the state
    itself, and its error says next to nothing of the picture. The variance's term sees the mean as a constant
    (stop-gradient), so it never pulls on v.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        """alphas_cumprod: float [T]."""
        self.process = Diffusion(alphas_cumprod, prediction="v")
        alpha_bar = alphas_cumprod.double()
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        beta = 1 - alpha_bar / previous
        posterior = beta * (1 - previous) / (1 - alpha_bar)
        posterior[0] = posterior[1]  # beta~_0 is 0 and has no logarithm; the next stands in, as in the paper's code
        self.alpha_bar = alpha_bar.float()
        self.log_beta, self.log_posterior = beta.log().float(), posterior.log().float()
        self.x0_weight = (beta * previous.sqrt() / (1 - alpha_bar)).float()

    def loss(self, output: Tensor, x0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """output [B, 2C, H, W] = v and variance fraction in [-1, 1] -> one number."""
        v, fraction = output.float().chunk(2, dim=1)
        simple = F.mse_loss(v, self.process.target(x0, t, epsilon))
        x = self.process.noise(x0, t, epsilon)
        _, predicted = self.process.x0_and_noise(v.detach(), x, t)
        return simple + BOUND_SHARE * self._variational_bound(predicted, fraction, t, epsilon).mean()

    def _variational_bound(self, predicted: Tensor, fraction: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per value, [B]."""
        shape = (-1, 1, 1, 1)
        share = (fraction + 1) / 2
        true_log = self.log_posterior[t].view(shape)
        log_variance = share * self.log_beta[t].view(shape) + (1 - share) * true_log
        alpha_bar = self.alpha_bar[t].view(shape)
        # the two means differ only through x0, whose error is sqrt((1 - alpha_bar) / alpha_bar) times epsilon's
        x0_error = (predicted - epsilon) * ((1 - alpha_bar) / alpha_bar).sqrt()
        mean_error = self.x0_weight[t].view(shape) * x0_error
        kl = 0.5 * (
            -1 + log_variance - true_log + (true_log - log_variance).exp() + mean_error.square() * (-log_variance).exp()
        )
        return kl.mean(dim=(1, 2, 3)) / math.log(2)


class Objective(nn.Module):
    """A network and what it is trained to minimise, in two halves: `inputs` draws all that is random, in an order that
    never changes, and `forward` makes of those tensors the mean loss of a worker's share. The second half knows tensors
    alone, and so can be shared by workers and captured as a graph."""

    backend: str | Callable[..., Any] = "inductor"  # of torch.compile

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Callable[..., Any] | None = None

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What `forward` takes, for a worker's share of a step; on the device, without a wait for it."""
        raise NotImplementedError

    @property
    def core(self) -> nn.Module:
        """The part of the network that is compiled, and whose convolutions say what order its memory has."""
        return self.network

    def compile_core(self, on: bool) -> None:
        """From now on the core answers through torch.compile, or as it is."""
        self._compiled = torch.compile(self.core.forward, backend=self.backend) if on else None

    def ask(self, *inputs: Any, **named: Any) -> Any:
        """The core's answer."""
        return (self._compiled or self.core)(*inputs, **named)


class Denoising(Objective):
    """Clean pictures from noisy ones in one step: |network(x + sigma epsilon) - x|^2, pictures in [0, 1].

    pure_noise: the network is shown epsilon alone, and cannot know which picture was meant.
    """

    def __init__(self, network: nn.Module, sigma: float, pure_noise: bool) -> None:
        super().__init__(network)
        self.sigma, self.pure_noise = sigma, pure_noise

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        return batch.images, batch.draw.normal(batch.images.shape[1:])

    def forward(self, images: Tensor, epsilon: Tensor) -> Tensor:
        x = (images + 1) / 2
        noisy = epsilon if self.pure_noise else x + self.sigma * epsilon
        return F.mse_loss(self.ask(noisy).float(), x)


class FlowMatching(Objective):
    """Velocity of the straight path from noise to picture, |network(x_t, t) - (x_1 - x_0)|^2, x_t = (1-t) x_0 + t x_1,
    t uniform (arXiv 2210.02747). drop: how often the class is withheld, for guidance (arXiv 2207.12598)."""

    def __init__(self, network: nn.Module, drop: float) -> None:
        super().__init__(network)
        self.drop = drop

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        t, noise = batch.draw.uniform(), batch.draw.normal(batch.images.shape[1:])
        return batch.images, t, noise, *shown_labels(self.network, batch, self.drop)

    def forward(self, images: Tensor, t: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        share = t[:, None, None, None]
        x_t = (1 - share) * noise + share * images
        velocity = self.ask(x_t, t, label).float()
        return F.mse_loss(velocity, images - noise)


class DenoisingDiffusion(Objective):
    """What the process predicts (epsilon, x0 or v) at a uniform timestep, L2 (DDPM, arXiv 2006.11239, equation 14)."""

    def __init__(self, network: nn.Module, process: Diffusion, drop: float) -> None:
        super().__init__(network)
        self.process, self.drop = process, drop

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        batch.draw.seed_dropout()
        t = batch.draw.integers(self.process.num_timesteps)
        epsilon = batch.draw.normal(batch.images.shape[1:])
        return batch.images, t, epsilon, *shown_labels(self.network, batch, self.drop)

    def forward(self, images: Tensor, t: Tensor, epsilon: Tensor, label: Tensor | None = None) -> Tensor:
        x_t = self.process.noise(images, t, epsilon)
        answer = self.ask(x_t, t, label).float()
        return F.mse_loss(answer, self.process.target(images, t, epsilon))


def shown_labels(network: nn.Module, batch: Batch, drop: float) -> tuple[Tensor, ...]:
    """The labels a network of classes is shown, a share of them withheld; none at all for one without."""
    if not network.num_classes:
        return ()
    return (torch.where(batch.draw.uniform() < drop, network.num_classes, batch.labels),)
