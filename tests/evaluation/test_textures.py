from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.evaluation.cascade import sample_and_judge
from darkroom.evaluation.illusions import NEAR
from darkroom.evaluation.textures import (
    SMALL,
    TEXTURES,
    TextureWish,
    balanced_textures,
    judge_textures,
    read_near_textures,
    sample_textures,
)
from darkroom.models.painted_ink import COLOURS, PATTERNS
from darkroom.report.cascade import texture_sheet, write_cascade_evaluation
from darkroom.sampling.components import make_component
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_digits import Painting, paint


def painted(count: int = 300) -> tuple[Painting, list[TextureWish]]:
    """Real small digits and patterns whose prompts name all there is to name, and these as wishes."""
    sample = load_images(sample_uri(), "test")
    digits = np.resize(sample.images[:, :, :, 0], (count, 28, 28)), np.resize(sample.labels, count)
    both = paint(*digits, np.random.default_rng(5), kinds=(0, 0.5, 0.5))
    named = [number for number, prompt in enumerate(both.prompts) if " on " in prompt]
    wishes = []
    for number in named:
        *small, colour, name, _, paper = both.prompts[number].split()
        wishes.append(TextureWish(" ".join([*small, name]), colour, paper, 0))
    assert [wish.prompt for wish in wishes] == [both.prompts[number] for number in named]
    return Painting(both.small[named], both.large[named], both.prompts), wishes


def test_real_textures_are_read_at_both_sizes() -> None:
    both, wishes = painted()
    for pictures, least in ((both.small, 0.93), (both.large, 0.98)):  # of small digits, of 8 pixels each and of 16
        quality = judge_textures(pictures, wishes)
        assert quality.count == len(wishes) > 150 and set(quality.per_texture) == set(TEXTURES)
        assert quality.pattern_accuracy == 1 and quality.small_accuracy > least and quality.colour_accuracy > 0.98


def test_what_is_something_else_is_not_read_as_asked() -> None:
    """Every wish held against its neighbour's picture: hardly any is found, and of colours those alike by chance."""
    both, wishes = painted()
    quality = judge_textures(both.large.roll(1, dims=0), wishes)
    assert quality.texture_accuracy < 0.35 and quality.colour_accuracy < 0.25
    with pytest.raises(ValueError, match="pictures of 24 x 24 or 48 x 48 can be judged, not of 32 x 32"):
        judge_textures(torch.zeros(1, 3, 32, 32), wishes[:1])
    with pytest.raises(ValueError, match="2 pictures of 1 textures cannot be judged"):
        judge_textures(both.small[:2], wishes[:1])


def test_without_their_low_frequencies_they_are_still_read() -> None:
    both, wishes = painted()
    found = read_near_textures(make_component("high_pass", sigma=NEAR)(both.large))
    assert np.mean([name == wish.texture for name, wish in zip(found, wishes, strict=True)]) > 0.95


def test_wishes_are_every_texture_in_every_colour() -> None:
    wishes = balanced_textures(520, seed=3)
    assert {wish.texture for wish in wishes} == set(TEXTURES) and {wish.colour for wish in wishes} == set(COLOURS)
    assert all(wish.paper != wish.colour for wish in wishes) and {w.paper for w in wishes} == {"white", "black"}
    assert [wish.seed for wish in wishes] == list(range(3, 523))
    assert [wishes.count(wish) for wish in wishes] == [1] * 520
    counts = [sum(wish.texture == name for wish in wishes) for name in (*PATTERNS, *SMALL)]
    assert counts[:3] == [87, 87, 86] and counts[3:] == [26] * 10
    assert balanced_textures(2)[1].prompt == "small red zeros on white"


def test_a_cascades_textures_are_sampled_read_and_shown(untrained_cascade: Path, tmp_path: Path) -> None:
    evaluation = sample_and_judge(str(untrained_cascade), count=1, stride=500, guidance=1.0)
    found = sample_textures(str(untrained_cascade), 4, evaluation.settings)
    assert [pictures.shape for pictures in found.pictures] == [(4, 3, 24, 24), (4, 3, 48, 48)]
    assert "\n24 px, 4 textures: " in write_cascade_evaluation(evaluation, str(tmp_path), textures=found)
    assert json.loads((tmp_path / "quality.json").read_text())["textures"]["48"]["count"] == 4
    assert "textures.png" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "textures.png").read_bytes() == texture_sheet(found)
    with pytest.raises(ValueError, match="wanted some textures, got 0"):
        sample_textures(str(untrained_cascade), 0, evaluation.settings)
