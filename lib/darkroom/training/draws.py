"""Random numbers of a training step, the same however many workers share the step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_DROPOUT = 1  # behind a key, and the first of a worker's rows: what dropout is keyed by


class Draw:
    """Numbers keyed by `key` (such as seed and step), drawn for the whole batch, of which this worker takes its rows.

    That every worker draws for all costs a percent or so, and makes the noise of a sample independent of their number.
    Processors and GPUs have different generators, so a training's numbers differ between the two.
    """

    def __init__(self, key: tuple[int, ...], batch: int, share: slice, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(_seed(key))
        self.batch, self._key, self._share, self._device = batch, key, share, device

    def seed_dropout(self) -> None:
        """Keys torch's global generator, the only one that dropout knows: other numbers on each worker, as each drops
        of its own rows alone, and the same ones when a training is resumed."""
        torch.manual_seed(_seed((*self._key, self._share.start, _DROPOUT)))

    def normal(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Standard normal, [rows of this worker, *shape]."""
        return self._rows(torch.randn(self.batch, *shape, generator=self._generator, device=self._device))

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each row of this worker."""
        return self._rows(torch.rand(self.batch, generator=self._generator, device=self._device))

    def integers(self, high: int) -> Tensor:
        """One int64 in 0 .. high-1 for each row of this worker."""
        return self._rows(torch.randint(high, (self.batch,), generator=self._generator, device=self._device))

    def among_first(self, count: int) -> Tensor:
        """Which rows of this worker are among the first so many of the batch, bool."""
        return self._rows(torch.arange(self.batch, device=self._device) < count)

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self._share]


def _seed(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
