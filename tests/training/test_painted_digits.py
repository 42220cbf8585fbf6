from __future__ import annotations

import re

import numpy as np
import torch
import torch.nn.functional as F

from darkroom.evaluation.digits import recognise
from darkroom.evaluation.illusions import AFAR, NEAR
from darkroom.evaluation.textures import read_near_textures, read_textures
from darkroom.models.if_xs import build_tokenizer
from darkroom.models.painted_ink import COLOURS, DIGITS, PATTERNS, PLURALS
from darkroom.sampling.components import make_component
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_digits import BACKGROUNDS, paint, vocabulary


def painted(count: int, fill: int | None = None) -> tuple[np.ndarray, object]:
    sample = load_images(sample_uri(), "train")
    digits = sample.images[:count, :, :, 0] if fill is None else np.full((count, 28, 28), fill, np.uint8)
    return sample.labels[:count], paint(digits, sample.labels[:count], np.random.default_rng(3), kinds=(1, 0, 0))


def test_no_ink_is_paper_and_full_ink_is_the_colour_of_the_prompt() -> None:
    _, paper = painted(400, fill=0)
    grounds = {tuple(COLOURS[name]) for name in BACKGROUNDS}
    assert {tuple(((p + 1) * 127.5).int().tolist()) for p in paper.small[:, :, 0, 0]} == grounds
    assert torch.equal(paper.small, paper.small[:, :, :1, :1].expand_as(paper.small))

    _, ink = painted(400, fill=255)
    for picture, prompt in zip(ink.small, ink.prompts, strict=True):
        named = [word for word in prompt.split(" on ")[0].split() if word in COLOURS]
        if named:  # the pen's hue varies: 0.04 standard deviations, so 0.2 is five of them
            wanted = torch.tensor(COLOURS[named[0]]) / 127.5 - 1
            assert (picture[:, 0, 0] - wanted).abs().max() < 0.2, prompt


def test_the_paper_is_the_one_of_the_prompt_and_never_the_ink() -> None:
    _, paper = painted(400, fill=0)
    said = 0
    for picture, prompt in zip(paper.small, paper.prompts, strict=True):
        ink, _, ground = prompt.partition(" on ")
        if ground:
            said += 1
            assert picture[0, 0, 0].item() == {"white": 1.0, "black": -1.0}[ground]
            assert ground not in ink.split()
    assert said > 60


def test_the_large_picture_is_the_small_one_at_twice_the_size() -> None:
    _, both = painted(50)
    assert both.small.shape == (50, 3, 24, 24) and both.large.shape == (50, 3, 48, 48)
    assert both.small.abs().max() <= 1 and both.large.abs().max() <= 1
    # bicubic rings where it meets the bounds, so single pixels differ; on average they do not
    assert (F.avg_pool2d(both.large, 2) - both.small).abs().mean() < 0.03


def test_prompts_name_the_digit_in_known_words() -> None:
    labels, both = painted(1000)
    words = set(vocabulary())
    empty = sum(prompt == "" for prompt in both.prompts)
    assert 70 <= empty <= 130  # one in ten
    named = 0
    for label, prompt in zip(labels, both.prompts, strict=True):
        assert words.issuperset(prompt.split()), prompt
        digits = [word for word in prompt.split() if word in DIGITS or word.isdigit()]
        assert digits in ([], [DIGITS[label]], [str(label)]), prompt
        named += bool(digits)
    assert named > 700


def test_the_same_generator_paints_the_same() -> None:
    (_, one), (_, two) = painted(20), painted(20)
    assert torch.equal(one.small, two.small) and torch.equal(one.large, two.large) and one.prompts == two.prompts


def test_small_digits_fill_the_picture_and_are_named_so() -> None:
    sample = load_images(sample_uri(), "train")
    digits, labels = sample.images[:200, :, :, 0], sample.labels[:200]
    small = paint(digits, labels, np.random.default_rng(3), kinds=(0, 0, 1), backgrounds=("black",))
    for label, prompt, picture, large in zip(labels, small.prompts, small.small, small.large, strict=True):
        assert prompt == "" or re.fullmatch(rf"small \w+ {PLURALS[label]}( on black)?", prompt)
        assert torch.equal(picture[:, :8, :8], picture[:, 16:, 8:16]) and torch.equal(large[:, :32], large[:, 16:])
    assert set(vocabulary()).issuperset(word for prompt in small.prompts for word in prompt.split())


def test_patterns_are_those_they_are_called() -> None:
    sample = load_images(sample_uri(), "train")
    drawn = paint(sample.images[:200, :, :, 0], sample.labels[:200], np.random.default_rng(3), kinds=(0, 1, 0))
    named = [next((word for word in prompt.split() if word in PATTERNS), None) for prompt in drawn.prompts]
    told = [number for number, name in enumerate(named) if name]
    assert {named[number] for number in told} == set(PATTERNS) and len(told) > 150
    read = read_textures(drawn.large[told])
    assert read == [named[number] for number in told]
    assert torch.allclose(F.avg_pool2d(drawn.large, 2), drawn.small, atol=1e-5)


def test_hybrids_show_a_digit_from_afar_and_a_texture_from_near() -> None:
    """Of most of them the judges read both; their prompts name one of both, each about as often."""
    sample = load_images(sample_uri(), "train")
    digits, labels = sample.images[:200, :, :, 0], sample.labels[:200]
    both = paint(digits, labels, np.random.default_rng(3), kinds=(0, 0, 0, 1), backgrounds=("white",))
    assert torch.allclose(F.avg_pool2d(both.large, 2), both.small, atol=1e-5)
    far = recognise(make_component("low_pass", sigma=AFAR)(both.large)).digits
    assert np.mean([found == label for found, label in zip(far, labels, strict=True)]) > 0.5
    textures = [bool(set(prompt.split()) & {"small", *PATTERNS}) for prompt in both.prompts]
    assert 70 < sum(textures) < 110
    near = read_near_textures(make_component("high_pass", sigma=NEAR)(both.large))
    named = [next((word for word in prompt.split() if word in PATTERNS), None) for prompt in both.prompts]
    assert np.mean([found == name for found, name in zip(near, named, strict=True) if name]) > 0.9


def test_a_paper_with_its_on_is_one_token() -> None:
    tokenizer = build_tokenizer(vocabulary())
    assert tokenizer.tokenize("A white six  on Black") == ["a", "white", "six", "on_black"]
    assert tokenizer.tokenize("red stripes on white") == ["red", "stripes", "on_white"]
    assert tokenizer.unk_token not in tokenizer.tokenize("a photo of a blue 3 on black")
    assert tokenizer.tokenize("a dog on the white") == ["a", tokenizer.unk_token, "on", "the", "white"]
