"""Moving pictures: an anagram that turns from view to view, and a strip of pictures one after the other."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from darkroom.report.turning import across, angle, places, seen

FORMATS = ("gif", "webp")
SIDE = 192  # pixels at which small pictures are drawn, about: a whole number of times their size
LARGEST = 384  # larger ones are shrunk first: each pixel travels alone
FRAMES, FRAME_MS, REST_MS = 14, 50, 1100
BLANK = np.array([128, 128, 128], np.uint8)  # where nothing lies while pixels are under way


def turning(picture: np.ndarray, views: Sequence[Mapping[str, Any]], kind: str = "gif") -> bytes:
    """The picture, uint8 [S, S, 3], as it goes from each view to the next and from the last to the first. Every view
    has to fit a picture of min(S, LARGEST) pixels a side.

    Rotations turn, of the whole or of the disc in the middle; in all other views each pixel travels straight to where
    the view puts it. The colours of a negative fade over.
    """
    picture = _at_most(picture, LARGEST)
    rest = [seen(picture, view) for view in views]
    frames: list[np.ndarray] = []
    rests: list[int] = []
    for number, view in enumerate(views):
        following = (number + 1) % len(views)
        rests.append(len(frames))
        frames.append(_enlarged(rest[number]))
        frames += _between(rest[number], rest[following], view, views[following], len(picture))
    return _movie(frames, [REST_MS if number in rests else FRAME_MS for number in range(len(frames))], kind)


def one_after_the_other(pictures: Sequence[np.ndarray], kind: str = "gif") -> bytes:
    """Pictures uint8 [H, W, 3] of one shape, each for a moment and the last for longer; ValueError if shapes differ."""
    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError("pictures of several sizes make no animation")
    frames = [_enlarged(_at_most(picture, LARGEST)) for picture in pictures]
    return _movie(frames, [*[FRAME_MS * 6] * (len(frames) - 1), REST_MS], kind)


def _between(
    start: np.ndarray, end: np.ndarray, left: Mapping[str, Any], right: Mapping[str, Any], side: int
) -> list[np.ndarray]:
    """Frames from one view to another, neither of the two among them."""
    shares = [0.5 - 0.5 * np.cos(np.pi * step / FRAMES) for step in range(1, FRAMES)]
    if turn := angle(left, right):
        return [_turned(start, share * turn, across(left, right)) for share in shares]
    started = places(left, side)
    colours = start.reshape(-1, 3)[started].astype(float)  # in the order of the picture itself
    at, to = _points(started, side), _points(places(right, side), side)
    negated = (left["view"] == "negate") != (right["view"] == "negate")
    frames = []
    for share in shares:
        faded = np.round(colours + share * (255 - 2 * colours) if negated else colours).astype(np.uint8)
        frames.append(_scattered(faded, at + share * (to - at), side))
    return frames


def _turned(picture: np.ndarray, degrees: float, width: float) -> np.ndarray:
    """The enlarged picture, the disc in its middle, `width` of its side wide, turned counter-clockwise."""
    large = _enlarged(picture)
    side = len(large)
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    turn = np.deg2rad(degrees)
    whence = np.stack([down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)])
    y, x = np.round(whence + (side - 1) / 2).astype(int)
    inside = (y >= 0) & (x >= 0) & (y < side) & (x < side)
    turned = np.where(inside[..., None], large[y.clip(0, side - 1), x.clip(0, side - 1)], BLANK)
    disc = np.hypot(down, right) <= width * side / 2
    return np.where(disc[..., None], turned, large)


def _scattered(colours: np.ndarray, points: np.ndarray, side: int) -> np.ndarray:
    """Pixels drawn as squares at points [N, 2] (down, across) about the middle, at the size of an enlarged picture."""
    scale = _scale(side)
    canvas = np.broadcast_to(BLANK, (side * scale, side * scale, 3)).copy()
    corners = np.round((points + (side - 1) / 2) * scale).astype(int)
    for down in range(scale, -1, -1):  # one more than the square, drawn first: turned squares leave no seams
        for right in range(scale, -1, -1):
            y, x = corners[:, 0] + down, corners[:, 1] + right
            inside = (y >= 0) & (x >= 0) & (y < len(canvas)) & (x < len(canvas))
            canvas[y[inside], x[inside]] = colours[inside]
    return canvas


def _points(flat: np.ndarray, side: int) -> np.ndarray:
    return np.stack([flat // side, flat % side], 1) - (side - 1) / 2


def _scale(side: int) -> int:
    return max(1, SIDE // side)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    scale = _scale(max(picture.shape[:2]))
    return picture.repeat(scale, 0).repeat(scale, 1)


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(image)


def _movie(frames: Sequence[np.ndarray], durations: list[int], kind: str) -> bytes:
    first, *others = map(Image.fromarray, frames)
    buffer = io.BytesIO()
    small = max(first.size) <= SIDE  # of large ones nobody wants ten megabytes
    options = {"lossless": small, "quality": 85} if kind == "webp" else {"optimize": False, "disposal": 1}
    first.save(buffer, kind.upper(), save_all=True, append_images=others, duration=durations, loop=0, **options)
    return buffer.getvalue()
