"""Random numbers of a training step, the same however many workers share the step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Draw:
    """Numbers keyed by `key` (such as seed and step), drawn for the whole batch, of which this worker takes its rows.

    That every worker draws for all costs a percent or so, and makes the noise of a sample independent of their number.
    Processors and GPUs have different generators, so a training's numbers differ between the two.
    """

    def __init__(self, key: tuple[int, ...], batch: int, share: slice, device: torch.device) -> None:
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._batch, self._share, self._device = batch, share, device

    def normal(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Standard normal, [rows of this worker, *shape]."""
        return self._rows(torch.randn(self._batch, *shape, generator=self._generator, device=self._device))

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each row of this worker."""
        return self._rows(torch.rand(self._batch, generator=self._generator, device=self._device))

    def integers(self, high: int) -> Tensor:
        """One int64 in 0 .. high-1 for each row of this worker."""
        return self._rows(torch.randint(high, (self._batch,), generator=self._generator, device=self._device))

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self._share]
