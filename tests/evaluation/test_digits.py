from __future__ import annotations

import numpy as np
import pytest
import torch

from darkroom.evaluation.digits import NOTHING, judge, recognise
from darkroom.models.painted_ink import COLOURS, as_digits
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_digits import paint


@pytest.fixture(scope="module")
def painted() -> tuple[dict[int, torch.Tensor], list[int], list[str], list[str]]:
    """Test digits painted as the model's training pictures are, by size, with what their prompts ask for: a paper of ""
    where they do not say."""
    sample = load_images(sample_uri(), "test")
    painting = paint(sample.images[..., 0], sample.labels, np.random.default_rng(5), kinds=(1, 0, 0))
    asked = [[word for word in prompt.split() if word in COLOURS] for prompt in painting.prompts]
    kept = [i for i, words in enumerate(asked) if words]
    pictures = {24: painting.small[kept], 48: painting.large[kept]}
    papers = [painting.prompts[i].partition(" on ")[2] for i in kept]
    return pictures, [int(sample.labels[i]) for i in kept], [asked[i][0] for i in kept], papers


@pytest.mark.parametrize("size", [24, 48])
def test_real_digits_are_recognised(painted, size: int) -> None:
    pictures, digits, colours, papers = painted
    quality = judge(pictures[size], digits, colours, papers)
    assert quality.count == len(digits) > 600
    assert quality.digit_accuracy >= 0.99
    assert quality.colour_accuracy >= 0.99
    assert quality.paper_accuracy == 1.0 and set(quality.per_paper) == {"white", "black"}
    assert set(quality.per_colour) == set(COLOURS)


def test_other_wishes_are_not_met(painted) -> None:
    pictures, digits, colours, papers = painted
    names = list(COLOURS)
    other = {"white": "black", "black": "white", "": ""}
    quality = judge(
        pictures[24],
        [(d + 1) % 10 for d in digits],
        [names[(names.index(c) + 1) % len(names)] for c in colours],
        [other[paper] for paper in papers],
    )
    assert quality.digit_accuracy <= 0.01 and quality.colour_accuracy <= 0.01 and quality.paper_accuracy == 0


def test_shares_are_counted_by_what_was_asked(painted) -> None:
    pictures, digits, colours, _ = painted
    seen = recognise(pictures[24][:4])
    assert seen.digits == digits[:4] and seen.colours == colours[:4]
    wrong = (digits[3] + 1) % 10
    four = torch.cat([pictures[24][:1]] * 4)
    other = "white" if seen.papers[0] == "black" else "black"
    quality = judge(four, [digits[0]] * 3 + [wrong], [colours[0]] * 4, ["", other, seen.papers[0], seen.papers[0]])
    assert (quality.digit_accuracy, quality.colour_accuracy, quality.paper_accuracy) == (0.75, 1.0, 2 / 3)
    assert quality.per_paper == {other: 0.0, seen.papers[0]: 1.0} and quality.worst["paper"] == other
    assert sorted(quality.per_digit.values()) == [0.0, 1.0]
    assert quality.per_digit[quality.worst["digit"]] == 0.0


def test_tinted_and_noisy_paper_does_not_hide_the_digit(painted) -> None:
    pictures, digits, colours, papers = painted
    generator = torch.Generator().manual_seed(0)
    spoiled = pictures[24] * 0.85 + 0.08 * torch.randn(pictures[24].shape, generator=generator)
    quality = judge(spoiled, digits, colours, papers)
    assert quality.digit_accuracy >= 0.97 and quality.paper_accuracy == 1.0


def test_a_blank_picture_shows_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    blank = torch.stack([torch.ones(3, 24, 24), -torch.ones(3, 24, 24)])
    seen = recognise(blank + 0.01 * torch.randn(blank.shape, generator=generator))
    assert seen.digits == [NOTHING, NOTHING] and seen.colours == ["", ""]
    assert seen.papers == ["white", "black"]
    quality = judge(blank, [1, 1], ["white", "black"], ["", ""])
    assert (quality.colour_accuracy, quality.paper_accuracy, "paper" in quality.worst) == (0, None, False)


def test_the_frame_of_mnist_is_put_back() -> None:
    ink = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    framed = as_digits(ink)
    assert framed.shape == (2, 1, 28, 28) and torch.equal(framed[:, :, 2:26, 2:26], ink)
    assert not framed[:, :, :2].any() and not framed[:, :, :, 26:].any()
    torch.testing.assert_close(as_digits(ink.repeat_interleave(2, 2).repeat_interleave(2, 3)), framed)


def test_what_cannot_be_judged_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="pictures of 24 x 24 or 48 x 48 can be judged, not of 64 x 64"):
        recognise(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="2 pictures, 1 digits, 2 colours and 2 papers"):
        judge(torch.zeros(2, 3, 24, 24), [1], ["red", "red"], ["", ""])
