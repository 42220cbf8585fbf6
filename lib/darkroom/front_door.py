"""What a room offers to others by its own name, each read from its module when it is first asked for (PEP 562): torch
and Ray cost seconds, which a command that only refuses must not wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def front_door(
    room: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A room's __getattr__, __dir__ and __all__. room: its __name__; modules: what is offered, by module."""
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{homes[name]}"), name)

    return get, lambda: sorted([*vars(import_module(room)), *homes]), sorted(homes)
