"""How one view of an anagram becomes another: by a turn or a mirror, of the whole or of the disc in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from darkroom.sampling.views import view_of

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
# Degrees, counter-clockwise.
_TURNS = {"rotate_90": 90, "rotate_180": 180, "rotate_270": -90}


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


def angle(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Degrees, counter-clockwise and at most half a turn, by which what moves between two views turns; 0 if it does not
    turn: then it travels."""
    names = {left["view"], right["view"]}
    discs = [view for view in (left, right) if view["view"] == "inner_circle"]
    if not names <= {"identity", *(["inner_circle"] if discs else _TURNS)}:
        return 0.0
    if len({disc.get("diameter") for disc in discs}) > 1:
        return 0.0
    turn = _degrees(right) - _degrees(left)
    return float(turn - 360 if turn > 180 else turn + 360 if turn < -180 else turn)


def across(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """How wide the disc is that turns, in sides of the picture; 2 holds all of it."""
    discs = [view.get("diameter", 0.75) for view in (left, right) if view["view"] == "inner_circle"]
    return discs[0] if discs else 2.0


def places(view: Mapping[str, Any], side: int) -> np.ndarray:
    """int64 [side * side]: by a pixel's flat place in the picture, its flat place in the view."""
    return np.argsort(view_of(view).order(side))


def seen(picture: np.ndarray, view: Mapping[str, Any]) -> np.ndarray:
    """The picture, uint8 [S, S, 3], in that view."""
    moved = picture.reshape(-1, picture.shape[-1])[view_of(view).order(len(picture))].reshape(picture.shape)
    return 255 - moved if view["view"] == "negate" else moved


def _degrees(view: Mapping[str, Any]) -> int:
    return int(view.get("degrees", 180)) if view["view"] == "inner_circle" else _TURNS.get(view["view"], 0)
