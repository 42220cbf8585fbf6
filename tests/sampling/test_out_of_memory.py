"""Want of memory has one name, whoever says so, and lets go of what was allocated."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from darkroom.sampling.out_of_memory import naming_out_of_memory
from toys import SHORTAGES


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_every_shortage_comes_out_under_one_name_in_its_own_words(said: RuntimeError) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised, naming_out_of_memory():
        raise said
    assert str(raised.value) == str(said)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert triggered"), ValueError("out of memory")]
)
def test_whatever_else_is_raised_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, naming_out_of_memory():
        raise error
    assert raised.value is error


def test_what_was_allocated_is_let_go_as_soon_as_the_error_is() -> None:
    held = []

    def allocate() -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        raise RuntimeError("CUDA error: out of memory")

    gc.disable()
    try:
        try:
            with naming_out_of_memory():
                allocate()
        except torch.OutOfMemoryError:
            pass
        assert held[0]() is None, "who tries again with less wants the room"
    finally:
        gc.enable()
