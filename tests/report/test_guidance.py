"""What is measured of pictures under guidance, where it can be written down."""

from __future__ import annotations

import numpy as np
import pytest

from darkroom.evaluation.scenes import SceneWish, wish_of
from darkroom.report.guidance import ALL, DIGITS, diversity, judged, saturation
from darkroom.storage import to_uint8
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import Digit, Scene, draw


def flat(level: int) -> np.ndarray:
    return np.full((48, 48, 3), level, np.uint8)


def test_diversity_is_the_distance_of_pairs() -> None:
    assert diversity([flat(0), flat(255)]) == 1.0
    assert diversity([flat(10), flat(10), flat(10)]) == 0.0
    assert diversity([flat(0), flat(0), flat(51)]) == pytest.approx(2 / 3 * 0.2)
    assert diversity([flat(0)]) is None


def test_saturation_is_the_share_of_values_at_the_ends() -> None:
    picture = flat(1)
    picture[:24] = 255
    picture[24:36, :, 0] = 0
    assert saturation(picture) == pytest.approx(1 / 2 + 1 / 4 / 3)
    assert saturation(flat(254)) == 0.0


def test_the_judge_sees_what_was_painted() -> None:
    sample = load_images(sample_uri(), "test")
    seven = sample.images[list(sample.labels).index(7), ..., 0]
    scene = Scene("", False, "grey", (Digit(7, "red", 40, 24, 24),))
    painted = draw([scene], np.stack([seven, seven])[:, None], np.random.default_rng(0))
    picture = to_uint8(painted[0]).permute(1, 2, 0).numpy()
    assert judged("a red seven on grey", [picture]) == {DIGITS: 1.0, ALL: 1.0}
    assert judged("a red seven on black", [picture, picture]) == {DIGITS: 1.0, ALL: 0.0}
    assert judged("the number 7 in red", [picture, flat(150)]) == {DIGITS: 0.5, ALL: 0.5}
    assert judged("a man wearing a hat", [picture]) is None
    assert judged("a red seven on grey", [np.zeros((64, 64, 3), np.uint8)]) is None


@pytest.mark.parametrize(
    ("prompt", "wish"),
    [
        ("a red seven on grey", SceneWish("", (7,), ("red",), "grey")),
        ("a photo of a large blue 3 on yellow paper", SceneWish("large", (3,), ("blue",), "yellow")),
        ("the small number five in green on the left", SceneWish("left", (5,), ("green",), "")),
        ("a two", SceneWish("", (2,), ("",), "")),
        ("a red two and a purple eight on black", SceneWish("pair", (2, 8), ("red", "purple"), "black")),
        ("a one on the left and a 4 on the right", SceneWish("pair", (1, 4), ("", ""), "")),
    ],
)
def test_a_prompt_in_the_scenes_words_is_a_wish(prompt: str, wish: SceneWish) -> None:
    assert wish_of(prompt) == wish


@pytest.mark.parametrize("prompt", ["", "red", "a red digit", "a red seven wearing a hat", "a one and a two and a six"])
def test_other_prompts_are_none(prompt: str) -> None:
    assert wish_of(prompt) is None
