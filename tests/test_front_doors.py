"""Each room offers what its docstring says, and costs nothing until it is asked."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

ROOMS = ("sampling", "models", "training", "report", "export")


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_offers_is_there_and_told_of(room: str) -> None:
    package = import_module(f"darkroom.{room}")
    for name in package.__all__:
        assert getattr(package, name) is not None and name in dir(package)
        assert f"`{name}`" in package.__doc__ or name == "DTYPES"
    with pytest.raises(AttributeError, match=f"module 'darkroom.{room}' has no attribute 'nobody'"):
        _ = package.nobody


def test_to_stand_at_the_doors_costs_neither_torch_nor_ray() -> None:
    rooms = ", ".join(f"darkroom.{room}" for room in ROOMS)
    code = f"import sys, {rooms}; print([name for name in ('torch', 'ray', 'boto3') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
