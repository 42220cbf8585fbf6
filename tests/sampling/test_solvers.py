"""Every solver of a diffusion against diffusers' scheduler, and against answers that can be written down."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.grids import KARRAS, SPACINGS, GridDefaults
from darkroom.sampling.levels import CLEAN, Level
from darkroom.sampling.plans import make_plan
from darkroom.sampling.schedules import SAMPLERS, Move, diffusion_moves, with_jumps
from darkroom.sampling.solvers import REMEMBERED, TERMS, WIDTH, Column, Line, kept
from darkroom.sampling.stage import Inputs, Stage
from toys import make_row

SHAPE = (1, 3, 8, 8)
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's
SCHEDULERS: dict[str, Callable[..., Any]] = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "pndm": diffusers.PNDMScheduler,
}
OWN = {
    "ddim": {"clip_sample": False, "set_alpha_to_one": False},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "pndm": {"skip_prk_steps": True},
}
DIFFUSERS_NAMES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
TOLERANCE = 5e-6  # relative to the largest value
SOLVERS = SAMPLERS["diffusion"]
MEMORIES = (Column.MEMORY_1, Column.MEMORY_2, Column.MEMORY_3)
STOCHASTIC = ("ddpm", "euler_ancestral", "dpmpp_2m_sde")


def model(x: Tensor, t: float) -> Tensor:
    """Smooth in both, and no exact answer to anything."""
    return 0.7 * torch.tanh(1.3 * x + math.cos(t / 170)) + 0.3 * x.flip(-1)


def draws(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def latent(prediction: str = "epsilon", defaults: GridDefaults | None = None, **bound: Any) -> Diffusion:
    return Diffusion.scaled_linear(1000, 0.00085, 0.012, prediction=prediction, grid=defaults, **bound)


def ours(
    process: Diffusion, sampler: str, steps: int, spacing: str | None = None, karras: bool | None = None
) -> Tensor:
    grid = process.find_grid(sampler, steps, spacing, karras)
    moves = diffusion_moves(grid.places, end=grid.end, twice=sampler == "pndm")
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    x = x * process.level(grid.places[0]).noise if grid.starts_quiet else x
    return walked(process, sampler, moves, x, model)


def walked(
    process: Diffusion, sampler: str, moves: tuple[Move, ...], x: Tensor, predict: Callable[..., Tensor]
) -> Tensor:
    memory = [None] * REMEMBERED
    lines = process.coefficients(moves, sampler)
    for move, line, noise in zip(moves, lines, draws(len(moves)), strict=True):
        x, memory = process.step(x, memory, predict(x, move.model_time), None, line[None], noise)
    return x


def theirs(sampler: str, steps: int, **config: Any) -> Tensor:
    scheduler = SCHEDULERS[sampler](**{**LATENT, **OWN.get(sampler, {}), **config})
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(3)
    drawn = {"generator": generator} if sampler in STOCHASTIC else {}
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    if sampler == "ddim":
        drawn = {"use_clipped_model_output": True}
    for t in scheduler.timesteps:
        answer = model(scheduler.scale_model_input(x, t), t.item())
        x = scheduler.step(answer, t, x, return_dict=False, **drawn)[0]
    return x


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


# diffusers' ddim and pndm step by 1000 // steps, which is not always where they ask next: ours lead there.
GRIDS = [
    (sampler, spacing, steps)
    for sampler in SCHEDULERS
    for spacing in SPACINGS
    for steps in (10, 30)
    if sampler in KARRAS or spacing == "leading" or (spacing == "trailing" and 1000 % steps == 0)
]


@pytest.mark.parametrize(("sampler", "spacing", "steps"), GRIDS)
def test_solvers_are_those_of_diffusers(sampler, spacing, steps):
    config = {"timestep_spacing": spacing, "steps_offset": 1 if spacing == "leading" else 0}
    process = latent(defaults=GridDefaults(spacing, config["steps_offset"], ends_noisy=True))
    assert_near(ours(process, sampler, steps), theirs(sampler, steps, **config))


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_karras_levels_are_those_of_diffusers(sampler, steps):
    expected = theirs(sampler, steps, use_karras_sigmas=True, timestep_spacing="linspace")
    assert_near(ours(latent(), sampler, steps, karras=True), expected)


@pytest.mark.parametrize(
    ("sampler", "prediction"), [(sampler, "v") for sampler in KARRAS] + [("dpmpp_2m", "x0"), ("unipc", "x0")]
)
def test_every_prediction_is_that_of_diffusers(sampler, prediction):
    """But pndm's: see the next."""
    expected = theirs(sampler, 12, prediction_type=DIFFUSERS_NAMES[prediction])
    assert_near(ours(latent(prediction), sampler, 12), expected)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "unipc"])
def test_a_walk_from_next_to_no_signal_is_that_of_diffusers(sampler):
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    expected = theirs(sampler, 10, **config)
    found = ours(latent("v", GridDefaults("trailing"), terminal=2.0**-24), sampler, 10)
    # Its Euler's state is 4,096 times as large there, in float32 as well.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5 * expected.abs().max().item())


def of_noise(scheduler: Any, prediction: str, picture: float, noise: float) -> float:
    """Where diffusers' PNDM comes out, of a model that knows picture and noise, in float64."""
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = (
        table.double() for table in (scheduler.alphas_cumprod, scheduler.final_alpha_cumprod)
    )
    scheduler.set_timesteps(10)
    level = [Level.preserving(float(abar), time) for time, abar in enumerate(scheduler.alphas_cumprod)]
    x = torch.tensor(mixed(level[int(scheduler.timesteps[0])], picture, noise), dtype=torch.float64)
    for t in scheduler.timesteps:
        at = level[int(t)]
        told = {"epsilon": noise, "v_prediction": at.signal * noise - at.noise * picture}[prediction]
        x = scheduler.step(torch.tensor(told, dtype=torch.float64), t, x, return_dict=False)[0]
    return abs(x.item() - mixed(level[0], picture, noise))  # where its walk ends


def test_pndm_mixes_noises_whatever_a_model_predicts():
    """As its paper has it (arXiv 2202.09778, equation 12), and so a model that knows the picture is followed exactly,
    here and by diffusers; which mixes the v's of several times, as of one, where those are predicted, and is not."""
    own = {**LATENT, **OWN["pndm"], "steps_offset": 1}
    far = {
        prediction: of_noise(diffusers.PNDMScheduler(**own, prediction_type=prediction), prediction, 0.6, -1.1)
        for prediction in ("epsilon", "v_prediction")
    }
    assert far["epsilon"] < 1e-12 and far["v_prediction"] > 1e-3
    process, epsilon = latent("v"), latent("epsilon")
    moves = diffusion_moves((901, 801, 701, 601, 501), end=401, twice=True)
    states = []
    for own_process in (process, epsilon):
        x, memory = 0.3, [0.0] * REMEMBERED
        for move, line in zip(moves, own_process.lines(moves, "pndm"), strict=True):
            asked = own_process.level(move.t_next if move.kind == "heun_correct" else move.t)
            noise = math.tanh(x + 0.01 * asked.time)
            told = noise if own_process is epsilon else (noise - asked.noise * x) / asked.signal
            x, memory = applied(line, x, memory, told)
        states.append(x)
    assert states[0] == pytest.approx(states[1], abs=1e-12)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_the_estimate_is_bounded_before_it_is_used_and_remembered(sampler):
    """With dynamic thresholding, on IF's schedule of noise, as diffusers has it."""
    how = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}
    process = Diffusion.cosine(threshold=(0.95, 1.5))
    expected = theirs(sampler, 10, beta_schedule="squaredcos_cap_v2", **how)
    actual = ours(process, sampler, 10)
    # diffusers' float32 table of alpha_bar says 4e-3 too much or too little where almost nothing is left of the picture
    assert (actual - expected).abs().max() < 1e-3 * expected.abs().max()
    assert actual.abs().max() <= 1.0


def applied(
    line: Line, x: float, memory: list[float], prediction: float, noise: float = 0.0
) -> tuple[float, list[float]]:
    """A line in float64, its estimate unbounded."""
    estimate = line[Column.ESTIMATE_STATE] * x + line[Column.ESTIMATE_PREDICTION] * prediction
    terms = dict(zip(TERMS, (x, *memory, prediction, estimate, noise), strict=True))
    state, *kept_next = (
        sum(line.get(kept(number, term), 0.0) * value for term, value in terms.items())
        for number in range(REMEMBERED + 1)
    )
    return state, kept_next


MEAN, SPREAD = 0.7, 0.35


def error_on_a_gaussian(sampler: str, steps: int) -> float:
    """Of data N(MEAN, SPREAD^2), whose noise is known at any state, by steps of one size in lambda down to a sigma of
    0.03: the exact way keeps (x - signal MEAN) / sqrt(signal^2 SPREAD^2 + noise^2). A walk's last move is of first
    order with unipc, and so left out."""
    process = latent()
    sigmas = [14.6 * (0.03 / 14.6) ** (i / steps) for i in range(steps + 2)]
    levels = [Level.of_sigma(sigma, sigma) for sigma in sigmas]
    lines = process.lines(diffusion_moves(levels[:-1], end=levels[-1]), sampler)
    x, memory = levels[0].signal * MEAN + 1.3 * scale(levels[0]), [0.0] * REMEMBERED
    for at, line in zip(levels[:steps], lines, strict=False):
        answer = at.noise * (x - at.signal * MEAN) / scale(at) ** 2
        x, memory = applied(line, x, memory, answer)
    return abs(x - levels[steps].signal * MEAN - 1.3 * scale(levels[steps]))


def scale(level: Level) -> float:
    return math.hypot(level.signal * SPREAD, level.noise)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_order_of_the_solvers(sampler, order):
    """Half the step, a 2^order-th of the error. unipc corrects what it foretold with order 2, which is one more."""
    coarse, fine = (error_on_a_gaussian(sampler, steps) for steps in (80, 160))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


TIMES = (900, 700, 480, 300, 120, 40)


def line_of(sampler: str, times: tuple[int, ...] = TIMES[:2], place: int = 0, eta: float = 0.0) -> Line:
    moves = diffusion_moves(times[:-1], end=times[-1])
    return latent().lines(moves, sampler, eta)[place]


def test_one_solver_by_another_name():
    assert line_of("euler") == line_of("ddim") and line_of("euler_ancestral") == line_of("ddim", eta=1.0)
    fixed, ancestral = line_of("ddpm"), line_of("euler_ancestral")
    assert all(fixed[column] == pytest.approx(ancestral[column], rel=1e-12) for column in fixed)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "pndm"])
def test_without_a_history_all_are_ddim(sampler):
    first, ddim = line_of(sampler), line_of("ddim")
    assert all(first[column] == pytest.approx(ddim[column], rel=1e-12) for column in (Column.STATE, Column.ESTIMATE))


@pytest.mark.parametrize("end", [CLEAN, 0])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m", "unipc", "pndm"])
def test_a_model_that_knows_the_picture_is_followed_exactly(sampler, end):
    process, picture, noise = latent(), 0.6, -1.1
    moves = diffusion_moves(TIMES, end=end, twice=sampler == "pndm")
    x, memory = mixed(process.level(TIMES[0]), picture, noise), [0.0] * REMEMBERED
    for move, line in zip(moves, process.lines(moves, sampler), strict=True):
        x, memory = applied(line, x, memory, noise)
        assert x == pytest.approx(mixed(process.level(move.t_next), picture, noise), abs=1e-13)


def mixed(level: Level, picture: float, noise: float) -> float:
    return level.signal * picture + level.noise * noise


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_solvers_keep_the_amount_of_noise(sampler):
    """A model that knows the picture: what a state has beside it keeps the level's deviation, in the numbers."""
    process = latent()
    moves = diffusion_moves(TIMES)
    for move, line in zip(moves, process.lines(moves, sampler), strict=True):
        at, to = process.level(move.t), process.level(move.t_next)
        of_picture = line[Column.STATE] * at.signal + line[Column.ESTIMATE] + line.get(Column.MEMORY_1, 0.0)
        of_noise = math.hypot(line[Column.STATE] * at.noise, line.get(Column.NOISE, 0.0))
        assert (of_picture, of_noise) == (pytest.approx(to.signal, abs=1e-12), pytest.approx(to.noise, abs=1e-12))


@pytest.mark.parametrize("sampler", SOLVERS)
def test_after_noising_anew_the_history_is_empty(sampler):
    moves = with_jumps(diffusion_moves(TIMES), jump=2, times=2)
    lines = latent().lines(moves, sampler)
    back = [place for place, move in enumerate(moves) if move.kind == "renoise"]
    assert len(back) == 2
    for place in back:
        alone = latent().lines(moves[place + 1 : place + 3], sampler)
        if sampler != "unipc":  # which looks ahead to the end of the walk
            assert lines[place + 1 : place + 3] == alone
        assert not any(lines[place + 1].get(kept(into, term)) for into in range(4) for term in MEMORIES)


def test_a_table_has_all_that_lines_say():
    process = latent()
    moves = diffusion_moves(TIMES)
    table = process.coefficients(moves, "unipc")
    assert table.shape == (len(TIMES), WIDTH)
    for row, line in zip(table, process.lines(moves, "unipc"), strict=True):
        assert all(row[column].item() == pytest.approx(line.get(column, 0.0), rel=1e-6) for column in range(WIDTH))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_nothing_is_extrapolated_over_a_step_many_times_smaller(sampler):
    """800, 799, 600: the change over one timestep, two hundred times over, would be its error."""
    uneven = [largest(line) for line in latent().lines(diffusion_moves((900, 800, 799, 600, 500, 400)), sampler)]
    assert max(uneven) == pytest.approx(1.0)


def test_plms_is_of_first_order_where_there_is_hardly_any_picture():
    """The cosine schedule's last timestep has 5e-5 of it: with the next one's noise it would become a thousandfold."""
    process = Diffusion.cosine()
    moves = diffusion_moves((999, 950, 900, 850), twice=True)
    lines = process.lines(moves, "pndm")
    assert max(map(largest, lines[:-1])) < 1.1 and largest(lines[-1]) < 11
    again = {term: value for term, value in lines[1].items() if Column.STATE <= term <= Column.NOISE}
    assert again == {Column.STATE: 1.0}


def largest(line: Line) -> float:
    return max(abs(value) for term, value in line.items() if term >= Column.STATE)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_learned_variance_is_ddpms_alone(sampler):
    lines = Diffusion.cosine(learned_variance=True).lines(diffusion_moves(TIMES), sampler)
    assert any(line.get(Column.SPREAD) for line in lines) == (sampler == "ddpm")
    row = make_row("text_to_image", prompt="a", steps=4, guidance=0.0, sampler=sampler)
    plan = make_plan(row, Stage(1, 8, 3, Diffusion.cosine(learned_variance=True)), Inputs({}))
    assert {len(plan.questions(move)) for move in range(4)} == {2 if sampler == "ddpm" else 1}
