"""What a row becomes at a stage: whose prompts, which steps, and where the stage's own settings or the row's count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.components import FAMILIES, make_component
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.engine import Engine, Finished
from darkroom.sampling.flow import Flow
from darkroom.sampling.levels import CLEAN
from darkroom.sampling.plans import (
    IDENTITY,
    WHOLE,
    Plan,
    condition_keys,
    goes_through,
    make_plan,
    view_of,
)
from darkroom.sampling.stage import Inputs, Stage
from darkroom.sampling.views import VIEWS, make_view
from toys import CountingPredictor, make_row, signal_and_noise

DIFFUSION, FLOW = Diffusion.cosine(), Flow()
SIZE = 8
FIRST, SECOND = Stage(1, SIZE, 3, DIFFUSION), Stage(2, 16, 3, DIFFUSION, steps=4, guidance=4.0, noise_level=100)
LATENT = Stage(3, 64, 4, Diffusion.linear(prediction="v"), steps=5, guidance=9.0, noise_level=20, factor=4)
VIEWED = [{"view": "flip_vertical", "prompt": "a"}, {"view": "negate", "prompt": "b"}]


def picture(size: int, seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def start_noise(plan: Plan) -> Tensor:
    return torch.from_numpy(noise.normal(plan.seed, plan.stage, noise.START, 0, plan.shape))


def planned(row: dict, stage: Stage = FIRST, **inputs: Tensor) -> Plan:
    return make_plan(row, stage, Inputs({key: torch.zeros(1) for key in condition_keys(row, stage)}, **inputs))


def run(plan: Plan, process: Diffusion | Flow = DIFFUSION, truth: Tensor | None = None) -> Finished:
    engine = Engine(CountingPredictor(process, None, picture(SIZE) if truth is None else truth), 4)
    engine.add(plan)
    (finished,) = engine.run()
    return finished


def test_latents_are_asked_with_the_first_prompt_alone() -> None:
    row = make_row("anagram", views=VIEWED, reduction="alternate", negative_prompt="n")
    plan = planned(row, LATENT, low_res=picture(16))
    assert plan.shape == (4, 16, 16)
    assert [(b.view, b.component, b.prompt, b.negative, b.weight) for b in plan.branches] == [
        (IDENTITY, WHOLE, "a", "n", 1.0)
    ]
    assert condition_keys(row, LATENT) == ["a", "n"] and condition_keys(row) == ["a", "n", "b"]
    assert not plan.alternate
    assert (plan.guidance, len(plan.moves), plan.noise_level) == (9.0, 5, 20)


def test_latents_have_no_pixels_to_hold() -> None:
    row = make_row("inpaint", prompt="a", start=3)
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    plan = planned(row, LATENT, low_res=picture(16), image=picture(64), mask=mask)
    assert plan.constraint is None and plan.reference is None and len(plan.moves) == 5


@pytest.mark.parametrize("noising", [None, Diffusion.linear(beta_start=0.001)])
def test_the_low_resolution_picture_enters_at_the_size_of_the_state(noising: Diffusion | None) -> None:
    stage = Stage(**{**vars(LATENT), "noising": noising})
    plan = planned(make_row("text_to_image", prompt="a"), stage, low_res=picture(16))
    drawn = torch.from_numpy(noise.normal(0, 3, noise.LOWRES, 0, (3, 16, 16)))[None]
    wanted = (noising or LATENT.process).noise(picture(16)[None], torch.tensor([20]), drawn)[0]
    assert torch.equal(plan.extra, wanted)


def test_latents_are_walked_by_the_same_engine() -> None:
    plan = planned(make_row("hybrid", components=[{"component": "whole", "prompt": "a"}]), LATENT, low_res=picture(16))
    truth, seen = picture(16, 5, channels=4), []

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        seen.append(x[:1, 4:])
        signal, spread = signal_and_noise(LATENT.process, t)
        return (signal * x[:, :4] - truth) / spread  # v of a picture that is known

    engine = Engine(CountingPredictor(LATENT.process, predict), 2)
    engine.add(plan)
    assert torch.allclose(engine.run()[0].image, truth, atol=1e-4)
    assert all(torch.equal(low_res[0], plan.extra) for low_res in seen)


def test_a_stages_own_sampler_comes_before_the_rows() -> None:
    row = make_row("text_to_image", prompt="a", sampler="ddim", eta=0.5)
    own = planned(row, Stage(**{**vars(SECOND), "sampler": "ddpm"}), low_res=picture(SIZE))
    follows = planned(row, SECOND, low_res=picture(SIZE))
    assert (own.sampler, own.eta) == ("ddpm", 0.0)
    assert (follows.sampler, follows.eta) == ("ddim", 0.5)


def test_a_row_overrides_what_is_a_stages_own() -> None:
    row = make_row("text_to_image", prompt="a", steps=10, stage2={"steps": 7, "guidance": 2.0, "noise_level": 3})
    first, second = planned(row), planned(row, SECOND, low_res=picture(SIZE))
    assert (len(first.moves), first.guidance) == (10, 7.0)
    assert (len(second.moves), second.guidance, second.noise_level) == (7, 2.0, 3)
    assert not torch.equal(second.extra, planned(make_row("upscale"), SECOND, low_res=picture(SIZE)).extra)
    some = planned(row | {"stage2": {"guidance": 1.0}}, SECOND, low_res=picture(SIZE))
    assert (len(some.moves), some.guidance, some.noise_level) == (4, 1.0, 100)


def test_a_noise_level_that_a_stage_cannot_have() -> None:
    row = make_row("text_to_image", prompt="a", stage2={"noise_level": 150})
    with pytest.raises(ValueError, match="'noise_level' is given for stage 2, which takes none"):
        planned(row, Stage(2, 16, 3, DIFFUSION), low_res=picture(SIZE))
    short = Stage(**{**vars(SECOND), "noising": Diffusion.linear(100)})
    with pytest.raises(ValueError, match="'noise_level' of stage 2 must be below 100; was 150"):
        planned(row, short, low_res=picture(SIZE))


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ({"task": "text_to_image"}, [1, 2]),
        ({"task": "anagram", "size": 8}, [1]),
        ({"task": "hybrid", "size": 64}, [1, 2, 3]),
        ({"task": "upscale", "size": 64}, [2, 3]),
        ({"task": "forward"}, [1]),
        ({"task": "denoise"}, [1]),
    ],
)
def test_which_stages_a_row_goes_through(row: dict, numbers: list[int]) -> None:
    assert [stage.number for stage in (FIRST, SECOND, LATENT) if goes_through(row, stage, 16)] == numbers


@pytest.mark.parametrize(("process", "time"), [(DIFFUSION, 250), (FLOW, 0.75)])
def test_forward_is_the_picture_noised_and_asks_nothing(process: Diffusion | Flow, time: float) -> None:
    row = {"task": "forward", "seed": 4, "timestep": 250}
    plan = planned(row, Stage(1, SIZE, 3, process), image=picture(SIZE))
    finished = run(plan, process)
    wanted = process.noise(picture(SIZE)[None], torch.tensor([time]), start_noise(plan)[None])[0]
    assert torch.equal(finished.image, wanted)
    assert (finished.evaluations, plan.evaluations, condition_keys(row)) == (0, 0, [])


@pytest.mark.parametrize("process", [DIFFUSION, FLOW], ids=lambda process: process.kind)
def test_a_blur_is_the_noised_picture_blurred(process: Diffusion | Flow) -> None:
    row = {"task": "denoise", "seed": 4, "timestep": 250, "method": "blur", "sigma": 3}
    stage = Stage(1, SIZE, 3, process)
    noised = run(planned({"task": "forward", "seed": 4, "timestep": 250}, stage, image=picture(SIZE)), process).image
    finished = run(planned(row, stage, image=picture(SIZE)), process)
    assert torch.equal(finished.image, make_component("low_pass", sigma=3)(noised[None])[0])
    assert finished.evaluations == 0 and condition_keys(row) == []


def denoise(method: str, timestep: int = 750, **more: object) -> dict:
    return make_row("denoise", prompt="a", timestep=timestep, method=method, guidance=1.0, **more)


@pytest.mark.parametrize("process", [DIFFUSION, FLOW], ids=lambda process: process.kind)
def test_one_step_is_one_move_to_the_clean_picture(process: Diffusion | Flow) -> None:
    stage, truth = Stage(1, SIZE, 3, process), picture(SIZE, 9)
    plan = planned(denoise("one_step"), stage, image=picture(SIZE))
    (move,) = plan.moves
    assert (move.t, move.t_next) == ((750, CLEAN) if process is DIFFUSION else (0.25, 1.0))
    finished = run(plan, process, truth)
    assert finished.evaluations == 1
    assert torch.allclose(finished.image, truth, atol=1e-5)


def test_iterative_goes_down_the_schedule() -> None:
    times = [move.t for move in planned(denoise("iterative", 500), image=picture(SIZE)).moves]
    assert times == [500, *range(480, -1, -30)]
    plan = planned(denoise("iterative", 690, steps=10), image=picture(SIZE))
    assert [move.t for move in plan.moves] == [690, 600, 500, 400, 300, 200, 100, 0]
    assert plan.moves[-1].t_next == CLEAN
    assert torch.allclose(run(plan, truth=picture(SIZE, 9)).image, picture(SIZE, 9), atol=1e-4)


@pytest.mark.parametrize("until", [690, 540, 390, 240, 90, 0])
def test_until_is_where_the_whole_walk_comes_by(until: int) -> None:
    """The course's figure: the states of one walk, each a row of its own."""
    whole = planned(denoise("iterative"), image=picture(SIZE))
    place = next(index for index, move in enumerate(whole.moves) if move.t_next == until)
    state = run(Plan(**{**vars(whole), "keep": frozenset({place})})).states[place]
    assert torch.equal(run(planned(denoise("iterative", until=until), image=picture(SIZE))).image, state)


def test_a_flow_counts_thousandths_of_noise() -> None:
    stage = Stage(1, SIZE, 3, FLOW)
    plan = planned(denoise("iterative", 500, steps=10, until=200), stage, image=picture(SIZE))
    assert [round(move.t, 6) for move in plan.moves] == [0.5, 0.6, 0.7]
    assert plan.moves[-1].t_next == pytest.approx(0.8)
    whole = planned(denoise("iterative", 500, steps=10, sampler="heun"), stage, image=picture(SIZE))
    assert len(whole.moves) == 10 and whole.moves[-1].t_next == 1.0
    assert planned(denoise("one_step", 0), stage, image=picture(SIZE)).moves == ()


def test_until_must_be_a_time_the_walk_stands_at() -> None:
    with pytest.raises(ValueError, match="a time of the schedule below 750, the nearest: 540 and 510; was 530"):
        planned(denoise("iterative", until=530), image=picture(SIZE))
    with pytest.raises(ValueError, match="below 0, which has none; was 5"):
        planned(denoise("iterative", 0, until=5), image=picture(SIZE))
    row = denoise("iterative", until=700, stride=30)
    with pytest.raises(ValueError, match=r"the nearest: 705\.88 and 676\.47; was 700"):
        planned(row, Stage(1, SIZE, 3, FLOW), image=picture(SIZE))
    assert len(planned(row | {"until": 705.9}, Stage(1, SIZE, 3, FLOW), image=picture(SIZE)).moves) == 2


def test_a_timestep_the_model_does_not_have() -> None:
    with pytest.raises(ValueError, match="'timestep' must be below 200, the timesteps of the model; was 750"):
        planned(denoise("one_step"), Stage(1, SIZE, 3, Diffusion.linear(200)), image=picture(SIZE))


@pytest.mark.parametrize("family", [family for family in FAMILIES if len(family) > 1], ids=lambda family: family[0])
def test_a_component_means_the_same_content_at_stage_two(family: tuple[str, ...]) -> None:
    """Filters grow with the picture, as in the authors' code: the part of the enlarged is the part, enlarged."""
    smooth = make_component("low_pass", sigma=1)(picture(64)[None])

    def enlarged(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=4, mode="bilinear")

    for name in family:
        found, wanted = make_component(name)(enlarged(smooth)), enlarged(make_component(name)(smooth))
        assert (found - wanted)[:, :, 64:-64, 64:-64].abs().max() < 0.15 * wanted.abs().max(), name


def combinations() -> list[dict]:
    """Every view with every component, a view for each component of a family; views with parameters by mappings."""
    rows = []
    for view in VIEWS:
        seen = {"view": view, "seed": 3} if view in ("jigsaw", "patch_permute", "pixel_permute") else view
        for family in FAMILIES:
            others = [seen, "identity", "rotate_90"]
            parts = [{"component": name, "view": others[i], "prompt": name} for i, name in enumerate(family)]
            rows.append(make_row("hybrid", components=parts, seed=len(rows), steps=3))
    return rows


def assert_all(rows: list[dict], stage: Stage, predict, wanted) -> None:
    engine = Engine(CountingPredictor(DIFFUSION, predict), 32)
    for row in rows:
        engine.add(planned(row, stage, low_res=picture(SIZE)), row)
    finished = engine.run()
    assert len(finished) == len(rows)
    for one in finished:
        assert torch.allclose(one.image, wanted(one.tag), atol=1e-3), one.tag


def anagrams() -> list[dict]:
    """Every view as the second of two, and all as one anagram."""
    every = [{"view": view, "prompt": view} for view in VIEWS]
    pairs = [[every[0], view] for view in every[1:]]
    return [make_row("anagram", views=views, seed=i, steps=3) for i, views in enumerate([*pairs, every[:4], every])]


def test_every_view_and_component_at_the_first_stage() -> None:
    """Grey is grey in every view: a model that always answers grey paints grey, if views are undone and parts sum."""

    def grey(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return x / signal_and_noise(DIFFUSION, t)[1]

    assert_all(combinations() + anagrams(), FIRST, grey, lambda row: torch.zeros(3, SIZE, SIZE))


def test_every_view_and_component_at_the_second_stage() -> None:
    """A model that answers with the low-resolution picture as it sees it paints that picture, upright, if and only if
    the view is put on these channels too."""

    def copy(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        signal, spread = signal_and_noise(DIFFUSION, t)
        return (x[:, :3] - signal * x[:, 3:]) / spread

    assert_all(combinations() + anagrams(), SECOND, copy, lambda row: planned(row, SECOND, low_res=picture(SIZE)).extra)


def test_a_components_view_may_have_parameters() -> None:
    part = {"component": "low_pass", "sigma": 3, "view": {"view": "jigsaw", "seed": 5}, "prompt": "a"}
    assert view_of(part) == make_view("jigsaw", seed=5)
    assert view_of(part | {"view": "jigsaw"}) == make_view("jigsaw")
    assert view_of({"view": "jigsaw", "seed": 2, "prompt": "a"}) == make_view("jigsaw", seed=2)
