"""The engine against the equations of two papers written out as plain loops, at stages I and II."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from darkroom.models.predictors import UNetPredictor
from darkroom.sampling import noise
from darkroom.sampling.stage import Stage
from parity import (
    LARGE,
    SEED,
    SIZE,
    STEPS,
    assert_same,
    developed,
    embedding,
    enlarged,
    injected,
    picture,
    plan_of,
    scheduler,
)
from toys import make_row, tiny_unet


class Papers:
    """What the two papers' loops need of a stage: its model, asked with guidance, and at stage II the low-resolution
    picture, noised, as more channels; a view acts on them too."""

    def __init__(self, number: int, predictor: UNetPredictor, guidance: float) -> None:
        self.number, self.predictor, self.guidance = number, predictor, guidance
        self.size = predictor.unet.config.sample_size
        self.more = torch.empty(1, 0, self.size, self.size)
        if number == 2:
            drawn = torch.from_numpy(noise.normal(SEED, 2, noise.LOWRES, 0, (3, LARGE, LARGE)))
            self.more = scheduler().add_noise(enlarged(picture(SIZE))[None], drawn[None], torch.tensor([250]))

    def stage(self) -> Stage:
        own = {"steps": STEPS, "guidance": self.guidance, "noise_level": 250} if self.number == 2 else {}
        return Stage(self.number, self.size, 3, self.predictor.process, **own)

    def developed(self, row: dict) -> Tensor:
        given = {"low_res": picture(SIZE)} if self.number == 2 else {}
        return developed(self.predictor, plan_of(row, self.stage(), **given))

    def guided(self, x: Tensor, t: Tensor, prompt: str, turn: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """u + gamma (c - u) of the turned state, with the conditional answer's variance; [1, 6, S, S]."""
        both = torch.stack([embedding(""), embedding(prompt)])
        seen = turn(torch.cat([x, self.more], dim=1)).expand(2, -1, -1, -1)
        level = {"class_labels": torch.tensor([250, 250])} if self.number == 2 else {}
        unconditional, conditional = self.predictor.unet(seen, t, encoder_hidden_states=both, **level).sample.split(1)
        epsilon = unconditional[:, :3] + self.guidance * (conditional[:, :3] - unconditional[:, :3])
        return torch.cat([epsilon, conditional[:, 3:]], dim=1)

    @torch.no_grad()
    def walk(self, predict: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A row at a time, with diffusers' scheduler."""
        steps = scheduler()
        steps.set_timesteps(STEPS)
        x = torch.from_numpy(noise.normal(SEED, self.number, noise.START, 0, (3, self.size, self.size)))[None]
        for t in steps.timesteps:
            x = steps.step(predict(x, t), t, x).prev_sample
        return x[0]


@pytest.fixture(params=[1, 2], ids=["stage I", "stage II"])
def papers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Papers:
    injected(monkeypatch, request.param)
    unet = tiny_unet(SIZE) if request.param == 1 else tiny_unet(LARGE, super_resolution=True, seed=2)
    return Papers(request.param, unet, 7.0 if request.param == 1 else 4.0)


@pytest.mark.parametrize(
    ("name", "there", "back"),
    [
        ("rotate_180", lambda x: x.rot90(2, (-2, -1)), lambda x: x.rot90(2, (-2, -1))),
        ("rotate_90", lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))),
        ("flip_vertical", lambda x: x.flip(-2), lambda x: x.flip(-2)),
    ],
    ids=["rotate_180", "rotate_90", "flip_vertical"],
)
def test_an_anagram_is_the_papers_equation(papers, name, there, back):
    """Visual Anagrams, arXiv 2311.17919: epsilon is the mean over i of v_i^-1(epsilon(v_i(x_t), y_i, t)); the learned
    variances are turned back and averaged likewise, as in the authors' code."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([papers.guided(x, t, "six"), back(papers.guided(x, t, "nine", there))]).mean(0)

    parts = [{"view": "identity", "prompt": "six"}, {"view": name, "prompt": "nine"}]
    row = make_row("anagram", views=parts, seed=SEED, steps=STEPS)
    assert_same(papers.developed(row), papers.walk(predict))


def test_a_negative_is_the_papers_equation(papers):
    """The same with a view that is no permutation: pixels, the low-resolution ones too, and epsilon change their sign,
    variances do not."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        plain, negated = papers.guided(x, t, "day"), papers.guided(x, t, "night", torch.neg)
        return torch.cat([plain[:, :3] - negated[:, :3], plain[:, 3:] + negated[:, 3:]], dim=1) / 2

    parts = [{"view": "identity", "prompt": "day"}, {"view": "negate", "prompt": "night"}]
    row = make_row("anagram", views=parts, seed=SEED, steps=STEPS)
    assert_same(papers.developed(row), papers.walk(predict))


def test_a_hybrid_is_the_papers_equation(papers):
    """Factorized Diffusion, arXiv 2404.11615: epsilon is the sum over i of f_i(epsilon(x_t, y_i, t)); variances are no
    component's business, and are averaged."""

    def low(x: Tensor) -> Tensor:
        return gaussian_blur(x, 33 * papers.size // 64 | 1, 2.0 * papers.size / 64)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        near, near_variance = papers.guided(x, t, "near").chunk(2, dim=1)
        far, far_variance = papers.guided(x, t, "far").chunk(2, dim=1)
        return torch.cat([low(far) + near - low(near), (near_variance + far_variance) / 2], dim=1)

    parts = [{"component": "low_pass", "prompt": "far"}, {"component": "high_pass", "prompt": "near"}]
    row = make_row("hybrid", components=parts, seed=SEED, steps=STEPS)
    assert_same(papers.developed(row), papers.walk(predict))


def test_an_inverse_hybrid_is_the_papers_projection(papers):
    """Factorized Diffusion, on inverse problems: after a step x <- f_held(q(x_ref, t')) + sum of the other f_i(x)."""
    given = picture(papers.size, seed=9)
    steps = scheduler()
    steps.set_timesteps(STEPS)
    later = dict(zip(steps.timesteps.tolist(), [*steps.timesteps.tolist()[1:], -1], strict=True))

    def grey(x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand(-1, 3, -1, -1)

    def held(x: Tensor, t: int) -> Tensor:
        if later[t] < 0:
            return grey(given[None]) + x - grey(x)
        drawn = noise.normal(SEED, papers.number, noise.KNOWN, list(later).index(t), tuple(given.shape))
        known = steps.add_noise(given[None], torch.from_numpy(drawn)[None], torch.tensor([later[t]]))
        return grey(known) + x - grey(x)

    x = torch.from_numpy(noise.normal(SEED, papers.number, noise.START, 0, tuple(given.shape)))[None]
    with torch.no_grad():
        for t in steps.timesteps:
            x = held(steps.step(papers.guided(x, t, "colours"), t, x).prev_sample, t.item())
    parts = [{"component": "color", "prompt": "colours"}, {"component": "grayscale", "image": "given.png"}]
    row = make_row("hybrid", components=parts, seed=SEED, steps=STEPS, guidance=papers.guidance)
    low_res = {"low_res": picture(SIZE)} if papers.number == 2 else {}
    plan = plan_of(row, papers.stage(), given=given, **low_res)
    assert_same(developed(papers.predictor, plan), x[0])
