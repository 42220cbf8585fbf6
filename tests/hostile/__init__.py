"""Inputs that nobody should have to fear, each with its right answer."""

from __future__ import annotations

from dataclasses import replace

from hostile import floods, kept, pictures, places, rows, tables
from hostile.case import Case

ALONE = ("flood", "kept: hostile", "import", "path: a device")


def _cases() -> dict[str, Case]:
    """Those that may hang or flood, where a guard is gone, are to be answered alone."""
    found = {}
    for module in (rows, floods, tables, pictures, places, kept):
        for name, case in module.cases().items():
            special = any(map(callable, case.files.values())) and not name.startswith("run")
            found[name] = replace(case, alone=name.startswith(ALONE) or special or case.given.startswith("/dev"))
    return found


CASES = _cases()
