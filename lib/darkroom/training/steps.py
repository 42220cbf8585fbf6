"""Steps of a training: a network, its optimizer and the running average of its weights, moved a batch at a time.

Pure torch. The first batch decides which of the wished speed can be had; from then on nothing changes, so that a curve
is of one kind from end to end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from darkroom.models.compiled import compile_failures
from darkroom.sampling.out_of_memory import shortage_of
from darkroom.training import graphs
from darkroom.training.feeds import Worker
from darkroom.training.objectives import Objective


@dataclass(frozen=True)
class Optimization:
    """How weights are moved. rate: learning rate by step (from 0); average: decay of the weights' running average, None
    for none; clip: bound on the gradient's norm. keep_last, keep: newest checkpoints and epochs kept, beside the best.
    The rest is speed: bf16, compile, channels_last and graphs change rounding only; fused is one kernel for Adam."""

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
    graphs: bool = False


class Steps:
    """A network, its optimizer and its average. step: how many were taken; weights: by name, the network's own tensors;
    note: told, in a sentence, what of the wished speed cannot be had."""

    def __init__(
        self, objective: Objective, how: Optimization, worker: Worker, note: Callable[[str], None] = lambda line: None
    ) -> None:
        self.how, self.worker, self.step, self.notes = how, worker, 0, []
        self._say, self._objective = note, objective
        objective.to(worker.device).train()
        if how.channels_last:
            objective.core.to(memory_format=torch.channels_last)
        self.network = objective.network
        self.learned = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.weights = _named_tensors(self.network)
        floating = {name: tensor for name, tensor in self.weights.items() if tensor.is_floating_point()}
        self.average = {} if how.average is None else {name: t.clone() for name, t in floating.items()}
        self.compiled, self.graphed = False, self._can_graph()
        self._rate, self.optimizer = self._optimizer()
        self._move: Callable[..., Tensor] | None = None
        self._loss_of: nn.Module = objective

    def take(self, batch: Any, weight: float) -> Tensor:
        """One step; its loss, on the device. weight: how much this worker's mean counts in the mean over the workers; 1
        where shares are equal."""
        inputs = self._objective.inputs(batch)
        if self._move is None:
            self._begin(inputs, weight)
        self._set_rate(self.how.rate(self.step))
        loss = self._move(*inputs)
        if self.average:
            self._move_average()
        self.step += 1
        return loss

    @property
    def ran(self) -> dict[str, Any]:
        """What a run's record says of its speed: what was had, not what was wished."""
        device = self.worker.device
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "workers": self.worker.count,
            "bf16": self.how.bf16,
            "channels_last": self.how.channels_last,
            "fused": self.how.fused,
            "compile": self.compiled,
            "graphs": self.graphed,
            "notes": list(self.notes),
        }

    @torch.no_grad()
    def resume(self, step: int, weights: dict[str, Tensor], average: dict[str, Tensor], moments: dict) -> None:
        """Goes on after `step` steps, from what a checkpoint keeps of them."""
        self.step = step
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
        on_device = self.how.fused or self.graphed
        for name, parameter in self.learned.items():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device if on_device else "cpu"),
                "exp_avg": torch.empty_like(parameter).copy_(moments[f"exp_avg/{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(moments[f"exp_avg_sq/{name}"]),
            }

    @torch.no_grad()
    def share_buffers(self) -> None:
        """What batch norms have seen becomes the mean over the workers: each has seen only its share of the batches."""
        if self.worker.count == 1:
            return
        names = {name for name, _ in self.network.named_buffers()}
        for tensors in (self.weights, self.average):
            for name in sorted(names & tensors.keys()):
                if tensors[name].is_floating_point():
                    torch.distributed.all_reduce(tensors[name])
                    tensors[name] /= self.worker.count

    def _can_graph(self) -> bool:
        if not self.how.graphs:
            return False
        device = self.worker.device.type
        if device not in graphs.MAKERS:
            self._note(f"CUDA graphs are not used: they need a GPU, and this is a {device}")
        elif self.worker.count > 1:
            self._note("CUDA graphs are not used: several workers share each step")
        return device in graphs.MAKERS and self.worker.count == 1

    def _optimizer(self) -> tuple[Tensor | None, torch.optim.Optimizer]:
        """The optimizer, and where a graph reads the learning rate."""
        device, rate = self.worker.device, None
        if self.graphed:  # Adam's fused kernel reads float32 on a GPU; on a processor, float64 is a number of Python's
            rate = torch.zeros((), dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        adam = torch.optim.AdamW(
            self.learned.values(),
            lr=0.0 if rate is None else rate,
            weight_decay=self.how.weight_decay,
            fused=self.how.fused or None,
            capturable=self.graphed and device.type == "cuda",
        )
        return rate, adam

    def _set_rate(self, rate: float) -> None:
        if self._rate is None:
            self.optimizer.param_groups[0]["lr"] = rate
        else:
            self._rate.fill_(rate)

    def _begin(self, inputs: tuple[Tensor, ...], weight: float) -> None:
        """What the first batch decides."""
        if self.how.compile:
            self.compiled = self._compiles(inputs)
        if self.worker.count > 1:
            if self.worker.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self._objective)  # in place; its tensors stay the same ones
            # Within an epoch the statistics of batch norms stay each worker's own, see `share_buffers`.
            self._loss_of = DistributedDataParallel(self._objective, broadcast_buffers=False)
        self._move = functools.partial(self._update, weight)
        if self.graphed:
            maker = graphs.MAKERS[self.worker.device.type]()
            self._move = graphs.GraphedStep(self._move, maker, self.optimizer.zero_grad, self._without_graphs)

    def _compiles(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether torch.compile can be had by all workers: forward and backward of the first batch, whose traces are
        then wiped out. Before anything binds the workers to one another, so that one that cannot holds up nobody."""
        self._objective.compile_core(True)
        buffers, problem = {name: b.clone() for name, b in self.network.named_buffers()}, ""
        device = self.worker.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []), self._autocast():
                loss = self._objective(*inputs)
            loss.backward()
        except compile_failures() as error:
            if full := shortage_of(error):  # a network that is not compiled needs no less
                raise torch.OutOfMemoryError(full) from error
            problem = _first_line(error)
        with torch.no_grad():
            for name, buffer in self.network.named_buffers():
                buffer.copy_(buffers[name])
        self.optimizer.zero_grad()
        if self.worker.all(not problem):
            return True
        self._objective.compile_core(False)
        self._note(f"torch.compile failed, the network is trained as it is: {problem or 'on another worker'}")
        return False

    def _update(self, weight: float, *inputs: Tensor) -> Tensor:
        """Forward, backward and the optimizer's step; the loss. A graph may hold it: nothing here waits for the device
        or depends on a number of the host that changes."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss_of(*inputs) * weight
        loss.backward()
        if self.how.clip is not None:
            nn.utils.clip_grad_norm_(self.learned.values(), self.how.clip)
        self.optimizer.step()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.how.bf16)

    @torch.no_grad()
    def _move_average(self) -> None:
        """average = decay average + (1 - decay) weights; the decay grows to its value, (1 + step) / (10 + step) at
        first, so that the beginning is soon forgotten (as in TensorFlow's ExponentialMovingAverage).

        Not in the graph: a decay that changes would have to be a tensor, which the one kernel for all weights refuses.
        """
        decay = min(self.how.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._averaged, 1 - decay)

    @functools.cached_property
    def _averages(self) -> list[Tensor]:
        return list(self.average.values())

    @functools.cached_property
    def _averaged(self) -> list[Tensor]:
        return [self.weights[name] for name in self.average]

    def _without_graphs(self, why: str) -> None:
        self.graphed = False
        self._note(why)

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self._say(sentence)


def _named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a network's state consists of, a tensor that has two names once. The tensors are the network's own."""
    saved = network.state_dict().keys()
    return {name: t.detach() for name, t in (*network.named_parameters(), *network.named_buffers()) if name in saved}


def _first_line(error: BaseException) -> str:
    error = getattr(error, "inner_exception", error)  # dynamo's own begins by naming its backend
    return (str(error).strip() or type(error).__name__).splitlines()[0]
