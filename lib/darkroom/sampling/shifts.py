"""Where the steps of a flow's walk stand: shifted towards noise, the more the larger the picture.

    share' = f / (f + 1 / share - 1)        share: of noise in the state, 1 .. 0

f = sqrt(m / n) for a picture of m pixels by a model of n (arXiv 2403.03206, equation 23): a constant, or e^mu with a mu
that is linear in the tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHORT = 1e-6  # of pure noise


@dataclass(frozen=True)
class Shift:
    """factor: f, where it is a constant. by_tokens: (tokens, tokens, mu, mu) of two sizes of pictures, between and
    beyond which mu is linear; linear: f is mu, and not e^mu.

    ends_trained: the last step stands at the least noise that the model was trained on, and not at 1 / steps. Where f
    is a constant, that place is a shifted one already, and is shifted once more with the others: SD3's double shift,
    with which its pipelines draw (huggingface/diffusers#13243).
    multistep: steps stand where UniPC has them (Wan): of a place more the last is left out, the first is a millionth
    short of pure noise, as its logarithm is asked for, and the model is told whole thousandths of noise, rounded down.
    """

    factor: float = 1.0
    by_tokens: tuple[float, float, float, float] | None = None
    linear: bool = False
    ends_trained: bool = False
    multistep: bool = False

    def shares(self, steps: int, tokens: int, num_timesteps: int) -> list[float]:
        """Descending from 1: of noise, where each step begins. num_timesteps: shares that the model was trained on."""
        factor, last = self.of(tokens), 1 / steps
        if self.multistep:
            first, *rest = np.linspace(1.0, 1 / num_timesteps, steps + 1)[:-1].tolist()
            return [first - SHORT, *(_shifted(factor, share) for share in rest)]
        if self.ends_trained:
            least = 1 / num_timesteps
            last = least if self.by_tokens else _shifted(factor, least)
        return [_shifted(factor, float(share)) for share in np.linspace(1.0, last, steps)]

    def of(self, tokens: int) -> float:
        """f of a picture of so many tokens."""
        if self.by_tokens is None:
            return self.factor
        few, many, low, high = self.by_tokens
        mu = low + (tokens - few) * (high - low) / (many - few)
        return mu if self.linear else math.exp(mu)


def _shifted(factor: float, share: float) -> float:
    return factor / (factor + 1 / share - 1)
