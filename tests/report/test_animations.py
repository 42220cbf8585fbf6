from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.report.animations import FORMATS, FRAMES, _scattered, _turned, one_after_the_other, turning
from darkroom.report.turning import MOTIONS, angle, turns
from darkroom.sampling.views import VIEWS, view_of

SIDE = 12
LINEAR = {"rotate": lambda turn: [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]],
          "rotateX": lambda turn: [[1, 0], [0, np.cos(turn)]],
          "rotateY": lambda turn: [[np.cos(turn), 0], [0, 1]]}  # fmt: skip
# As CSS Transforms Level 2 has them: x to the right, y down, and what turns about an axis seen from the front.


def seen(picture: np.ndarray, view: dict[str, Any]) -> np.ndarray:
    signed = torch.from_numpy(picture.astype(np.int16)).permute(2, 0, 1)[None] * 2 - 255
    return ((view_of(view).apply(signed) + 255) // 2)[0].permute(1, 2, 0).numpy().astype(np.uint8)


def moved(picture: np.ndarray, motion: str) -> np.ndarray:
    """The picture as a browser shows it under a list of CSS transforms."""
    matrix = np.eye(2)
    for name, degrees in re.findall(r"(\w+)\((-?\d+)deg\)", motion):
        matrix = matrix @ np.array(LINEAR[name](np.deg2rad(int(degrees))))
    y, x = np.mgrid[:SIDE, :SIDE]
    at = np.stack([x.ravel(), y.ravel()]) - (SIDE - 1) / 2
    to = np.round(matrix @ at + (SIDE - 1) / 2).astype(int)
    result = np.empty_like(picture)
    result[to[1], to[0]] = picture[y.ravel(), x.ravel()]
    return result


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("first", MOTIONS)
def test_the_page_turns_a_view_into_every_other_as_the_sampler_does(first: str, picture: np.ndarray) -> None:
    views = [{"view": name} for name in [first, *MOTIONS]]
    shown = seen(picture, views[0])
    for view, turn in zip(views, turns(views), strict=True):
        turned = moved(shown, turn["motion"])
        assert np.array_equal(255 - turned if turn["negated"] else turned, seen(picture, view)), view


def test_views_that_are_no_motion_of_the_whole_have_none() -> None:
    others = [{"view": name} for name in VIEWS if name not in MOTIONS]
    assert len(others) > 3
    assert [turn["motion"] for turn in turns([{"view": "identity"}, *others])] == ["rotate(0deg)", *[""] * len(others)]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_anagram_turns_through_all_its_views_and_rests_at_each(kind: str, picture: np.ndarray) -> None:
    plain = np.zeros_like(picture)
    plain[2:5, 3:9] = (200, 10, 10)
    views = [{"view": "identity"}, {"view": "rotate_90"}, {"view": "negate"}, {"view": "jigsaw", "seed": 3}]
    movie = Image.open(io.BytesIO(turning(plain, views, kind)))
    assert movie.info["loop"] == 0
    rests = []
    for number in range(movie.n_frames):
        movie.seek(number)
        movie.load()
        if movie.info["duration"] > 1000:
            rests.append(np.array(movie.convert("RGB")))
    assert len(rests) == len(views) and movie.n_frames <= len(views) * FRAMES
    for rest, view in zip(rests, views, strict=True):
        wanted = seen(plain, view).repeat(len(rest) // SIDE, 0).repeat(len(rest) // SIDE, 1)
        assert np.abs(rest.astype(int) - wanted).max() <= (0 if kind == "webp" else 8)


def test_pixels_that_travel_arrive(picture: np.ndarray) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    points = np.stack([y.ravel(), x.ravel()], 1) - (SIDE - 1) / 2
    drawn = _scattered(picture.reshape(-1, 3), points, SIDE)
    assert np.array_equal(drawn[:: len(drawn) // SIDE, :: len(drawn) // SIDE], picture)
    upside_down = _scattered(picture.reshape(-1, 3), -points, SIDE)
    assert np.array_equal(upside_down, drawn[::-1, ::-1])


def test_a_quarter_turn_is_that_of_the_view(picture: np.ndarray) -> None:
    turned = _turned(picture, 90.0, 2.0)
    scale = len(turned) // SIDE
    assert np.array_equal(turned[::scale, ::scale], seen(picture, {"view": "rotate_90"}))
    small = _turned(picture, 90.0, 0.5)
    assert np.array_equal(small[0], _turned(picture, 0.0, 2.0)[0]), "what is outside the disc stays"
    assert not np.array_equal(small, _turned(picture, 0.0, 2.0))


@pytest.mark.parametrize(
    ("left", "right", "degrees"),
    [
        ({"view": "identity"}, {"view": "rotate_90"}, 90),
        ({"view": "rotate_270"}, {"view": "rotate_180"}, -90),
        ({"view": "inner_circle", "degrees": 270}, {"view": "identity"}, 90),
        ({"view": "flip_vertical"}, {"view": "rotate_90"}, 0),
        ({"view": "inner_circle"}, {"view": "rotate_90"}, 0),
    ],
)
def test_what_turns_and_how_far(left: dict[str, Any], right: dict[str, Any], degrees: float) -> None:
    assert angle(left, right) == degrees


def test_a_strip_plays_from_its_first_picture_to_its_last() -> None:
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 120, 255)]
    movie = Image.open(io.BytesIO(one_after_the_other(pictures, "webp")))
    found = []
    for number in range(movie.n_frames):
        movie.seek(number)
        found.append(np.array(movie.convert("RGB"))[0, 0, 0])
    assert found == [0, 120, 255]
    with pytest.raises(ValueError, match="several sizes"):
        one_after_the_other([pictures[0], np.zeros((5, 5, 3), np.uint8)])
