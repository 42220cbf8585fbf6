"""Epochs of a training, and the curves they leave. Pure torch; who keeps checkpoints of them is `loop`."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed
from torch import Tensor

from darkroom.phases import Say, duration
from darkroom.training.feeds import Feed
from darkroom.training.steps import Steps

LOOK_EVERY = 50  # steps between looks at the loss: each look makes the host wait for the device
SAY_EVERY = 10.0  # seconds between lines within an epoch


def say_nothing(line: str) -> None:
    """What ranks other than 0 say."""


class Epochs:
    """Epochs of steps. epoch: how many were run; losses and rates by step, seconds by epoch."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.worker, self.epoch = steps, steps.worker, 0
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.seconds: list[float] = []

    def run(self, feed: Feed, say: Say) -> None:
        """One epoch. FloatingPointError where the loss is no longer finite."""
        began = said = time.monotonic()
        waiting: list[Tensor] = []
        for batch in feed.epoch(self.epoch + 1):
            self.rates.append(self.steps.how.rate(self.steps.step))
            waiting.append(self.steps.take(batch, batch.rows * self.worker.count / feed.batch))
            if len(waiting) == LOOK_EVERY:
                self._look(waiting, feed.batch)
            if self.worker.rank == 0 and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                say(self._line(feed, said - began))
        self._look(waiting, feed.batch)
        self.steps.share_buffers()
        self.epoch += 1
        self.seconds.append(time.monotonic() - began)

    def _line(self, feed: Feed, seconds: float) -> str:
        """Where the training is, so many seconds into an epoch. The time that is left is by this epoch's speed."""
        step, total = self.steps.step, feed.steps * self.steps.how.epochs
        speed = (step - feed.steps * self.epoch) / seconds
        parts = [f"epoch {self.epoch + 1}/{self.steps.how.epochs}", f"step {step:,}/{total:,}"]
        parts += [f"loss {self.losses[-1]:.4f}"] if self.losses else []
        parts += (
            [f"{speed * feed.batch:,.0f} images/s", f"{duration((total - step) / speed)} left"] if speed > 0 else []
        )
        return "  ".join(parts)

    def _look(self, waiting: list[Tensor], batch: int) -> None:
        """Takes the losses of the last steps, each of `batch` images, from the device, as means over the workers."""
        if not waiting:
            return
        losses = torch.stack(waiting).float()
        if self.worker.count > 1:
            torch.distributed.all_reduce(losses)
            losses /= self.worker.count
        first = self.steps.step - len(waiting)
        for step, loss in enumerate(losses.tolist(), first):
            if not math.isfinite(loss):
                at = f"epoch {self.epoch + 1}, step {step}"
                raise FloatingPointError(f"{at}: the loss is {loss} at a learning rate of {self.rates[step]:g}")
            self.losses.append(loss)
        if self.worker.note is not None and self.worker.rank == 0:
            self.worker.note(batch * len(waiting), losses.mean().item())
        waiting.clear()
