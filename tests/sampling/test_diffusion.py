from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, DDPMScheduler

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.levels import CLEAN, NAMED, timesteps
from darkroom.sampling.schedules import Move, diffusion_moves
from darkroom.sampling.solvers import REMEMBERED, Column

SHAPE = (3, 8, 8)
NOTHING = (None,) * REMEMBERED
DIFFUSERS_NAMES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
# DeepFloyd IF's scheduler_config.json, stage I.
FLOYD = {
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "dynamic_thresholding_ratio": 0.95,
    "num_train_timesteps": 1000,
    "sample_max_value": 1.5,
    "thresholding": True,
    "variance_type": "learned_range",
}


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guessed(process: Diffusion, times: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States at every time, a model's imperfect predictions for them, and its variances: [len(times), 3, 8, 8]."""
    t = torch.tensor(times)
    x0, eps = 0.8 * randn(1, len(times), *SHAPE), randn(2, len(times), *SHAPE)
    x = process.noise(x0, t, eps)
    alpha = process.alphas_cumprod[t].float()[:, None, None, None]
    exact = {"epsilon": eps, "x0": x0, "v": alpha.sqrt() * eps - (1 - alpha).sqrt() * x0}[process.prediction]
    return x, exact + 0.2 * randn(3, *x.shape), 1.2 * randn(4, *x.shape).tanh()


def ours(process, times, x, prediction, variance, noise, sampler="ddpm", eta=0.0) -> torch.Tensor:
    """Every move of the schedule, in one call."""
    lines = process.coefficients(diffusion_moves(times), sampler, eta)
    return process.step(x, NOTHING, prediction, variance, lines, noise)[0]


def in_double(scheduler, process: Diffusion):
    """diffusers' formulas in float64: its own float32 tables cost up to 2e-5 where 1 - alpha_bar is small."""
    scheduler.alphas_cumprod = process.alphas_cumprod
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


def theirs(scheduler: DDPMScheduler, times, x, output) -> tuple[torch.Tensor, torch.Tensor]:
    """A call per timestep, and the noise those calls drew."""
    stepped, drawn = [], []
    for i, t in enumerate(times):
        one, seed = slice(i, i + 1), torch.Generator().manual_seed
        stepped.append(scheduler.step(output[one], t, x[one], generator=seed(i), return_dict=False)[0])
        drawn.append(torch.randn(x[one].shape, generator=seed(i), dtype=x.dtype))
    return torch.cat(stepped), torch.cat(drawn)


@pytest.mark.parametrize("times", [timesteps(1000), timesteps(1000, steps=50), list(NAMED["smart100"])])
@pytest.mark.parametrize("thresholding", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddpm_with_learned_range_equals_diffusers(times, thresholding, prediction):
    how = {"thresholding": thresholding, "clip_sample": False, "prediction_type": DIFFUSERS_NAMES[prediction]}
    scheduler = DDPMScheduler(**FLOYD | how)
    scheduler.set_timesteps(timesteps=times)
    threshold = (0.95, 1.5) if thresholding else None
    process = Diffusion.cosine(prediction=prediction, learned_variance=True, threshold=threshold)
    x, predicted, variance = guessed(process, times)
    output = torch.cat([predicted, variance], 1)
    expected, noise = theirs(in_double(scheduler, process), times, x.double(), output.double())
    actual = ours(process, times, x, predicted, variance, noise.float())
    # At t = 999 an unbounded x0 is 20,000 times the prediction's error, and of its rounding.
    atol = 2e-5 if times[0] == 999 and not thresholding else 1e-5
    torch.testing.assert_close(actual, expected.float(), rtol=0, atol=atol)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddpm_equals_diffusers_as_it_comes(prediction):
    """IF's own configuration and float32 throughout; thresholding wins over clip_sample, as in diffusers."""
    scheduler = DDPMScheduler(**FLOYD | {"prediction_type": DIFFUSERS_NAMES[prediction]})
    times = timesteps(1000)
    scheduler.set_timesteps(timesteps=times)
    process = Diffusion.cosine(prediction=prediction, learned_variance=True, threshold=(0.95, 1.5))
    x, predicted, variance = guessed(process, times)
    expected, noise = theirs(scheduler, times, x, torch.cat([predicted, variance], 1))
    torch.testing.assert_close(ours(process, times, x, predicted, variance, noise), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("clip", [None, 1.0, 2.0])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddpm_with_fixed_small_variance_equals_diffusers(schedule, clip, prediction):
    scheduler = DDPMScheduler(
        beta_schedule={"cosine": "squaredcos_cap_v2", "linear": "linear"}[schedule],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        prediction_type=DIFFUSERS_NAMES[prediction],
        variance_type="fixed_small",
    )
    times = timesteps(1000)
    scheduler.set_timesteps(timesteps=times)
    process = getattr(Diffusion, schedule)(prediction=prediction, clip=clip)
    x, predicted, _ = guessed(process, times)
    expected, noise = theirs(in_double(scheduler, process), times, x.double(), predicted.double())
    actual = ours(process, times, x, predicted, None, noise.float())
    torch.testing.assert_close(actual, expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("thresholding", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddim_equals_diffusers(eta, thresholding, prediction):
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        thresholding=thresholding,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        prediction_type=DIFFUSERS_NAMES[prediction],
    )
    scheduler.set_timesteps(50)
    times = timesteps(1000, steps=50)
    process = Diffusion.cosine(prediction=prediction, threshold=(0.95, 1.5) if thresholding else None)
    x, predicted, _ = guessed(process, times)
    noise, expected = randn(9, *x.shape), []
    in_double(scheduler, process)
    for i, t in enumerate(times):
        state, output, drawn = (part[i : i + 1].double() for part in (x, predicted, noise))
        expected.append(
            scheduler.step(
                output, t, state, eta=eta, use_clipped_model_output=True, variance_noise=drawn, return_dict=False
            )[0]
        )
    actual = ours(process, times, x, predicted, None, noise, "ddim", eta)
    torch.testing.assert_close(actual, torch.cat(expected).float(), rtol=0, atol=1e-5)


def test_ddpm_and_ddim_rows_share_a_pass():
    process = Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5))
    times = timesteps(1000)[5:7]
    x, predicted, variance = guessed(process, times)
    noise = randn(6, *x.shape)
    parts = [([Move(times[0], times[1])], "ddpm"), ([Move(times[1], 7)], "ddim")]
    lines = torch.cat([process.coefficients(*part) for part in parts])
    mixed = process.step(x, NOTHING, predicted, variance, lines, noise)[0]
    for i in range(2):
        one = slice(i, i + 1)
        alone = process.step(x[one], NOTHING, predicted[one], variance[one], lines[one], noise[one])[0]
        assert torch.equal(mixed[one], alone)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("num_timesteps", [1000, 100])
def test_betas_are_those_of_diffusers(schedule, num_timesteps):
    names = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
    scheduler = DDPMScheduler(num_timesteps, beta_schedule=names[schedule])
    alphas = getattr(Diffusion, schedule)(num_timesteps).alphas_cumprod
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    # diffusers keeps them in float32: half a unit in its last place is as near as one can be, linspace errs by more.
    torch.testing.assert_close(betas, scheduler.betas.double(), rtol=6e-8, atol=1e-9)
    assert alphas.dtype == torch.float64


def test_alpha_bar_of_a_schedule_one_can_write_down():
    alphas = Diffusion.linear(3, 0.1, 0.5).alphas_cumprod  # betas 0.1, 0.3, 0.5
    torch.testing.assert_close(alphas, torch.tensor([0.9, 0.63, 0.315], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_a_perfect_model_leads_back_to_the_picture(prediction):
    """DDIM without noise, and a model that knows x0: every step lands on the same line, the last on x0."""
    process = Diffusion.cosine(prediction=prediction)
    x0, eps = 0.7 * randn(1, 1, *SHAPE), randn(2, 1, *SHAPE)
    moves = diffusion_moves(timesteps(1000, steps=20))
    x = process.noise(x0, torch.tensor([moves[0].t]), eps)
    for move, line in zip(moves, process.coefficients(moves, "ddim"), strict=True):
        alpha = process.alphas_cumprod[move.t].float()
        answer = {"epsilon": eps, "x0": x0, "v": alpha.sqrt() * eps - (1 - alpha).sqrt() * x0}[prediction]
        x, _ = process.step(x, NOTHING, answer, None, line[None], torch.zeros_like(x))
        expected = process.noise(x0, torch.tensor([move.t_next]), eps)
        torch.testing.assert_close(x, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(x, x0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_x0_and_noise_undo_noise(prediction):
    process = Diffusion.cosine(prediction=prediction)
    t = torch.tensor([0, 30, 500, 900])
    x, predicted, _ = guessed(process, t.tolist())
    x0, eps = process.x0_and_noise(predicted, x, t)
    torch.testing.assert_close(process.noise(x0, t, eps), x, rtol=0, atol=1e-5)
    given = {"epsilon": eps, "x0": x0}.get(prediction)
    assert given is None or torch.equal(given, predicted)


def test_clean_is_the_picture_to_the_bit():
    process = Diffusion.cosine()
    x0 = randn(1, 2, *SHAPE)
    noised = process.noise(x0, torch.tensor([CLEAN, 500]), randn(2, 2, *SHAPE))
    assert torch.equal(noised[0], x0[0]) and not torch.equal(noised[1], x0[1])


def test_known_pixels_follow_the_state():
    process = Diffusion.cosine()
    moves = diffusion_moves([500, 20, 0])
    lines = process.coefficients(moves)
    x0, eps = randn(1, 3, *SHAPE), randn(2, 3, *SHAPE)
    known = lines[:, Column.SIGNAL_NEXT, None, None, None] * x0 + lines[:, Column.NOISE_NEXT, None, None, None] * eps
    assert torch.equal(known, process.noise(x0, torch.tensor([20, 0, CLEAN]), eps))


def test_only_the_last_move_draws_no_noise():
    for process in (Diffusion.cosine(), Diffusion.cosine(learned_variance=True)):
        drawn = process.coefficients(diffusion_moves([40, 20, 0]))[:, Column.NOISE]
        assert (drawn[:2] > 0).all() and drawn[2] == 0
        assert process.coefficients(diffusion_moves([40, 20]))[-1, Column.NOISE] == 0
        assert (process.coefficients(diffusion_moves([40, 20, 0]), "ddim")[:, Column.NOISE] == 0).all()


@pytest.mark.parametrize(("t", "t_next"), [(CLEAN, 600), (0, 300), (300, 301), (300, 990)])
def test_renoise_is_the_forward_process(t, t_next):
    """From a state at t it makes one at t_next: the same share of x0, the same amount of noise."""
    process = Diffusion.cosine()
    x0 = torch.full((1, 1, 400, 400), 0.5)
    x = process.noise(x0, torch.tensor([t]), randn(1, *x0.shape))
    line = process.coefficients([Move(t, t_next, "renoise")])
    x, _ = process.step(x, NOTHING, torch.zeros_like(x), None, line, randn(2, *x0.shape))
    alpha = process.alphas_cumprod[t_next].item()
    assert abs(x.mean().item() - 0.5 * alpha**0.5) < 5 * (1 - alpha) ** 0.5 / 400
    assert abs(x.var().item() / (1 - alpha) - 1) < 5 * 2**0.5 / 400


def test_renoise_makes_exactly_these_numbers():
    process = Diffusion(torch.tensor([0.64, 0.16], dtype=torch.float64))
    line = process.coefficients([Move(0, 1, "renoise")])
    two, four = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 4.0)
    x, _ = process.step(two, NOTHING, two, None, line, four)
    assert x.item() == pytest.approx(0.5 * 2.0 + 0.75**0.5 * 4.0)


COGVIDEOX = {"beta_start": 0.00085, "beta_end": 0.012, "snr_shift": 3.0, "terminal": 0.0, "prediction": "v"}


def test_a_walk_from_no_signal_at_all():
    """CogVideoX' last level is noise alone: a first step is what is foretold of the picture, and noise."""
    process = Diffusion.scaled_linear(sampler="ddim", **COGVIDEOX)
    theirs = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert torch.allclose(process.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-12, atol=0)
    assert process.level(999) == (0.0, 1.0, 999, 0.0)
    x0, eps = randn(1, 1, *SHAPE), randn(2, 1, *SHAPE)
    found, noise = process.x0_and_noise(process.target(x0, torch.tensor([999]), eps), eps, torch.tensor([999]))
    assert torch.equal(found, x0) and torch.equal(noise, eps)
    signal, spread = process.level(899).signal, process.level(899).noise
    for sampler in process.samplers:
        lines = process.coefficients(diffusion_moves([999, 899, 799]), sampler)
        assert torch.isfinite(lines).all()
        drawn = eps if sampler in ("ddpm", "dpmpp_2m_sde") else torch.zeros_like(eps)
        x, _ = process.step(eps, NOTHING, -x0, None, lines[:1], drawn)
        torch.testing.assert_close(x, signal * x0 + spread * eps, rtol=0, atol=2e-6)


def test_samplers_that_divide_by_the_signal_are_none_of_such_a_process():
    process = Diffusion.scaled_linear(**COGVIDEOX)
    assert process.samplers == ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde")
    with pytest.raises(ValueError, match="unknown diffusion sampler 'unipc'"):
        process.coefficients([], "unipc")
    with pytest.raises(ValueError, match="predicting epsilon says nothing|predicts epsilon says nothing"):
        Diffusion.scaled_linear(**COGVIDEOX | {"prediction": "epsilon"})
    places = process.find_grid("dpmpp_2m", 5, karras=True).places
    assert all(0 < place.signal < 1 for place in places)


def test_nonsense_is_refused():
    alphas = torch.tensor([0.9, 0.5])
    with pytest.raises(ValueError, match="did you mean 'epsilon'"):
        Diffusion(alphas, "epsilom")
    with pytest.raises(ValueError, match="must fall"):
        Diffusion(alphas.flip(0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Diffusion(torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="not by both"):
        Diffusion(alphas, threshold=(0.95, 1.5), clip=1.0)
    with pytest.raises(ValueError, match="got \\(95"):
        Diffusion(alphas, threshold=(95, 1.5))
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        Diffusion(alphas).coefficients([], "ddimm")
    with pytest.raises(ValueError, match="eta"):
        Diffusion(alphas).coefficients([], "ddpm", eta=0.5)
