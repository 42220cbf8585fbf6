"""A training step as one CUDA graph: at small batches the launching of a step's kernels takes longer than they run.

The recipe is PyTorch's own for a whole network ("CUDA semantics", CUDA Graphs): some steps beside the current stream,
in which libraries and the optimizer make what they keep, then one that is captured with gradients set to None, then
replays, which read where the captured step read and write where it wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from darkroom.sampling.out_of_memory import shortage_of

WARM_UP = 3  # steps before the capture: libraries make their work space in the first, and may not while captured

Step = Callable[..., Tensor]


class Maker(Protocol):
    """What a device's graphs are made by."""

    def warm(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step, as one runs it before a capture."""
        ...

    def capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What replays the step; capturing runs nothing. The tensor is the same one at every replay. RuntimeError."""
        ...


class CudaGraphs:
    def warm(self, step: Callable[[], Tensor]) -> Tensor:
        beside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            loss = step()
        current.wait_stream(beside)
        loss.record_stream(current)
        return loss

    def capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread of this process, such as one of Ray's, is not of this step.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = step()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


MAKERS: dict[str, type[Maker]] = {"cuda": CudaGraphs}  # by the type of the device


class GraphedStep:
    """A step that is a function of tensors, and after some calls a graph. Every call is a step that counts.

    clear: sets gradients to None, so that the captured step makes ones of its own. failed: told once, in a sentence,
    where the step cannot be captured; it then runs as it is.
    """

    def __init__(self, step: Step, maker: Maker, clear: Callable[[], None], failed: Callable[[str], None]) -> None:
        self._step, self._maker, self._clear, self._failed = step, maker, clear, failed
        self._calls, self._inputs = 0, ()
        self._replay: Callable[[], Tensor] | None = None
        self._plain = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The step's loss, a tensor of its own."""
        if self._plain:
            return self._step(*inputs)
        self._fill(inputs)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._maker.warm(lambda: self._step(*self._inputs))
        if self._replay is None and not self._capture():
            return self._step(*inputs)
        return self._replay().clone()  # the next replay writes over it

    def _fill(self, inputs: tuple[Tensor, ...]) -> None:
        """The inputs lie where the graph reads them."""
        if not self._inputs:
            self._inputs = tuple(given.clone() for given in inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            assert own.shape == given.shape, "all batches of a training have one shape"
            own.copy_(given, non_blocking=True)

    def _capture(self) -> bool:
        self._clear()
        try:
            self._replay = self._maker.capture(lambda: self._step(*self._inputs))
            return True
        except RuntimeError as error:
            if full := shortage_of(error):  # whoever has no room for a graph is to know it: a step may be as short
                raise torch.OutOfMemoryError(full) from error
            # Where a step breaks a capture, ending the capture raises too, and what broke it is behind that.
            why = str(error.__context__ or error).strip().splitlines() or [type(error).__name__]
            self._plain = True
            self._failed(f"CUDA graphs are not used: {why[0]}")
            return False
