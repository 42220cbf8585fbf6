"""A predictor made faster for the one shape that the engine's passes have: compiled, and replayed as a CUDA graph.

The engine asks for the same shapes every time, so what torch.compile specialises on never changes, and a graph, which
replays the kernels of one call at the same addresses, fits: the host then launches one thing a pass and not a thousand.

A UNet is compiled as a whole. A transformer is one block over and over: that is compiled, once for all depths, in a
fraction of the time.

Bits: a compiled model rounds otherwise than an uncompiled one, so a row's picture is the same to the bit under one
mode only. What a row records is therefore `mode_in_use`, not what was asked for.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from darkroom.models import Mode
from darkroom.models.errors import ModelError
from darkroom.sampling.engine import Predictor
from darkroom.sampling.out_of_memory import shortage_of

T = TypeVar("T")
MODES: tuple[Mode, ...] = get_args(Mode)
# Blocks that a transformer repeats, where its class in diffusers does not name them (`_repeated_blocks`).
_BLOCKS = {"SD3Transformer2DModel": ["JointTransformerBlock"], "CogVideoXTransformer3DModel": ["CogVideoXBlock"]}
_BLOCKS_KINDS = 64  # of shapes and of blocks (SD3.5 has four) that one block's code is compiled for at most
_WARM_UP = 3  # calls before a capture: libraries make their work space in the first, and may not while captured

_log = logging.getLogger(__name__)


def compiled(predictor: Predictor, mode: Mode, backend: str | Callable[..., Any] = "inductor") -> Predictor:
    """The predictor as `mode` has it: "off" as it is, "default" by torch.compile, "graphs" that and a CUDA graph.

    The first call of a shape takes the minutes that compiling does, and decides: where a compiler or CUDA graphs cannot
    be had, a warning says so and that shape goes on without. ModelError for an unknown mode.
    """
    if mode not in MODES:
        raise ModelError(f"compile is {mode!r}, wanted {', '.join(MODES)}")
    return predictor if mode == "off" else CompiledPredictor(predictor, mode, backend)


def mode_in_use(predictor: Predictor) -> Mode:
    """The mode that the latest call ran in; before the first, the one that will be tried."""
    return predictor.mode_in_use if isinstance(predictor, CompiledPredictor) else "off"


def notes_of(predictor: Predictor) -> list[str]:
    """What could not be had so far, a sentence each."""
    return list(predictor.notes) if isinstance(predictor, CompiledPredictor) else []


def forget_graphs(predictor: Predictor) -> None:
    """Frees what captured passes hold, of the controlled predictors too; the next calls capture anew."""
    if isinstance(predictor, CompiledPredictor):
        predictor.forget_graphs()


def compile_failures() -> tuple[type[Exception], ...]:
    """What the first call of a compiled model raises where compiling cannot be had; RuntimeError, and so
    OutOfMemoryError, which says nothing of the kind, is among them.

    Dynamo's and inductor's own are RuntimeErrors. What Triton builds at the first launch comes as it was raised: no
    compiler (RuntimeError, OSError), one that fails (SubprocessError), a result that a folder mounted noexec does not
    let load (ImportError), no libcuda, or a shape that inductor foretold wrongly (AssertionError).
    """
    plain = (RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError)
    dynamos = torch._dynamo.exc.FailOnRecompileLimitHit
    try:
        from triton.errors import TritonError  # not everywhere: builds of torch without CUDA come without it
    except ImportError:
        return (*plain, dynamos)
    return (*plain, dynamos, TritonError)


@torch.inference_mode()
def warm_up(predictor: Predictor, inputs: tuple[Tensor, ...]) -> None:
    """Calls it once, so that compiling is done before the first row. inputs: of a pass's shapes and dtypes."""
    # Cloned, as dynamo tells tensors made in inference mode, which the engine's are, from others.
    predictor(*(given.clone() for given in inputs))


class CompiledPredictor:
    """A predictor that answers as the one it wraps, and has all else of it. That one is not to be asked any more, as
    blocks of its transformer are compiled where they are."""

    def __init__(self, predictor: Predictor, mode: Mode, backend: str | Callable[..., Any]) -> None:
        self.wrapped, self.process, self.device = predictor, predictor.process, predictor.device
        self.notes: list[str] = []  # with those of the controlled ones
        self.told: list[Callable[[], None]] = []  # called whenever a call is going to compile; likewise
        self._asked, self._controlled = (mode, backend), dict[tuple[str, ...], CompiledPredictor]()
        # fullgraph: dynamo would else run what it cannot trace uncompiled, or all of it after a few shapes, unsaid.
        how = {"dynamic": False, "fullgraph": True, "backend": backend}
        self._compiled: Callable[..., Tensor] = predictor
        if not _compile_blocks(predictor, how):
            self._compiled = torch.compile(predictor.__call__, **how)
        self._modes: dict[_Shapes, Mode] = {}
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self.mode_in_use: Mode = mode
        if mode == "graphs" and self.device.type != "cuda":
            self.mode_in_use = "default"
            self._note(f"CUDA graphs are not used: they need a GPU, and this is a {self.device.type}")
        self._wanted = self.mode_in_use

    def __call__(self, *inputs: Tensor) -> Tensor:
        mode = self._modes.get(_shapes(inputs))
        if mode is None:
            return self._first(inputs)
        self.mode_in_use = mode
        if mode == "graphs":
            return self._captured(inputs)(*inputs)
        return self._compiled(*inputs) if mode == "default" else self._uncompiled(*inputs)

    def controlled(self, names: tuple[str, ...]) -> CompiledPredictor:
        """The predictor that asks these control networks too, compiled as this is."""
        if names not in self._controlled:
            beside = self._controlled[names] = CompiledPredictor(self.wrapped.controlled(names), *self._asked)
            beside.notes, beside.told = self.notes, self.told
        return self._controlled[names]

    def forget_graphs(self) -> None:
        """See `forget_graphs`."""
        self._graphs.clear()
        for beside in self._controlled.values():
            beside.forget_graphs()

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not there yet: asked for by copy and pickle
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def _first(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The first call of these shapes, which decides how they run; after it an error is an error, as another mode
        would be other bits."""
        for tell in self.told:
            tell()
        mode: Mode = "default"
        answer, why = _tried(lambda: self._compiled(*inputs))
        if answer is None:
            mode, answer = "off", self._uncompiled(*inputs)
            self._note(f"torch.compile failed, the model runs as it is: {why}")
        elif self._wanted == "graphs":
            graph, why = _tried(lambda: self._captured(inputs))
            mode = "default" if graph is None else "graphs"
            if graph is None:
                self._note(f"CUDA graphs are not used: {why}")
        self._modes[_shapes(inputs)] = self.mode_in_use = mode
        return answer

    def _uncompiled(self, *inputs: Tensor) -> Tensor:
        with torch.compiler.set_stance("force_eager"):
            return self.wrapped(*inputs)

    def _captured(self, inputs: tuple[Tensor, ...]) -> _Graph:
        kind = tuple(given.shape[1:] for given in inputs)
        graph = self._graphs.get(kind)
        if graph is None or not graph.fits(inputs):
            if graph is not None:  # what all of them hold goes first: smaller passes are asked for for want of memory
                del graph
                self._graphs.clear()
            graph = self._graphs[kind] = _Graph(self._compiled, inputs)
        return graph

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            _log.warning(sentence)


def _compile_blocks(predictor: Predictor, how: Mapping[str, Any]) -> bool:
    """Compiles what a predictor's transformer repeats, where it is. False of one that has none, and of one with
    adapters: what these add differs from block to block by hooks, which dynamo does not look at again when it takes
    code of one block for another."""
    transformer = getattr(predictor, "transformer", None)
    if transformer is None or getattr(predictor, "adapters", None) is not None:
        return False
    transformer._repeated_blocks = transformer._repeated_blocks or _BLOCKS[type(transformer).__name__]
    transformer.compile_repeated_blocks(**how, recompile_limit=_BLOCKS_KINDS)
    return True


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
        return _shapes(self._inputs) == _shapes(inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it, and a row may wait a pass with its answers


_Shapes = tuple[tuple[torch.Size, torch.dtype], ...]


def _shapes(inputs: Iterable[Tensor]) -> _Shapes:
    return tuple((given.shape, given.dtype) for given in inputs)


def _tried(work: Callable[[], T]) -> tuple[T | None, str]:
    """What came of it, or None and why not. OutOfMemoryError comes out: smaller passes help, another mode does not."""
    try:
        return work(), ""
    except compile_failures() as error:
        if full := shortage_of(error):
            raise torch.OutOfMemoryError(full) from error
        return None, _first_line(error)


def _first_line(error: BaseException) -> str:
    inner = getattr(error, "inner_exception", None)  # dynamo's own begins by naming its backend
    text, kind = str(inner or error).strip(), f"{type(inner).__name__}: " if inner else ""
    return kind + (text or type(error).__name__).splitlines()[0]
