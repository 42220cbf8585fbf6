"""How much memory a model needs, found without any: it is run on the meta device, whose tensors hold no bytes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

ADAPTERS_SHARE = 0.1  # of a process' part of a GPU: those of a run beyond that come when their rows begin


class Memory(NamedTuple):
    """Bytes on a device: the weights, and the most that one pass holds besides them.

    A GPU wants some more: a few hundred megabytes for CUDA itself, work space of its convolutions, and about a tenth
    for the gaps that its allocator leaves.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def most_adapter_bytes(device: torch.device) -> float:
    """What a run's adapters may take of a device: a tenth of what this process may have of a GPU."""
    if device.type != "cuda":
        return math.inf
    own = torch.cuda.get_per_process_memory_fraction(device.index)  # refuses a device without one
    return ADAPTERS_SHARE * own * torch.cuda.get_device_properties(device).total_memory


def size_text(count: float) -> str:
    """Bytes as a person says them: 8.6 GB, 12 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 0.95e9 else f"{count / 1e6:.2g} MB"


def measure(module: nn.Module, run: Callable[[], Any]) -> Memory:
    """Memory of a module on the meta device and of `run`, which passes fresh meta tensors through it."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return Memory(sum(map(_bytes, tensors.values())), peak_bytes(run))


def _bytes(tensor: Tensor) -> int:
    """Of one that is made of several, as torchao's are, those of its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made in `run` hold at one time, by their storages: a view adds nothing."""
    with torch.inference_mode(), _FusedAttention(), _Live() as live:
        run()
    return live.peak


def count_flops(run: Callable[[], Any]) -> int:
    """Floating point operations of `run`, 2 a multiply-add: of matrix products, convolutions and attention."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        run()
    return counted.get_total_flops()


class _Live(TorchDispatchMode):
    """Sums up the storages that come, and takes them off when they go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_iter(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in before:
                self._see(leaf.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._seen:
            return
        self._seen.add(id(storage))
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs compute it: piece by piece, with no matrix of every position by every other."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, _, value = (*args, *(kwargs or {}).values())[:3]
        return query.new_empty(*query.shape[:-1], value.shape[-1])
