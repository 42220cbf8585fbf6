"""Pickles that hold numpy arrays and plain values, read without running what else a pickle might ask for."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

# What an unpickler is known to let out on bytes that are cut short or were never a pickle.
_BROKEN = (
    pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError,
    MemoryError,
)  # fmt: skip


def load_arrays(data: bytes, where: str) -> Any:
    """What the pickle holds: arrays, numbers, strings (those of Python 2 as latin-1), lists, tuples, dicts.

    It may name numpy's arrays and scalars and nothing else. ValueError, naming `where`, for any other, or a broken one.
    """
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except _BROKEN as error:
        raise ValueError(f"{where} could not be read: {error or type(error).__name__}") from None


class _ArraysOnly(pickle.Unpickler):
    """A pickle is a program; this one may call what makes numpy arrays, under the names of old and new numpy."""

    _rebuild, _scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    _allowed = {  # noqa: RUF012 - never changed
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _rebuild,
        ("numpy._core.multiarray", "_reconstruct"): _rebuild,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not part of a numpy array")
        return self._allowed[module, name]
