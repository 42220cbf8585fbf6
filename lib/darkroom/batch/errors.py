"""What ends a job besides storage: a module of its own, because whoever only catches them need not import Ray."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked, or broke while doing it."""


class Stalled(RuntimeError):
    """Nothing was committed for a long multiple of the expected time; says which stage waits for what."""
