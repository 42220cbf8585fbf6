from __future__ import annotations

import numpy as np
import pytest
import torch

from darkroom.models.painted_ink import COLOURS, DIGITS, PAPERS
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import KINDS, PLACES, Digit, Painting, Scene, World, draw, paint, vocabulary


def painted(count: int) -> Painting:
    sample = load_images(sample_uri(), "train")
    return paint(World(sample.images[..., 0], sample.labels), count, np.random.default_rng(3))


def test_full_ink_fills_its_frame_in_its_colour_and_paper_is_what_is_left() -> None:
    scene = Scene("left", True, "yellow", (Digit(3, "blue", 28.0, 14.0, 24.0),))
    picture = draw([scene], np.full((2, 1, 28, 28), 255, np.uint8), np.random.default_rng(0))[0]
    paper, ink = (torch.tensor(named) / 127.5 - 1 for named in (PAPERS["yellow"], COLOURS["blue"]))
    assert torch.equal(picture[:, :, 29:], paper[:, None, None].expand(3, 48, 19))
    assert torch.equal(picture[:, :9], paper[:, None, None].expand(3, 9, 48))
    assert (picture[:, 12:36, 2:26] - ink[:, None, None]).abs().max() < 0.2  # the pen's hue varies by 0.04


def test_a_digit_at_its_own_size_is_mnists() -> None:
    sample = load_images(sample_uri(), "train").images[:1, :, :, 0]
    scene = Scene("", False, "black", (Digit(0, "white", 28.0, 24.0, 24.0),))
    picture = draw([scene], np.stack([sample, sample]), np.random.default_rng(0))[0]
    grey = torch.from_numpy(sample[0].astype(np.float32)) / 127.5 - 1
    assert (picture[0, 10:38, 10:38] - grey).abs().max() < 0.15  # white of a varying pen


def test_the_second_of_a_pair_lies_to_the_right_in_its_own_colour() -> None:
    both = (Digit(1, "red", 20.0, 12.0, 24.0), Digit(2, "green", 20.0, 36.0, 24.0))
    picture = draw(
        [Scene("pair", False, "white", both)], np.full((2, 1, 28, 28), 255, np.uint8), np.random.default_rng(0)
    )
    for x, name in ((12, "red"), (36, "green")):
        assert (picture[0, :, 24, x] - torch.tensor(COLOURS[name]) / 127.5 + 1).abs().max() < 0.2


def test_prompts_say_what_is_there_in_known_words() -> None:
    painting, words = painted(2000), set(vocabulary())
    empty = sum(prompt == "" for prompt in painting.prompts)
    assert 150 <= empty <= 250  # one in ten
    for scene, prompt in zip(painting.scenes, painting.prompts, strict=True):
        said = prompt.split()
        assert words.issuperset(said), prompt
        assert {word for word in said if word in DIGITS} <= {DIGITS[digit.digit] for digit in scene.digits}, prompt
        inks = {digit.colour for digit in scene.digits}
        assert {word for word in said if word in COLOURS} <= inks | {scene.paper}, prompt
        assert all(place not in prompt for kind, place in PLACES.items() if kind not in (scene.kind, "left", "right"))
        assert scene.kind == "large" or "large" not in said
        assert scene.small or "small" not in said


def test_pairs_are_named_from_the_left() -> None:
    painting = painted(2000)
    pairs = [
        (scene, prompt) for scene, prompt in zip(painting.scenes, painting.prompts, strict=True) if " and " in prompt
    ]
    assert len(pairs) > 200
    for scene, prompt in pairs:
        halves = prompt.split(" and ")
        for half, digit in zip(halves, scene.digits, strict=True):
            assert {DIGITS[digit.digit], str(digit.digit)} & set(half.split()), prompt


def test_every_kind_comes_as_often_as_it_should() -> None:
    kinds = [scene.kind for scene in painted(2000).scenes]
    for kind, share in KINDS.items():
        assert abs(kinds.count(kind) / 2000 - share) < 0.04
    assert sum(KINDS.values()) == pytest.approx(1)


def test_ink_is_never_of_the_papers_colour() -> None:
    assert all(digit.colour != scene.paper for scene in painted(500).scenes for digit in scene.digits)


def test_the_same_generator_paints_the_same() -> None:
    first, second = painted(20), painted(20)
    assert torch.equal(first.pictures, second.pictures) and first.prompts == second.prompts
    assert first.pictures.shape == (20, 3, 48, 48) and first.pictures.abs().max() <= 1
