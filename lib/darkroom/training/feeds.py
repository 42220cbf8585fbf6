"""Where the batches of a training come from. Data order and noise are the same however many workers share a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from darkroom.training.draws import Draw

if TYPE_CHECKING:  # data needs PyArrow, which a GPU at hand may not have
    from darkroom.training.data import Images

RESIDENT_SHARE = 0.25  # of a GPU's free memory, or of the machine's, may hold the data set; more of it is streamed


@dataclass(frozen=True)
class Worker:
    """One of `count` workers that share every batch; rank 0 is the one that writes.

    note: what rank 0 tells after some steps: images of all workers that went into them, mean loss.
    """

    rank: int
    count: int
    device: torch.device
    note: Callable[[int, float], None] | None = None

    def share(self, batch: int) -> slice:
        """The rows of a batch that are this worker's; shares differ by one row where it cannot be cut evenly.
        ValueError if there are more workers than rows."""
        if batch < self.count:
            raise ValueError(f"a batch of {batch} cannot be shared by {self.count} workers; --set batch=...")
        return slice(self.rank * batch // self.count, (self.rank + 1) * batch // self.count)

    def all(self, mine: bool) -> bool:
        """Whether it is so for all workers, each of which must ask."""
        if self.count == 1:
            return mine
        least = torch.tensor(float(mine), device=self.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return bool(least.item())


@dataclass(frozen=True, eq=False)
class Batch:
    """A worker's share of one step: images float32 [b, C, H, W] in [-1, 1], labels int64 [b], and its randomness."""

    images: Tensor
    labels: Tensor
    draw: Draw

    @property
    def rows(self) -> int:
        return len(self.labels)


class Feed(Protocol):
    """An endless source of epochs, all of `steps` steps of `batch` rows, which the workers share."""

    steps: int
    batch: int

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` (from 1), always the same ones."""
        ...


class Resident:
    """A data set that lies on the device as a whole, in a new order every epoch; what does not fill a batch is left."""

    def __init__(self, images: Images, batch: int, seed: int, worker: Worker) -> None:
        if len(images.labels) < batch:
            raise ValueError(f"the data set has {len(images.labels)} pictures, fewer than one batch of {batch}")
        pixels = np.ascontiguousarray(images.images.transpose(0, 3, 1, 2))
        self._pixels = torch.from_numpy(pixels).to(worker.device)
        self._labels = torch.from_numpy(images.labels).to(worker.device)
        self.batch, self._seed, self._worker = batch, seed, worker
        self.steps = len(images.labels) // batch

    def epoch(self, number: int) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, number]).permutation(len(self._labels))
        share = self._worker.share(self.batch)
        steps = order[: self.steps * self.batch].reshape(self.steps, self.batch)[:, share]
        for step, chosen in enumerate(torch.from_numpy(steps.copy()).to(self._worker.device)):
            key = (self._seed, number, step)
            yield Batch(
                to_network(self._pixels[chosen]),
                self._labels[chosen],
                Draw(key, self.batch, share, self._worker.device),
            )


def to_network(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the host goes on before a GPU has it, which wants memory that is not paged."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fits(pixels: int, worker: Worker) -> bool:
    """Whether so many bytes of pictures may lie on the device of every worker: all must take their batches from the
    same kind of feed, whatever else lies on their nodes."""
    if worker.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(worker.device)
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // worker.count
    return worker.all(pixels <= RESIDENT_SHARE * free)
