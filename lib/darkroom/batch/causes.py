"""What failed when a row failed: a closed set of words, for counting. The row's `error` says it to a person."""

from __future__ import annotations

from typing import Literal, get_args

from darkroom.models.errors import ModelError
from darkroom.storage import StorageError

Cause = Literal["input", "numeric", "model", "storage", "other"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


def cause_of(error: Exception) -> Cause:
    """By the error's type, where it is caught.

    input: the row, or a picture that it names; numeric: values that are not finite; model: the network or its device;
    storage: what should have been there was not; other: a bug of ours, most likely.
    """
    # The first that fits: a ModelError is a ValueError too.
    kinds: tuple[tuple[type[Exception], Cause], ...] = (
        (ModelError, "model"),
        (StorageError, "storage"),
        (ArithmeticError, "numeric"),
        (ValueError, "input"),
        (RuntimeError, "model"),  # what torch raises, for want of memory too
    )
    return next((cause for kind, cause in kinds if isinstance(error, kind)), "other")
