"""What is said of a name that nobody knows, the same wherever one is given: in a manifest, a setting, a model."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 60  # letters that are compared, which takes their number squared


def nearest(given: object, names: Iterable[str], cutoff: float = 0.6) -> str:
    """ ", did you mean 'prompt'?" where one of the names is near, else ""."""
    short, names = str(given)[:LONGEST], sorted(names)
    near = [name for name in names if name == short.lower() != short]
    near = near or get_close_matches(short, names, n=1, cutoff=cutoff)
    return f", did you mean '{near[0]}'?" if near else ""


def unknown(what: str, given: str, known: Iterable[str]) -> ValueError:
    """The error for a name that nobody knows, with the nearest one that is."""
    known = sorted(known)
    return ValueError(f"unknown {what} {given!r}{nearest(given, known)} (known: {', '.join(known)})")
