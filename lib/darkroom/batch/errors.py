"""What ends a job besides storage: a module of its own, because whoever only catches them need not import Ray."""

from __future__ import annotations


class Stalled(RuntimeError):
    """Nothing was committed for a long multiple of the expected time; says which stage waits for what."""
