"""The training loop: any network, any objective, one worker or many; with checkpoints. Who starts the workers is not
its business (see `distributed`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from darkroom.storage import Store
from darkroom.training.checkpoints import CURVES, Checkpoint, epochs_kept, load_checkpoint, prune, save_checkpoint
from darkroom.training.epochs import Epochs, Say, say_nothing
from darkroom.training.feeds import Feed, Worker
from darkroom.training.objectives import Objective
from darkroom.training.steps import Optimization, Steps


def fit(
    objective: Objective,
    feed: Feed,
    how: Optimization,
    worker: Worker,
    store: Store,
    config: Mapping[str, Any],
    say: Say,
    validate: Callable[[dict[str, Tensor]], float] | None = None,
    noted: Callable[[Checkpoint], None] | None = None,
    folder: str = "checkpoints",
) -> Checkpoint:
    """Trains to the end, from the last checkpoint if there is one; returns the last checkpoint. Its configuration is
    `config` and, as "ran", what of the wished speed was had.

    Only rank 0 writes, validates and says. validate: the loss of the weights one would sample with, from those;
    noted: told of each new checkpoint.
    Raises FloatingPointError, with step, learning rate and last good checkpoint, when the loss is no longer finite.
    """
    training = _Training(Steps(objective, how, worker, say if worker.rank == 0 else say_nothing), dict(config))
    kept = epochs_kept(store, folder)
    state = training.resume(load_checkpoint(store, kept[-1], folder)) if kept else None
    if worker.count > 1:
        torch.distributed.barrier()  # all have read the last checkpoint before rank 0 writes the next
    while training.epoch < how.epochs:
        try:
            training.run(feed, say)
        except FloatingPointError as error:
            good = f"that of epoch {training.epoch} in {store.uri(folder)}" if training.epoch else "none"
            raise FloatingPointError(f"{error}; last good checkpoint: {good}") from None
        if worker.rank == 0:
            training.validate(validate)
        state = training.checkpoint()  # on every rank: the phase that follows begins from what is returned here
        if worker.rank == 0:
            save_checkpoint(store, state, folder)
            prune(store, {training.best(), *how.keep}, how.keep_last, folder)
            if noted is not None:
                noted(state)
            say(training.line())
    return state or training.checkpoint()


class _Training(Epochs):
    """Epochs that can be kept and gone on from. validation: the loss of held-out pictures by epoch."""

    def __init__(self, steps: Steps, config: dict[str, Any]) -> None:
        super().__init__(steps)
        self.config = config
        self.validation: list[float] = []

    def validate(self, measure: Callable[[dict[str, Tensor]], float] | None) -> None:
        """Notes the validation loss of the weights one would sample with; not a number where none is measured."""
        steps = self.steps
        self.validation.append(math.nan if measure is None else measure(steps.weights | steps.average))

    def checkpoint(self) -> Checkpoint:
        steps = self.steps
        moments = {
            f"{moment}/{name}": steps.optimizer.state[parameter][moment]
            for name, parameter in steps.learned.items()
            for moment in ("exp_avg", "exp_avg_sq")
            if parameter in steps.optimizer.state
        }
        curves = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in CURVES}
        config = self.config | {"ran": steps.ran}
        return Checkpoint(self.epoch, steps.step, config, steps.weights, steps.average or None, moments, curves)

    def resume(self, state: Checkpoint) -> Checkpoint:
        """Goes on where `state` stood."""
        self.epoch = state.epoch
        self.steps.resume(state.step, state.weights, state.average or {}, state.moments)
        for name in CURVES:
            getattr(self, name)[:] = state.curves[name].tolist()
        return state

    def best(self) -> int:
        """The epoch of the least validation loss; the newest where none was measured."""
        measured = [(loss, epoch) for epoch, loss in enumerate(self.validation, 1) if not math.isnan(loss)]
        return min(measured)[1] if measured else self.epoch

    def line(self) -> str:
        """The epoch that has just ended."""
        steps = len(self.losses) // self.epoch
        validation = "" if math.isnan(self.validation[-1]) else f"  validation loss {self.validation[-1]:.4f}"
        loss = sum(self.losses[-steps:]) / steps
        return f"epoch {self.epoch}/{self.steps.how.epochs}  loss {loss:.4f}{validation}  {self.seconds[-1]:.1f} s"
