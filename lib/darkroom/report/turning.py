"""How a page turns one view of an anagram into another, where that is a motion of the whole picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By view, the CSS transform from the picture to the view, and back. CSS turns clockwise, torch.rot90 the other way.
# Mirroring is half a turn about an axis in the page's plane, so that the way there is seen.
MOTIONS = {
    "identity": ("", ""),
    "negate": ("", ""),
    "flip_horizontal": ("rotateY(180deg)", "rotateY(180deg)"),
    "flip_vertical": ("rotateX(180deg)", "rotateX(180deg)"),
    "rotate_90": ("rotate(-90deg)", "rotate(90deg)"),
    "rotate_180": ("rotate(180deg)", "rotate(180deg)"),
    "rotate_270": ("rotate(90deg)", "rotate(-90deg)"),
}


def turns(views: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each view of a row what the first view's picture has to do to become it. motion: a CSS transform, "" where
    none does; negated: the colours too."""
    first, *_ = (view["view"] for view in views)
    found = []
    for view in views:
        name = view["view"]
        whole = name in MOTIONS and first in MOTIONS
        # Of a list of transforms the last is done first: back to the picture itself, then on to the view.
        steps = [MOTIONS[name][0], MOTIONS[first][1]] if whole else []
        motion = " ".join(filter(None, steps)) or "rotate(0deg)"
        negated = (name == "negate") != (first == "negate")
        found.append({"motion": motion if whole else "", "negated": whole and negated})
    return found
