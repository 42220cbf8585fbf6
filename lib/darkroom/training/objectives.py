"""What a network is trained to minimise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LearnedRangeDiffusion:
    """Epsilon prediction with a learned variance: L_simple + L_vlb (arXiv 2102.09672, equations 14 to 17).

    The variance's term sees the mean as a constant (stop-gradient), so it never pulls on epsilon.
    """

    def __init__(self, alphas_cumprod: Tensor, shape_weight: float = 1.0, gamma: float = 5.0) -> None:
        """alphas_cumprod: float [T]. shape_weight: how much more noisy times may count than others, at most.
        gamma: the signal-to-noise ratio from which on cleaner times count less; inf: they do not."""
        alpha_bar = alphas_cumprod.double()
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        beta = 1 - alpha_bar / previous
        posterior = beta * (1 - previous) / (1 - alpha_bar)
        posterior[0] = posterior[1]  # beta~_0 is 0 and has no logarithm; the next stands in, as in the paper's code
        self.alpha_bar = alpha_bar.float()
        self.log_beta, self.log_posterior = beta.log().float(), posterior.log().float()
        self.x0_weight = (beta * previous.sqrt() / (1 - alpha_bar)).float()
        # min-SNR weights (arXiv 2303.09556): nearly clean images are easy and would drown out colour and
        # shape. 1 / alpha_bar turns the error of epsilon into that of v (arXiv 2202.00512): at noisy times, where it is
        # settled which digit it will be, epsilon is easy to guess and says little about the picture.
        snr = alpha_bar / (1 - alpha_bar)
        self.weight = (snr.clamp(max=gamma) / snr * (1 / alpha_bar).clamp(max=shape_weight)).float()

    def noise(self, x0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """q(x_t | x_0): x0, epsilon [B, C, H, W], t int64 [B]."""
        alpha_bar = self.alpha_bar[t][:, None, None, None]
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * epsilon

    def loss(self, output: Tensor, x0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """output [B, 2C, H, W] = epsilon and variance fraction in [-1, 1] -> one number."""
        predicted, fraction = output.float().chunk(2, dim=1)
        simple = (predicted - epsilon).square().mean(dim=(1, 2, 3))
        return (self.weight[t] * simple).mean() + self._variational_bound(
            predicted.detach(), fraction, t, epsilon
        ).mean()

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
