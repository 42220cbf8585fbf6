"""A predictor made faster for the one shape that the engine's passes have: compiled, and replayed as a CUDA graph.

The engine asks for the same shapes every time, so what torch.compile specialises on never changes, and a graph, which
replays the kernels of one call at the same addresses, fits: the host then launches one thing a pass and not a thousand.

Bits: a compiled model rounds otherwise than an uncompiled one, so a row's picture is the same to the bit under one
mode only, and the mode belongs in its record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from darkroom.models.errors import ModelError
from darkroom.sampling.engine import Predictor

Mode = Literal["off", "default", "graphs"]
MODES: tuple[Mode, ...] = get_args(Mode)
_WARM_UP = 3  # calls before a capture: libraries make their work space in the first, and may not while captured

_log = logging.getLogger(__name__)


def compiled(predictor: Predictor, mode: Mode, backend: str | Callable[..., Any] = "inductor") -> Predictor:
    """The predictor as `mode` has it: "off" as it is, "default" by torch.compile, "graphs" that and a CUDA graph.

    The first call of a shape takes the minutes that compiling does. Where something cannot be had, a compiler or CUDA
    graphs, a warning says so and the rest goes on without. ModelError for an unknown mode.
    """
    if mode not in MODES:
        raise ModelError(f"compile is {mode!r}, wanted {', '.join(MODES)}")
    return predictor if mode == "off" else CompiledPredictor(predictor, mode, backend)


class CompiledPredictor:
    """A predictor that answers as the one it wraps, and has all else of it. notes: what could not be had, sentences."""

    def __init__(self, predictor: Predictor, mode: Mode, backend: str | Callable[..., Any]) -> None:
        self.wrapped, self.mode, self.notes = predictor, mode, []
        self.process, self.device = predictor.process, predictor.device
        self._ask: Callable[..., Tensor] = torch.compile(predictor.__call__, dynamic=False, backend=backend)
        self._graphs = mode == "graphs"
        self._graph: _Graph | None = None
        if self._graphs and self.device.type != "cuda":
            self._without_graphs(f"they need a GPU, and this is a {self.device.type}")

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._graphs:
            return self._compiled(*inputs)
        if self._graph is None or not self._graph.fits(inputs):
            self._graph = None  # what it holds goes first: a smaller shape is asked for where memory is short
            self._capture(inputs)
        return self._compiled(*inputs) if self._graph is None else self._graph(*inputs)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not there yet: asked for by copy and pickle
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def _compiled(self, *inputs: Tensor) -> Tensor:
        if self._ask == self.wrapped.__call__:
            return self._ask(*inputs)
        try:
            return self._ask(*inputs)
        except torch.OutOfMemoryError:
            raise  # smaller passes help, an uncompiled model does not
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            self._note(f"torch.compile failed, the model runs as it is: {_first_line(error)}")
            self._ask = self.wrapped.__call__
            return self._ask(*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        try:
            self._graph = _Graph(self._compiled, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._without_graphs(_first_line(error))

    def _without_graphs(self, why: str) -> None:
        self._graphs = False
        self._note(f"CUDA graphs are not used: {why}")

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        _log.warning(sentence)


class _Graph:
    """One call, captured: inputs are copied to where the graph reads them, the answer from where it writes it."""

    def __init__(self, ask: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [given.clone() for given in inputs]
        beside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                ask(*self._inputs)
        current.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread of this process, a stage in float32, may allocate meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = ask(*self._inputs)

    def fits(self, inputs: tuple[Tensor, ...]) -> bool:
        pairs = zip(self._inputs, inputs, strict=True)
        return all(own.shape == given.shape and own.dtype == given.dtype for own, given in pairs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it, and a row may wait a pass with its answers


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
