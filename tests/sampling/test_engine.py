"""The engine against answers one can write down, and its promises: full passes, rows that mind only themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from darkroom.sampling import noise
from darkroom.sampling.buckets import Buckets
from darkroom.sampling.device import Arrival
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.engine import Engine, Failed, Finished, ModelBroken
from darkroom.sampling.flow import Flow
from darkroom.sampling.packing import Packing, Slot
from darkroom.sampling.plans import Constraint, Plan, condition_keys, make_plan
from darkroom.sampling.schedules import SAMPLERS
from darkroom.sampling.stage import Inputs, Stage
from darkroom.sampling.views import make_view
from toys import SHORTAGES, CountingPredictor, make_row, signal_and_noise, tiny_unet

SIZE = 24


@pytest.fixture(scope="module")
def unet():
    return tiny_unet(SIZE)


def plan_of(row: dict, process, *, size: int = SIZE, image=None, mask=None, given=None) -> Plan:
    stage = Stage(1, size, 3, process)
    conditions = {key: embedding(key) for key in condition_keys(row)}
    return make_plan(row, stage, Inputs(conditions, image=image, mask=mask, given=given))


def embedding(text: str) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(list(text.encode())).standard_normal((4, 32), np.float32))


def picture(seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (3, size, size)).astype(np.float32))


def half_mask(size: int = SIZE) -> torch.Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, :, size // 2 :] = True
    return mask


def develop(predictor, plans: list[Plan], capacity: int = 8) -> dict[int, torch.Tensor]:
    engine = Engine(predictor, capacity)
    for tag, plan in enumerate(plans):
        engine.add(plan, tag)
    return {finished.tag: finished.image for finished in engine.run()}


def mixed_rows() -> list[tuple[dict, dict]]:
    """One of every kind, with what it needs."""
    flip = [{"view": "identity", "prompt": "six"}, {"view": "rotate_180", "prompt": "nine"}]
    bands = [{"component": "low_pass", "prompt": "near"}, {"component": "high_pass", "prompt": "far"}]
    held = [{"component": "low_pass", "prompt": "near"}, {"component": "high_pass", "image": "x.png"}]
    return [
        (make_row("text_to_image", prompt="a", seed=1, steps=5), {}),
        (make_row("text_to_image", prompt="a", seed=2, steps=3, guidance=1.0), {}),
        (make_row("text_to_image", prompt="b", seed=3, steps=4, sampler="ddim", eta=0.5), {}),
        (make_row("image_to_image", prompt="a", seed=4, steps=6, start=2), {"image": picture(1)}),
        (make_row("inpaint", prompt="b", seed=5, steps=5, resample={"jump": 2, "times": 2}),
         {"image": picture(2), "mask": half_mask()}),
        (make_row("anagram", views=flip, seed=6, steps=4), {}),
        (make_row("anagram", views=flip, seed=7, steps=4, reduction="alternate"), {}),
        (make_row("hybrid", components=bands, seed=8, steps=5), {}),
        (make_row("hybrid", components=held, seed=9, steps=4), {"given": picture(3)}),
    ]  # fmt: skip


def test_a_row_has_the_same_bits_alone_and_among_others(unet):
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in mixed_rows()]
    together = develop(unet, plans)
    for tag, plan in enumerate(plans):
        alone = develop(unet, [plan])[0]
        assert torch.equal(alone, together[tag]), f"row {tag} ({mixed_rows()[tag][0]['task']})"


def test_rows_of_every_solver_have_the_same_bits_alone_and_among_others(unet):
    """At whole times and between them, on Karras' levels, from a picture, and noised anew on their way."""
    asked: list[tuple[dict, dict]] = [
        (make_row("text_to_image", prompt="a", seed=seed, steps=4, sampler=sampler, guidance=1.0), {})
        for seed, sampler in enumerate(SAMPLERS["diffusion"])
    ]
    asked += [
        (make_row("text_to_image", prompt="b", seed=8, steps=4, sampler="unipc", karras=True), {}),
        (make_row("image_to_image", prompt="a", seed=9, steps=5, start=2, sampler="pndm"), {"image": picture(1)}),
        (make_row("inpaint", prompt="b", seed=10, steps=3, resample={"jump": 1, "times": 2}, sampler="dpmpp_2m",
                  karras=True),
         {"image": picture(2), "mask": half_mask()}),
    ]  # fmt: skip
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in asked]
    together = develop(unet, plans)
    assert all(torch.isfinite(image).all() for image in together.values())
    for tag, plan in enumerate(plans):
        assert torch.equal(develop(unet, [plan])[0], together[tag]), asked[tag][0]


def test_the_estimate_of_a_last_move_is_within_its_bounds_with_every_solver(unet):
    """Dynamic thresholding ends at 1; plms mixes several moves' noises, and so may leave it a little."""
    for sampler in set(SAMPLERS["diffusion"]) - {"pndm"}:
        row = make_row("text_to_image", prompt="a", steps=3, sampler=sampler, guidance=7.0)
        assert develop(unet, [plan_of(row, unet.process)])[0].abs().max() <= 1.0, sampler


def test_a_row_that_is_withdrawn_costs_no_more_and_the_others_keep_their_bits(unet):
    """One that is under way, and one that waits."""
    row = make_row("text_to_image", prompt="a", steps=4, guidance=1.0)
    plans = [plan_of(row | {"seed": seed}, unet.process) for seed in range(4)]
    gone = plan_of(row | {"steps": 1}, unet.process)
    engine = Engine(unet, 3)
    for tag, plan in enumerate([*plans, gone]):
        engine.add(plan, tag)
    assert engine.advance() == [] and engine.moves_made(0) == 1
    engine.withdraw(0)
    engine.withdraw(4)
    assert engine.moves_made(0) is None
    finished = {result.tag: result.image for result in engine.run()}
    assert finished.keys() == {1, 2, 3} and engine.statistics.evaluations == 1 + 3 * 4
    assert all(torch.equal(image, develop(unet, [plans[tag]], 3)[0]) for tag, image in finished.items())


def test_the_order_of_rows_changes_no_bit(unet):
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in mixed_rows()]
    forwards, backwards = develop(unet, plans), develop(unet, plans[::-1])
    assert all(torch.equal(forwards[i], backwards[len(plans) - 1 - i]) for i in range(len(plans)))


def test_rows_of_one_seed_start_from_the_same_noise_and_other_seeds_do_not():
    process = Diffusion.cosine(clip=1.0)
    zero = CountingPredictor(process, lambda x, t, c: torch.zeros_like(x))
    rows = [make_row("text_to_image", prompt=p, seed=s, steps=2) for p, s in (("a", 1), ("b", 1), ("a", 2))]
    first, same, other = (develop(zero, [plan_of(row, process)])[0] for row in rows)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_pass_is_full_while_rows_remain():
    process = Diffusion.cosine(clip=1.0)
    predictor = CountingPredictor(process, lambda x, t, c: torch.zeros_like(x))
    engine = Engine(predictor, capacity=7)  # fits neither pairs nor fours
    for seed in range(40):
        steps = 2 + seed % 5
        engine.add(plan_of(make_row("text_to_image", prompt="a", seed=seed, steps=steps), process))
    engine.run()
    evaluations = sum(2 * (2 + seed % 5) for seed in range(40))
    assert engine.statistics.evaluations == evaluations
    assert set(predictor.shapes) == {(7, 3, SIZE, SIZE)}
    # only the drain at the end may leave places empty: the last rows have at most 6 steps
    assert engine.statistics.passes <= evaluations // 7 + 7


def test_equal_questions_are_asked_once():
    process = Diffusion.cosine(clip=1.0)
    bands = [{"component": "low_pass", "prompt": "a"}, {"component": "high_pass", "prompt": "b"}]
    hybrid = plan_of(make_row("hybrid", components=bands, steps=4), process)
    assert hybrid.evaluations == 4 * 3  # two prompts and one shared unconditional
    same_view = [{"view": "identity", "prompt": "a"}, {"view": "flip_vertical", "prompt": "a"}]
    assert plan_of(make_row("anagram", views=same_view, steps=4), process).evaluations == 4 * 4
    assert plan_of(make_row("text_to_image", prompt="a", steps=4, guidance=1.0), process).evaluations == 4
    alternating = plan_of(make_row("anagram", views=same_view, steps=4, reduction="alternate"), process)
    assert alternating.evaluations == 4 * 2


@pytest.mark.parametrize("sampler", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize(("first", "second"), [(1.0, 0.0), (0.0, 1.0)])
def test_alternating_views_have_equal_say_with_every_solver(sampler, first, second):
    """A flow of constant velocities, one a view: over an even number of intervals the state travels their mean."""
    velocities = CountingPredictor(Flow(), lambda x, t, c: torch.ones_like(x) * c[:, :1, :1, None])
    views = [{"view": "identity", "prompt": "a"}, {"view": "flip_vertical", "prompt": "b"}]
    row = make_row("anagram", views=views, steps=4, reduction="alternate", guidance=1.0, sampler=sampler)
    told = {"a": first, "b": second, "": 9.0}
    conditions = {prompt: torch.full((4, 32), velocity) for prompt, velocity in told.items()}
    plan = make_plan(row, Stage(1, SIZE, 3, Flow()), Inputs(conditions))
    end, start = develop(velocities, [plan])[0], develop(velocities, [dataclasses.replace(plan, moves=())])[0]
    assert torch.allclose(end - start, torch.full_like(start, 0.5), atol=1e-6)


@pytest.mark.parametrize(("process", "sampler"), [(Flow(), "heun"), (Diffusion.cosine(clip=1.0), "ddpm")])
def test_at_guidance_0_the_unconditional_answer_is_the_picture_and_alone_is_asked(process, sampler):
    predictor = CountingPredictor(process, lambda x, t, c: torch.tanh(x + c[:, :1, :1, None]))
    row = make_row("text_to_image", prompt="a", negative_prompt="n", steps=4, sampler=sampler)
    without, alone = plan_of(row | {"guidance": 0.0}, process), plan_of(row | {"prompt": "n", "guidance": 1.0}, process)
    assert without.evaluations == len(without.moves)
    assert {prompt for move in range(len(without.moves)) for _, prompt in without.questions(move)} == {"n"}
    assert torch.equal(develop(predictor, [without])[0], develop(predictor, [alone])[0])


def test_at_guidance_0_a_learned_variance_is_still_the_conditional_answers(unet):
    row = make_row("text_to_image", prompt="a", negative_prompt="n", steps=4, guidance=0.0)
    assert plan_of(row, unet.process).evaluations == 4 * 2
    assert plan_of(row | {"sampler": "ddim"}, unet.process).evaluations == 4  # whose step has no learned variance
    plan = plan_of(row | {"sampler": "ddim"}, unet.process)
    both = dataclasses.replace(plan, variance_asked=True)
    assert both.evaluations == 8 and torch.equal(develop(unet, [plan])[0], develop(unet, [both])[0])


def test_guidance_is_unconditional_plus_gamma_times_the_difference():
    process = Diffusion.linear(10, clip=None)
    answers = {"c": 0.5, "": -0.25}
    predictor = CountingPredictor(process, lambda x, t, c: torch.ones_like(x) * c[:, :1, :1, None])
    row = make_row("text_to_image", prompt="c", steps=1, guidance=3.0, sampler="ddim")
    conditions = {key: torch.full((4, 32), value) for key, value in answers.items()}
    plan = make_plan(row, Stage(1, SIZE, 3, process), Inputs(conditions))
    start = develop(predictor, [dataclasses.replace(plan, moves=())])[0]
    got = develop(predictor, [plan])[0]
    epsilon = -0.25 + 3.0 * (0.5 - -0.25)
    alpha_bar = process.alphas_cumprod[plan.moves[0].t].item()
    assert torch.allclose(got, (start - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5, atol=1e-5)


def test_sdedit_at_no_noise_returns_its_input(unet):
    for more in ({"strength": 0.0}, {"start": 6}):
        plan = plan_of(make_row("image_to_image", prompt="a", steps=6, **more), unet.process, image=picture(1))
        assert plan.evaluations == 0
        assert torch.equal(develop(unet, [plan])[0], picture(1))


def test_sdedit_starts_from_the_noised_picture():
    process = Diffusion.cosine(clip=None)
    exact = CountingPredictor(process, None, truth=picture(1))
    plan = plan_of(make_row("image_to_image", prompt="a", seed=3, steps=10, start=4), process, image=picture(1))
    assert plan.moves[0].t == 500
    assert torch.allclose(develop(exact, [plan])[0], picture(1), atol=1e-4)


@pytest.mark.parametrize("process", [Diffusion.cosine(clip=1.0), Flow()], ids=["diffusion", "flow"])
@pytest.mark.parametrize("more", [{}, {"resample": {"jump": 2, "times": 3}}, {"strength": 0.5}], ids=str)
def test_inpainting_keeps_known_pixels_exactly(process, more):
    predictor = CountingPredictor(process, lambda x, t, c: torch.tanh(x))
    row = make_row("inpaint", prompt="a", steps=8, **more)
    plan = plan_of(row, process, image=picture(2), mask=half_mask())
    image = develop(predictor, [plan])[0]
    assert torch.equal(image[:, :, : SIZE // 2], picture(2)[:, :, : SIZE // 2])
    assert not torch.allclose(image[:, :, SIZE // 2 :], picture(2)[:, :, SIZE // 2 :], atol=0.1)


def test_an_anagram_of_one_identity_view_is_plain_sampling(unet):
    plain = plan_of(make_row("text_to_image", prompt="a", seed=4, steps=4), unet.process)
    views = [{"view": "identity", "prompt": "a"}]
    anagram = plan_of(make_row("anagram", views=views, seed=4, steps=4), unet.process)
    assert torch.equal(develop(unet, [plain])[0], develop(unet, [anagram])[0])


@pytest.mark.parametrize(
    "names", [("low_pass", "high_pass"), ("low_band", "middle_band", "high_band"), ("grayscale", "color"),
              ("motion", "motion_residual")]
)  # fmt: skip
def test_components_of_one_prompt_are_plain_sampling(unet, names):
    plain = plan_of(make_row("text_to_image", prompt="a", seed=4, steps=4), unet.process)
    parts = [{"component": name, "prompt": "a"} for name in names]
    hybrid = plan_of(make_row("hybrid", components=parts, seed=4, steps=4), unet.process)
    assert torch.allclose(develop(unet, [plain])[0], develop(unet, [hybrid])[0], atol=1e-4)


@pytest.mark.parametrize("view", ["flip_vertical", "rotate_90", "negate", "jigsaw"])
def test_an_anagram_whose_model_knows_both_pictures_agrees_with_itself(view):
    """A model that sees, through each view, the view of one and the same picture must develop that picture."""
    process = Diffusion.cosine(clip=None)
    truth = picture(5)
    seen = {"upright": truth, "seen": make_view(view).apply(truth[None])[0]}
    marks = {"upright": 0.0, "seen": 1.0, "": 0.5}

    def predict(x, t, condition):
        which = condition[:, 0, 0]
        target = torch.stack([seen["seen"] if mark == 1.0 else seen["upright"] for mark in which.tolist()])
        signal, spread = signal_and_noise(process, t)
        return (x - signal * target) / spread

    views = [{"view": "identity", "prompt": "upright"}, {"view": view, "prompt": "seen"}]
    row = make_row("anagram", views=views, steps=10, guidance=1.0)
    conditions = {name: torch.full((4, 32), mark) for name, mark in marks.items()}
    plan = make_plan(row, Stage(1, SIZE, 3, process), Inputs(conditions))
    image = develop(CountingPredictor(process, predict), [plan])[0]
    assert torch.allclose(image, truth, atol=1e-3)


def test_a_held_component_is_the_given_pictures_own():
    from darkroom.sampling.components import make_component

    process = Diffusion.cosine(clip=1.0)
    parts = [{"component": "color", "prompt": "a"}, {"component": "grayscale", "image": "x.png"}]
    plan = plan_of(make_row("hybrid", components=parts, steps=8), process, given=picture(7))
    image = develop(CountingPredictor(process, lambda x, t, c: torch.tanh(x)), [plan])[0][None]
    grayscale, color = make_component("grayscale"), make_component("color")
    assert torch.allclose(grayscale(image), grayscale(picture(7)[None]), atol=1e-6)
    assert not torch.allclose(color(image), color(picture(7)[None]), atol=0.1)


@pytest.mark.parametrize("sampler", ["euler", "heun", "midpoint"])
def test_flow_reaches_the_picture_its_velocity_points_to(sampler):
    process = Flow()
    exact = CountingPredictor(process, None, truth=picture(8))
    plan = plan_of(make_row("text_to_image", prompt="a", steps=6, sampler=sampler, guidance=1.0), process)
    if sampler == "heun":  # its last question stands at t = 1, where a one-picture velocity has no value
        plan = dataclasses.replace(plan, moves=plan.moves[:-2])
        image = develop(exact, [plan])[0]
        start = develop(exact, [dataclasses.replace(plan, moves=())])[0]
        t = plan.moves[-1].t_next
        assert torch.allclose(image, t * picture(8) + (1 - t) * start, atol=1e-4)
        return
    assert torch.allclose(develop(exact, [plan])[0], picture(8), atol=1e-4)


def test_states_are_kept_on_request(unet):
    plan = plan_of(make_row("text_to_image", prompt="a", steps=5), unet.process)
    engine = Engine(unet, 8)
    engine.add(dataclasses.replace(plan, keep=frozenset({1, 4})))
    (finished,) = engine.run()
    assert sorted(finished.states) == [1, 4]
    assert torch.equal(finished.states[4], finished.image)


def test_a_start_beyond_the_schedule_is_the_rows_own_error(unet):
    with pytest.raises(ValueError, match="start 9 lies beyond the schedule, which has 6 steps"):
        plan_of(make_row("image_to_image", prompt="a", steps=6, start=9), unet.process, image=picture(1))


def test_pictures_that_arrive_late_are_handed_out_all_the_same(unet, monkeypatch):
    """As on a GPU, where a finished picture is still on its way while the next pass is asked for."""
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in mixed_rows()]
    at_once = develop(unet, plans)

    class Late(Arrival):
        here = False

    monkeypatch.setattr("darkroom.sampling.engine.Arrival", Late)
    engine = Engine(unet, 8)
    for tag, plan in enumerate(plans):
        engine.add(plan, tag)
    while engine._walkers or engine._waiting:
        assert engine.advance() == []
    assert not engine.idle
    late = {finished.tag: finished.image for finished in engine.advance()}
    assert engine.idle and late.keys() == at_once.keys()
    assert all(torch.equal(late[tag], at_once[tag]) for tag in late)


def test_places_left_over_in_a_pass_hold_nothing_of_the_one_before():
    packing, view = Packing(3, torch.device("cpu"), ["condition", "sizes", "noise_level"]), make_view("negate")
    told = (torch.ones(2, 5), torch.ones(6), torch.tensor(9))
    full = [Slot(torch.ones(3, 4, 4), torch.ones(3, 4, 4), view, 7, told)] * 3
    packing.pack(full)
    x, times, condition, sizes, levels = packing.pack(full[:1])
    assert x.shape == (3, 6, 4, 4) and (x[0] == -1).all() and not x[1:].any()
    assert condition.shape == (3, 2, 5) and condition[0].all() and not condition[1:].any()
    assert sizes.shape == (3, 6) and sizes[0].all() and not sizes[1:].any()
    assert times.tolist() == [7, 0, 0] and levels.tolist() == [9, 0, 0]
    assert (times.dtype, levels.dtype) == (torch.float32, torch.int64)
    assert packing.pack([full[0]._replace(time=0.5)])[1].dtype == torch.float32


class Sized:
    """A predictor that is told a pooled embedding with each prompt and sizes with each row: what it answers is both."""

    device, fields = torch.device("cpu"), ("pooled", "condition", "sizes")

    def __init__(self, process):
        self.process = process

    def __call__(self, x, timestep, pooled, condition, sizes):
        told = pooled[:, 0] + condition[:, 0] * 10 + sizes[:, 1] * 100
        return (x - told[:, None, None, None]).contiguous()


def test_each_slot_is_told_the_fields_of_its_prompt_and_of_its_row():
    process = Diffusion.linear(prediction="x0")
    predictor, plans = Sized(process), []
    for row in (1.0, 2.0):
        plan = plan_of(make_row("text_to_image", prompt="a", steps=1, guidance=1.0), process)
        told = {"pooled": torch.tensor([3.0]), "condition": torch.tensor([4.0, 0.0])}
        fields = {"sizes": torch.tensor([0.0, row])}
        plans.append(dataclasses.replace(plan, conditions={"a": told}, fields=fields))
    images = develop(predictor, plans, capacity=3)
    start = torch.from_numpy(noise.normal(plans[0].seed, 1, noise.START, 0, (3, SIZE, SIZE)))
    for tag, row in ((0, 100), (1, 200)):
        torch.testing.assert_close(start - images[tag], torch.full_like(start, 3.0 + 40.0 + row), rtol=0, atol=1e-3)
    assert torch.equal(develop(predictor, [plans[1]], capacity=3)[0], images[1])


def test_rows_of_other_shapes_go_to_engines_of_their_own_and_none_waits_for_ever():
    process = Diffusion.cosine(clip=1.0)
    predictor = CountingPredictor(process, lambda x, t, c: torch.zeros_like(x))
    rows = [make_row("text_to_image", prompt="a", seed=seed, steps=3) for seed in range(9)]
    sizes = (24, 12, 48) * 3
    plans = [plan_of(row, process, size=size) for row, size in zip(rows, sizes, strict=True)]
    buckets = Buckets(predictor, 8, (3, 24, 24))
    for number, plan in enumerate(plans):
        buckets.add(plan, number)
    found = {}
    while not buckets.idle:
        found |= {finished.tag: finished.image for finished in buckets.advance()}
    assert set(predictor.shapes) == {(8, 3, 24, 24), (8, 3, 12, 12), (2, 3, 48, 48)}, (
        "as many as their size has room for"
    )
    assert list(found)[:3] == [0, 3, 6], "the row that came first is first"
    for number, plan in enumerate(plans):
        alone = Engine(predictor, buckets.capacity_of(plan))
        alone.add(plan)
        assert torch.equal(alone.run()[0].image, found[number])
    assert buckets.statistics.evaluations == 9 * 3 * 2
    assert Buckets(predictor, 1, (3, 24, 24)).capacity_of(plans[2]) == 1


def room_for(numbers: int, said: Exception = SHORTAGES[0]):
    """A predictor whose device has memory for a pass of so many numbers, and what it says."""

    def answer(x, t, c):
        if x.numel() > numbers:
            raise said
        return torch.zeros_like(x)

    return CountingPredictor(Diffusion.cosine(clip=1.0), answer)


def test_rows_too_large_for_the_device_fail_and_cost_no_other_row_anything():
    predictor = room_for(8 * 3 * 24 * 24)
    rows = [make_row("text_to_image", prompt="a", seed=seed, steps=3) for seed in range(6)]
    sizes = (24, 96, 24, 24, 96, 24)
    buckets = Buckets(predictor, 8, (3, 24, 24))
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        buckets.add(plan_of(row, predictor.process, size=size), number)
    found = []
    while not buckets.idle:
        found += buckets.advance()
    failed = {result.tag: result.error for result in found if isinstance(result, Failed)}
    assert failed.keys() == {1, 4} and {type(error) for error in failed.values()} == {torch.OutOfMemoryError}
    assert {result.tag for result in found if isinstance(result, Finished)} == {0, 2, 3, 5}
    assert buckets.capacity == 8 and set(predictor.shapes) == {(8, 3, 24, 24), (1, 3, 96, 96)}


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_larger_rows_have_smaller_passes_of_their_own_and_the_others_keep_theirs(said):
    predictor = room_for(8 * 3 * 24 * 24, said)
    ask, forgotten = predictor.predict, []
    predictor.predict = lambda x, t, c: ask(x.repeat(2, 1, 1, 1) if x.shape[-1] > 24 else x, t, c)[: len(x)]
    predictor.forget_graphs = lambda: forgotten.append(1)
    rows = [make_row("text_to_image", prompt="a", seed=seed, steps=3) for seed in range(6)]
    plans = [plan_of(row, predictor.process, size=size) for row, size in zip(rows, (24, 48) * 3, strict=True)]
    buckets, found = Buckets(predictor, 8, (3, 24, 24)), {}
    for number, plan in enumerate(plans):
        buckets.add(plan, number)
    while not buckets.idle:
        found |= {finished.tag: finished.image for finished in buckets.advance()}
    assert set(predictor.shapes) == {(8, 3, 24, 24), (2, 3, 48, 48), (1, 3, 48, 48)} and forgotten == [1]
    assert [buckets.capacity_of(plan) for plan in plans[:2]] == [8, 1], "what is recorded is what ran"
    for plan, image in zip(plans, map(found.get, range(6)), strict=True):
        assert torch.equal(develop(predictor, [plan], capacity=buckets.capacity_of(plan))[0], image)


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_rows_that_are_not_larger_want_smaller_passes(said):
    predictor = room_for(0, said)
    buckets = Buckets(predictor, 1, (3, 24, 24))
    buckets.add(plan_of(make_row("text_to_image", prompt="a", steps=3), predictor.process, size=24), "a")
    with pytest.raises(torch.OutOfMemoryError):
        buckets.advance()
    assert not buckets.idle


def test_a_row_that_lacks_a_field_fails_alone():
    process = Diffusion.linear(prediction="x0")
    engine = Engine(Sized(process), 2)
    engine.add(plan_of(make_row("text_to_image", prompt="a", steps=1), process), "lacks")
    (failed,) = engine.advance()
    assert failed.tag == "lacks" and "pooled" in str(failed.error)


def test_a_run_raises_what_a_row_failed_by(unet):
    engine = Engine(unet, 4)
    engine.add(
        poisoned(plan_of(make_row("text_to_image", prompt="a", steps=2), unet.process), "a condition is missing")
    )
    with pytest.raises(KeyError, match="a"):
        engine.run()


def poisoned(plan: Plan, how: str) -> Plan:
    """The plan with something in it that raises where it is packed, begun, asked or stepped."""
    branch, other = plan.branches[0], torch.zeros(3, 7, 7)
    odd_view = dataclasses.replace(branch, view=make_view("patch_permute", pieces=100))  # of 24 pixels
    change = {
        "a view that the size has no room for": {"branches": (odd_view,)},
        "a condition is missing": {"conditions": {}},
        "a condition of another shape": {"conditions": dict.fromkeys(plan.conditions, torch.zeros(9, 5))},
        "a picture of another size to begin with": {"reference": other},
        "a prompt that the model chokes on": {"conditions": dict.fromkeys(plan.conditions, torch.full((4, 32), 9e9))},
        "a constraint of another size": {"constraint": Constraint(other, mask=half_mask(7))},
    }[how]
    return dataclasses.replace(plan, **change)


POISONS = [
    "a view that the size has no room for", "a condition is missing", "a condition of another shape",
    "a picture of another size to begin with", "a prompt that the model chokes on", "a constraint of another size",
]  # fmt: skip


class Choking:
    """A predictor that cannot answer a pass in which some condition is very large."""

    def __init__(self, predictor):
        self.predictor, self.process, self.device = predictor, predictor.process, predictor.device

    def __call__(self, x, timestep, condition, noise_level):
        if condition.abs().max() > 1e9:
            raise IndexError("index out of range in self")
        return self.predictor(x, timestep, condition, noise_level)


@pytest.mark.parametrize("capacity", [1, 8])
@pytest.mark.parametrize("how", POISONS)
def test_a_poisoned_row_fails_alone_and_its_neighbours_keep_their_bits(unet, how, capacity):
    predictor = Choking(unet)
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in mixed_rows()[::3]]
    without = develop(predictor, plans, capacity)
    engine = Engine(predictor, capacity)
    bad = poisoned(plan_of(make_row("text_to_image", prompt="z", seed=1, steps=2), unet.process), how)
    queue = list(enumerate(plans))
    queue.insert(1, ("bad", bad))  # so that it shares a pass with others, and they are under way
    for tag, plan in queue:
        engine.add(plan, tag)
    results = []
    while not engine.idle:
        results += engine.advance()
    (failed,) = (result for result in results if isinstance(result, Failed))
    assert failed.tag == "bad" and str(failed.error)
    found = {result.tag: result.image for result in results if isinstance(result, Finished)}
    assert found.keys() == without.keys()
    assert all(torch.equal(found[tag], without[tag]) for tag in found)


def test_values_that_are_not_numbers_stay_with_their_row(unet):
    plans = [plan_of(row, unet.process, **inputs) for row, inputs in mixed_rows()]
    without = develop(unet, plans)
    conditions = dict.fromkeys(plans[0].conditions, torch.full((4, 32), float("nan")))
    bad = dataclasses.replace(plans[0], conditions=conditions)
    among = develop(unet, [*plans[:4], bad, *plans[4:]])
    assert not torch.isfinite(among.pop(4)).any()
    assert all(torch.equal(one, other) for one, other in zip(among.values(), without.values(), strict=True))


def test_what_no_row_is_to_blame_for_is_raised(unet):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    plan = plan_of(make_row("text_to_image", prompt="a", steps=2), unet.process)
    for answer, raised in ((broken, ModelBroken), (lost, RuntimeError)):
        engine = Engine(CountingPredictor(unet.process, answer), 4)
        engine.add(plan)
        with pytest.raises(raised):
            engine.advance()
