"""Guidance that is asked in an interval of the schedule, brought back to the prompt's own deviation, or added again."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.engine import Engine
from darkroom.sampling.flow import Flow
from darkroom.sampling.guidance import rescale
from darkroom.sampling.plans import Plan, condition_keys, make_plan, start_state
from darkroom.sampling.run import walk_plans
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves, outside, with_jumps
from darkroom.sampling.stage import Inputs, Stage
from toys import CountingPredictor, make_row

SIZE = 8
PROCESS = Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5))


def plan_of(stage: Stage | None = None, **row) -> Plan:
    asked = make_row("text_to_image", prompt="a", steps=10, **row)
    conditions = {key: torch.tensor([float(len(key))]) for key in condition_keys(asked)}
    return make_plan(asked, stage or Stage(1, SIZE, 3, PROCESS), Inputs(conditions))


def pictures(*plans: Plan) -> list[Tensor]:
    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        said = condition[:, :1, None, None]
        seen = torch.tanh(x + x * said) + said
        return torch.cat([seen, x * 0.25], dim=1)

    engine = Engine(CountingPredictor(PROCESS, predict), capacity=5)
    for tag, plan in enumerate(plans):
        engine.add(plan, tag)
    return [finished.image for finished in sorted(engine.run(), key=lambda finished: finished.tag)]


@pytest.mark.parametrize(
    ("begin", "end", "asked"),
    [(0.0, 1.0, range(10)), (0.2, 0.8, range(2, 8)), (0.0, 0.05, ()), (0.5, 1.0, range(5, 10)), (1.0, 1.0, ())],
)
def test_an_interval_is_a_share_of_the_schedule(begin, end, asked):
    plan = plan_of(guidance_interval=[begin, end])
    assert [len(plan.questions(move)) for move in range(10)] == [1 + (move in asked) for move in range(10)]
    assert plan.evaluations == 10 + len(asked)


def test_a_stage_has_an_interval_of_its_own_for_rows_that_name_none():
    stage = Stage(1, SIZE, 3, PROCESS, guidance_interval=(0.0, 0.8))
    assert [len(plan_of(stage).questions(move)) for move in range(10)] == 8 * [2] + 2 * [1]
    assert plan_of(stage, guidance_interval=[0.0, 1.0]).unguided == frozenset()


def test_moves_that_are_made_again_or_twice_have_one_place():
    again = with_jumps(diffusion_moves([40, 30, 20, 10, 0]), jump=2, times=2)
    outer = {again[index].t for index in outside(again, 0.2, 0.6) if again[index].kind == "denoise"}
    assert outer == {40, 10, 0}
    assert outside(flow_moves([0.0, 0.5, 1.0], "heun"), 0.5, 1.0) == {0, 1}
    assert outside((Move(20, 10), Move(10, -1)), 0.0, 1.0) == frozenset()


def test_an_empty_interval_is_no_guidance_and_a_whole_one_changes_nothing():
    """To the bit, and whatever is beside it in the pass."""
    empty, none = plan_of(guidance_interval=[0.0, 0.0]), plan_of(guidance=1.0)
    whole, usual = plan_of(guidance_interval=[0.0, 1.0]), plan_of()
    half = plan_of(guidance_interval=[0.3, 0.6], guidance_rescale=0.7)
    calmed = plan_of(guidance=1.0, guidance_rescale=0.7)
    found = pictures(empty, none, whole, usual, half, calmed)
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3]) and torch.equal(found[5], found[1])
    assert not torch.equal(found[4], found[3]) and not torch.equal(found[4], found[1])
    for plan, picture in zip((empty, whole, half), (found[0], found[2], found[4]), strict=True):
        assert torch.equal(pictures(plan)[0], picture)


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescale_is_that_of_diffusers(phi):
    conditional, guided = torch.randn(2, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 + 0.3
    ours = rescale(guided, conditional, torch.full((4, 1, 1, 1), phi))
    torch.testing.assert_close(ours, rescale_noise_cfg(guided, conditional, phi), rtol=0, atol=1e-6)
    alone = [rescale(guided[i : i + 1], conditional[i : i + 1], torch.full((1, 1, 1, 1), phi)) for i in range(4)]
    assert torch.equal(ours, torch.cat(alone))


def test_a_stage_with_guidance_of_its_own_does_not_follow_the_rows():
    own = plan_of(Stage(2, SIZE, 3, PROCESS, guidance=4.0), guidance_interval=[0.0, 0.0], guidance_rescale=0.5)
    assert own.evaluations == 20 and own.guidance_rescale == 0.0


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"reuse": 1}, range(10)),
        ({"reuse": 3}, (0, 3, 6, 9)),
        ({"reuse": 10}, (0,)),
        ({"reuse": 2, "guidance_interval": [0.3, 0.8]}, (3, 5, 7)),
        ({"reuse": 2, "guidance": 1.0}, ()),
    ],
)
def test_the_negative_is_asked_at_the_first_of_so_many_guided_moves(row, asked):
    plan = plan_of(**row)
    assert [len(plan.questions(move)) for move in range(10)] == [1 + (move in asked) for move in range(10)]
    assert plan.evaluations == 10 + len(asked)


def test_what_guidance_added_last_is_added_again():
    """The same as a loop written out, with the first of three moves asked both questions."""
    process, asked = Flow(), []
    plan = plan_of(Stage(1, SIZE, 3, process), reuse=3, guidance=4.0, negative_prompt="other")

    def velocity(x: Tensor, condition: Tensor | float) -> Tensor:
        return torch.tanh(x * condition)

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        asked.extend(condition[:, 0].tolist())
        return velocity(x, condition[:, :1, None, None])

    (found,) = walk_plans(CountingPredictor(process, predict), [plan], capacity=1)
    x = start_state(plan, process)
    for number in range(10):
        conditional = velocity(x, len("a"))
        if number % 3 == 0:
            added = conditional - velocity(x, len("other"))
        x = x + (conditional + 3 * added) / 10
    torch.testing.assert_close(found.image, x, rtol=0, atol=1e-5)
    assert sorted(asked) == [len("a")] * 10 + [len("other")] * 4


def test_a_row_that_reuses_is_the_same_in_every_company():
    """To the bit, with a learned variance, which is the prompt's own at every move."""
    plans = [plan_of(reuse=2), plan_of(reuse=4, guidance_rescale=0.5, seed=1), plan_of(seed=2), plan_of(reuse=10)]
    found = pictures(*plans)
    for plan, picture in zip(plans, found, strict=True):
        assert torch.equal(pictures(plan)[0], picture)
    assert not any(torch.equal(found[0], other) for other in (found[3], pictures(plan_of())[0]))
