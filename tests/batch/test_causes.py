"""Every error that a row can fail by has a word; the word does not depend on the message."""

from __future__ import annotations

import pytest
import torch

from darkroom.batch.causes import CAUSES, cause_of
from darkroom.models.errors import ModelError
from darkroom.storage import NotFound, StorageError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("the mask is 3 x 4, its image is 5 x 6"), "input"),
        (ModelError("no stage III"), "model"),  # a ValueError too
        (torch.OutOfMemoryError("CUDA out of memory"), "model"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "model"),
        (FloatingPointError("not finite"), "numeric"),
        (ZeroDivisionError("division by zero"), "numeric"),
        (StorageError("could not read"), "storage"),
        (NotFound("could not read"), "storage"),
        (KeyError("prompt"), "other"),
    ],
)
def test_by_its_type(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause and cause in CAUSES
