"""Selection on answers that can be written down: scorers that are functions of the picture's mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from darkroom.batch.scoring import Candidate, Score, choose, of_matrix, prompts, record, score, seeds, views
from darkroom.sampling.components import make_component
from toys import make_row

SIZE = 16


class Known:
    """A scorer whose answers are given: the likeness of each prompt's picture, by its upper left pixel."""

    name, revision, temperature = "known", "0123456789abcdef", 0.5

    def __init__(self, likeness: dict[str, float]) -> None:
        self.likeness = likeness

    def __call__(self, images: Tensor, asked: list[str]) -> Tensor:
        corner = images[:, 0, 0, 0]
        return torch.stack([1 - (corner - self.likeness[prompt]).abs() for prompt in asked], dim=1)


def picture(seed: int = 0) -> Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def anagram(**more) -> dict:
    parts = [{"view": "identity", "prompt": "up"}, {"view": "flip_vertical", "prompt": "down"}]
    return make_row("anagram", views=parts, **more)


def test_a_view_is_judged_by_its_own_prompt():
    image = torch.zeros(3, SIZE, SIZE)
    image[:, 0, 0], image[:, -1, 0] = 0.25, -0.5
    found = score(anagram(), image, Known({"up": 0.25, "down": 0.0}))
    assert found.matrix == ((1.0, 0.75), (0.25, 0.5)) and found.alignment == 0.5


def test_concealment_is_the_mean_of_both_softmaxes_diagonals():
    found = of_matrix(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), temperature=0.5)

    def told(right: float, wrong: float) -> float:
        return 1 / (1 + math.exp((wrong - right) / 0.5))

    over_prompts = (told(1.0, 0.0) + told(0.5, 0.5)) / 2
    over_views = (told(1.0, 0.5) + told(0.5, 0.0)) / 2
    assert found.concealment == pytest.approx((over_prompts + over_views) / 2, abs=1e-6)
    assert found.alignment == 0.5


@pytest.mark.parametrize("count", [2, 3, 4])
def test_views_that_cannot_be_told_apart_conceal_nothing_and_certain_ones_all(count):
    assert of_matrix(torch.full((count, count), 0.3), 0.01).concealment == pytest.approx(1 / count, abs=1e-6)
    assert of_matrix(torch.eye(count), 0.01).concealment == pytest.approx(1.0)
    assert of_matrix(torch.eye(count).roll(1, 0), 0.01).concealment == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("task", ["text_to_image", "image_to_image", "inpaint", "upscale"])
def test_a_row_of_one_prompt_is_one_by_one_and_conceals_nothing(task):
    row = make_row(task, prompt="a")
    assert torch.equal(views(row, picture()), picture()[None])
    assert score(row, picture(), Known({"a": picture()[0, 0, 0].item()})) == Score(((1.0,),), 1.0, None)


def test_labels_are_prompts_and_a_row_that_asks_nothing_has_none():
    assert prompts(make_row("text_to_image", label=0)) == ["label 0"]
    assert prompts(make_row("text_to_image", prompt="")) == prompts(make_row("forward")) == []
    with pytest.raises(ValueError, match="no prompt"):
        score(make_row("text_to_image", prompt=""), picture(), Known({}))


def hybrid(*parts: dict) -> dict:
    return make_row("hybrid", components=[dict(part) for part in parts])


def test_components_are_judged_as_a_viewer_meets_them():
    x, band = picture()[None], {"fine": 1.0, "coarse": 4.0}
    row = hybrid(*({"component": f"{name}_band", "prompt": name, **band} for name in ("low", "middle", "high")))
    low, middle, high = views(row, x[0]).split(1)
    assert torch.equal(low, make_component("low_band", **band)(x)) and torch.equal(high, x)
    blurred_finely = make_component("low_band", **band)(x) + make_component("middle_band", **band)(x)
    assert torch.allclose(middle, blurred_finely, atol=1e-6)
    assert prompts(row) == ["low", "middle", "high"]


@pytest.mark.parametrize(
    ("changed", "whole"), [("low_pass", "high_pass"), ("grayscale", "color"), ("motion", "motion_residual")]
)
def test_of_two_components_one_is_the_picture_itself(changed, whole):
    row = hybrid({"component": changed, "prompt": "a"}, {"component": whole, "prompt": "b"})
    seen = views(row, picture())
    assert torch.equal(seen[0], make_component(changed)(picture()[None])[0]) and torch.equal(seen[1], picture())


def test_a_component_with_a_view_is_seen_through_it_and_a_held_one_is_not_judged():
    row = hybrid(
        {"component": "low_pass", "prompt": "far", "view": "rotate_180", "sigma": 3.0},
        {"component": "high_pass", "image": "x.png", "sigma": 3.0},
    )
    blurred = make_component("low_pass", sigma=3.0)(picture()[None])
    assert torch.equal(views(row, picture()), blurred.rot90(2, (2, 3))) and prompts(row) == ["far"]
    row = hybrid({"component": "whole", "prompt": "a", "view": {"view": "jigsaw", "seed": 3}})
    assert not torch.equal(views(row, picture())[0], picture())


def candidate(seed: int, alignment: float) -> Candidate:
    return Candidate(seed, Score(((alignment,),), alignment, None))


def test_the_best_aligned_is_chosen_and_of_equals_the_least_seed():
    drawn = [candidate(9, 0.5), candidate(7, 0.7), candidate(8, 0.7), candidate(6, -1.0)]
    assert choose(drawn) == choose(drawn[::-1]) == drawn[1]


def test_seeds_are_the_rows_and_those_that_follow():
    assert seeds(anagram(seed=5) | {"best_of": 3}) == [5, 6, 7]
    assert seeds(anagram(seed=5)) == [5]


def test_the_record_holds_all_scores_in_order_of_seeds():
    final = of_matrix(torch.tensor([[0.5, 0.25], [0.125, 0.75]]), 1.0)
    drawn = [candidate(2, 0.25), candidate(1, 0.5)]
    found = record(Known({}), final, drawn)
    assert found["matrix"] == [[0.5, 0.25], [0.125, 0.75]] and (found["alignment"], found["chosen_seed"]) == (0.5, 1)
    assert found["scorer"] == "known" and found["revision"] == "0123456789abcdef"
    assert [one["seed"] for one in found["candidates"]] == [1, 2]
    assert "candidates" not in record(Known({}), final, drawn[:1]) and "chosen_seed" not in record(Known({}), final)


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="the scorer gave"):
        score(anagram(), picture(), Known({"up": math.nan, "down": 0.0}))
