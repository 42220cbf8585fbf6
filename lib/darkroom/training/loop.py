"""The training loop: any network, any objective, one worker or many. Pure torch; who starts the workers is not its
business (see `distributed`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from darkroom.storage import Store
from darkroom.training.checkpoints import CURVES, Checkpoint, epochs_kept, load_checkpoint, prune, save_checkpoint
from darkroom.training.feeds import Feed, Worker
from darkroom.training.objectives import Objective

LOOK_EVERY = 50  # steps between looks at the loss: each look makes the host wait for the device
SAY_EVERY = 10.0  # seconds between lines within an epoch
Say = Callable[[str], None]


@dataclass(frozen=True)
class Optimization:
    """How weights are moved. rate: learning rate by step (from 0); average: decay of the weights' running average, None
    for none; clip: bound on the gradient's norm. keep_last, keep: newest checkpoints and epochs kept, beside the best.
    The rest is speed: bf16, compile and channels_last change rounding only; fused is one kernel for Adam."""

    epochs: int
    rate: Callable[[int], float]
    weight_decay: float = 0.0
    average: float | None = None
    clip: float | None = None
    keep_last: int = 2
    keep: tuple[int, ...] = ()
    bf16: bool = False
    compile: bool = False
    channels_last: bool = False
    fused: bool = False


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
    """Trains to the end, from the last checkpoint if there is one; returns the last checkpoint.

    Only rank 0 writes, validates and says. validate: the loss of the weights one would sample with, from those;
    noted: told of each new checkpoint.
    Raises FloatingPointError, with step, learning rate and last good checkpoint, when the loss is no longer finite.
    """
    training = _Training(objective, how, worker, dict(config))
    kept = epochs_kept(store, folder)
    state = training.resume(load_checkpoint(store, kept[-1], folder)) if kept else None
    if worker.count > 1:
        torch.distributed.barrier()  # all have read the last checkpoint before rank 0 writes the next
    while training.epoch < how.epochs:
        try:
            training.run_epoch(feed, say)
        except FloatingPointError as error:
            good = f"that of epoch {training.epoch} in {store.uri(folder)}" if training.epoch else "none"
            raise FloatingPointError(f"{error}; last good checkpoint: {good}") from None
        if worker.rank == 0:
            training.validate(validate)
            state = training.checkpoint()
            save_checkpoint(store, state, folder)
            prune(store, {training.best(), *how.keep}, how.keep_last, folder)
            if noted is not None:
                noted(state)
            say(training.line())
    return state or training.checkpoint()


class _Training:
    """All that changes while a network is trained. losses and rates by step, validation and seconds by epoch."""

    def __init__(self, objective: Objective, how: Optimization, worker: Worker, config: dict[str, Any]) -> None:
        self.how, self.worker, self.config = how, worker, config
        objective.to(worker.device).train()
        if worker.count > 1 and worker.device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        objective.accelerate(how.channels_last, how.compile)
        self.network = objective.network
        self.learned = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.learned.values(), lr=0.0, weight_decay=how.weight_decay, fused=how.fused or None
        )
        self.weights = _named_tensors(self.network)
        floating = {name: tensor for name, tensor in self.weights.items() if tensor.is_floating_point()}
        self.average = {} if how.average is None else {name: t.clone() for name, t in floating.items()}
        # Within an epoch the statistics of batch norms stay each worker's own, see `_share_buffers`.
        self.loss_of = objective if worker.count == 1 else DistributedDataParallel(objective, broadcast_buffers=False)
        self.epoch = self.step = 0
        self.losses, self.rates, self.validation, self.seconds = [], [], [], []

    def run_epoch(self, feed: Feed, say: Say) -> None:
        """One epoch. FloatingPointError where the loss is no longer finite."""
        began = said = time.monotonic()
        waiting: list[Tensor] = []
        for batch in feed.epoch(self.epoch + 1):
            waiting.append(self._take_step(batch, batch.rows * self.worker.count / feed.batch))
            if len(waiting) == LOOK_EVERY:
                self._look(waiting, feed.batch)
                if self.worker.rank == 0 and time.monotonic() - said > SAY_EVERY:
                    said = time.monotonic()
                    say(f"epoch {self.epoch + 1}/{self.how.epochs}  step {self.step:,}  loss {self.losses[-1]:.4f}")
        self._look(waiting, feed.batch)
        self._share_buffers()
        self.epoch += 1
        self.seconds.append(time.monotonic() - began)

    def validate(self, measure: Callable[[dict[str, Tensor]], float] | None) -> None:
        """Notes the validation loss of the weights one would sample with; not a number where none is measured."""
        self.validation.append(math.nan if measure is None else measure(self.weights | self.average))

    def checkpoint(self) -> Checkpoint:
        moments = {
            f"{moment}/{name}": self.optimizer.state[parameter][moment]
            for name, parameter in self.learned.items()
            for moment in ("exp_avg", "exp_avg_sq")
            if parameter in self.optimizer.state
        }
        curves = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in CURVES}
        weights = {name: tensor.detach() for name, tensor in self.weights.items()}
        return Checkpoint(self.epoch, self.step, self.config, weights, self.average or None, moments, curves)

    @torch.no_grad()
    def resume(self, state: Checkpoint) -> Checkpoint:
        """Goes on where `state` stood."""
        self.epoch, self.step = state.epoch, state.step
        for name, tensor in self.weights.items():
            tensor.copy_(state.weights[name])
        for name, tensor in self.average.items():
            tensor.copy_((state.average or {})[name])
        for name, parameter in self.learned.items():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step), device=parameter.device if self.how.fused else "cpu"),
                "exp_avg": torch.empty_like(parameter).copy_(state.moments[f"exp_avg/{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(state.moments[f"exp_avg_sq/{name}"]),
            }
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
        return f"epoch {self.epoch}/{self.how.epochs}  loss {loss:.4f}{validation}  {self.seconds[-1]:.1f} s"

    def _take_step(self, batch: Any, weight: float) -> Tensor:
        """weight: how much this worker's mean counts in the mean over the workers; 1 where shares are equal."""
        rate = self.how.rate(self.step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.how.bf16):
            loss = self.loss_of(batch) * weight
        loss.backward()
        if self.how.clip is not None:
            nn.utils.clip_grad_norm_(self.learned.values(), self.how.clip)
        self.optimizer.step()
        if self.average:
            self._move_average()
        self.rates.append(rate)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def _move_average(self) -> None:
        """average = decay average + (1 - decay) weights; the decay grows to its value, (1 + step) / (10 + step) at
        first, so that the beginning is soon forgotten (as in TensorFlow's ExponentialMovingAverage)."""
        decay = min(self.how.average, (1 + self.step) / (10 + self.step))
        present = [self.weights[name] for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), present, 1 - decay)

    def _look(self, waiting: list[Tensor], batch: int) -> None:
        """Takes the losses of the last steps, each of `batch` images, from the device, as means over the workers."""
        if not waiting:
            return
        losses = torch.stack(waiting).float()
        if self.worker.count > 1:
            torch.distributed.all_reduce(losses)
            losses /= self.worker.count
        first = self.step - len(waiting)
        for step, loss in enumerate(losses.tolist(), first):
            if not math.isfinite(loss):
                at = f"epoch {self.epoch + 1}, step {step}"
                raise FloatingPointError(f"{at}: the loss is {loss} at a learning rate of {self.rates[step]:g}")
            self.losses.append(loss)
        if self.worker.note is not None and self.worker.rank == 0:
            self.worker.note(batch * len(waiting), losses.mean().item())
        waiting.clear()

    @torch.no_grad()
    def _share_buffers(self) -> None:
        """What batch norms have seen becomes the mean over the workers: each has seen only its share of the batches."""
        if self.worker.count == 1:
            return
        names = {name for name, _ in self.network.named_buffers()}
        for tensors in (self.weights, self.average):
            for name in sorted(names & tensors.keys()):
                if tensors[name].is_floating_point():
                    torch.distributed.all_reduce(tensors[name])
                    tensors[name] /= self.worker.count


def _named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a network's state consists of, a tensor that has two names once. The tensors are the network's own."""
    saved = network.state_dict().keys()
    return {name: t.detach() for name, t in (*network.named_parameters(), *network.named_buffers()) if name in saved}
