from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from darkroom.evaluation.digits import NOTHING
from darkroom.evaluation.scenes import SceneWish, balanced_scenes, judge_scenes, see
from darkroom.models.painted_ink import COLOURS, PAPERS, boxes, fitted
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import KINDS, World, paint


@pytest.fixture(scope="module")
def painted() -> tuple[torch.Tensor, list[SceneWish]]:
    """Test digits painted as the model's training pictures are, with wishes that ask for just that."""
    sample = load_images(sample_uri(), "test")
    painting = paint(World(sample.images[..., 0], sample.labels), 400, np.random.default_rng(3))
    wishes = [
        SceneWish(s.kind, tuple(d.digit for d in s.digits), tuple(d.colour for d in s.digits), s.paper, 0)
        for s in painting.scenes
    ]
    return painting.pictures, wishes


def test_real_scenes_are_recognised(painted) -> None:
    quality = judge_scenes(*painted)
    assert quality.digit_accuracy >= 0.985 and quality.colour_accuracy >= 0.99
    assert quality.paper_accuracy == 1 and quality.place_accuracy >= 0.98
    assert set(quality.by_kind) == {kind or "plain" for kind in KINDS}


def test_other_wishes_are_not_met(painted) -> None:
    pictures, wishes = painted
    single = [row for row, wish in enumerate(wishes) if wish.kind != "pair"]
    names, papers = list(COLOURS), list(PAPERS)
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "large": "small", "small": "large"}
    others = [
        SceneWish(
            opposite.get(wish.kind, ""),
            ((wish.digits[0] + 1) % 10,),
            (names[(names.index(wish.colours[0]) + 1) % 8],),
            papers[(papers.index(wish.paper) + 1) % 4],
            0,
        )
        for wish in (wishes[row] for row in single)
    ]
    quality = judge_scenes(pictures[single], others)
    assert max(quality.digit_accuracy, quality.colour_accuracy, quality.paper_accuracy) <= 0.01
    assert quality.place_accuracy <= 0.02


def test_a_pair_the_wrong_way_round_is_wrong(painted) -> None:
    pictures, wishes = painted
    pairs = [row for row, wish in enumerate(wishes) if wish.kind == "pair" and wish.digits[0] != wish.digits[1]]
    turned = [
        SceneWish("pair", wishes[row].digits[::-1], wishes[row].colours[::-1], wishes[row].paper, 0) for row in pairs
    ]
    assert judge_scenes(pictures[pairs], turned).digit_accuracy <= 0.05


def test_nothing_is_seen_on_plain_paper() -> None:
    seen = see(torch.ones(1, 3, 48, 48))
    assert seen.digits == [NOTHING] and seen.colours == [""] and not seen.boxes.any()
    quality = judge_scenes(torch.ones(1, 3, 48, 48), [SceneWish("small", (1,), ("red",), "white", 0)])
    assert (quality.digit_accuracy, quality.place_accuracy, quality.paper_accuracy) == (0, 0, 1)


def test_a_box_is_where_the_ink_is() -> None:
    sheet = torch.zeros(2, 1, 48, 48)
    sheet[0, 0, 5:15, 20:23] = 1
    sheet[0, 0, 40, 40] = 0.4
    assert boxes(sheet).tolist() == [[20, 5, 23, 15], [0, 0, 0, 0]]
    framed = fitted(sheet, boxes(sheet))
    assert framed.shape == (2, 1, 28, 28) and not framed[1].any()
    assert boxes(framed)[0].tolist() == [11, 4, 17, 24]  # 6 x 20 pixels, in the middle


def test_wishes_are_balanced_and_say_what_they_ask() -> None:
    wishes = balanced_scenes(640, seed=5)
    assert set(Counter(wish.kind for wish in wishes).values()) == {80}
    assert set(Counter(wish.digits[0] for wish in wishes).values()) == {64}
    assert [wish.seed for wish in wishes[:3]] == [5, 6, 7]
    assert all(wish.paper not in wish.colours for wish in wishes)
    assert len({(wish.kind, wish.digits, wish.colours, wish.paper) for wish in wishes}) > 500
    assert wishes[2].prompt == "a small red zero on white"
    assert wishes[3].prompt == "a red zero on the left on white"
    assert wishes[7].prompt == "a red zero and a cyan four on white"
    assert replace(wishes[3], paper="").prompt == "a red zero on the left", "any paper"


def test_what_cannot_be_judged_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="1 pictures of 48 x 48 can be judged"):
        judge_scenes(torch.zeros(1, 3, 64, 64), balanced_scenes(1))
