"""What says that a device's memory has ended, in whose words ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Made = TypeVar("_Made")

# Of libraries that allocate for themselves, when PyTorch's own allocator holds what is left.
_SAID = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # a thread's first product, where nothing is left
    "CUDNN_STATUS_NOT_INITIALIZED",  # and its first convolution
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN's, after work space for none could be had
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at once may help. cuDNN says the same of what it cannot compute at all, which then fails at every
    size."""
    import torch  # not at the top: Ray's tasks import this module, and must not wait for it

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
    )


def shortage_of(error: BaseException | None) -> str:
    """What an error says of want of memory, or one that it wraps or came after, as inductor's and a capture's do; "" of
    any other."""
    while error is not None and not is_out_of_memory(error):
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return "" if error is None else str(error) or "out of memory"


@contextmanager
def naming_out_of_memory() -> Iterator[None]:
    """Raises torch.OutOfMemoryError for whatever says in here that memory has ended."""
    try:
        yield
    except RuntimeError as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def halving(work: Callable[[int], _Made], count: int) -> _Made:
    """What `work` makes of so many at once; of half as many, and so on, where the device's memory ends. Raises
    torch.OutOfMemoryError where not even one fits."""
    import torch

    while True:
        try:
            with naming_out_of_memory():
                return work(count)
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        torch.cuda.empty_cache()  # out here, where the error's frames no longer hold what they allocated
        count //= 2
