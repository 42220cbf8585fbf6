"""Where walks of so many steps stand, by formula, against what diffusers' schedulers list."""

from __future__ import annotations

import diffusers
import pytest

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.levels import CLEAN, Level, timesteps
from darkroom.sampling.schedules import time_of
from darkroom.sampling.stage import Inputs, Stage
from darkroom.sampling.trajectories import make_trajectory
from toys import make_row

LATENT = Diffusion.scaled_linear(1000, 0.00085, 0.012)
FILE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD15 = GridDefaults(offset=1, ends_noisy=True)  # what Stable Diffusion 1.5's scheduler file says


def times(process: Diffusion, *asked, **more) -> list[float]:
    return [time_of(place) for place in process.find_grid(*asked, **more).places]


def of_sd15(sampler: str, steps: int = 10) -> tuple[list[float], object]:
    grid = Diffusion.scaled_linear(1000, 0.00085, 0.012, grid=SD15).find_grid(sampler, steps)
    return list(grid.places), grid.end


def test_grids_of_stable_diffusion_one_can_write_down():
    hundreds = [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]
    assert of_sd15("euler") == ([999, 888, 777, 666, 555, 444, 333, 222, 111, 0], CLEAN)
    assert of_sd15("dpmpp_2m") == of_sd15("unipc") == (hundreds, CLEAN)
    assert of_sd15("ddim") == of_sd15("pndm") == ([901, 801, 701, 601, 501, 401, 301, 201, 101, 1], 0)
    assert of_sd15("ddpm") == (of_sd15("ddim")[0], CLEAN)
    assert of_sd15("euler", 30)[0][:3] == [999, pytest.approx(964.5517, abs=1e-4), pytest.approx(930.1035, abs=1e-4)]


def test_leading_grids_of_a_multistep_solver_have_a_point_more():
    """As SDXL's file, which says `leading`, has them."""
    leading = Diffusion.scaled_linear(1000, 0.00085, 0.012, grid=GridDefaults("leading", 1))
    assert times(leading, "dpmpp_2m", 10) == [901, 811, 721, 631, 541, 451, 361, 271, 181, 91]
    assert times(leading, "euler", 10) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]


def test_a_model_that_says_nothing_keeps_its_grids_of_whole_times():
    for sampler in ("ddpm", "ddim"):
        assert times(LATENT, sampler, 27) == timesteps(1000, steps=27)
        assert all(isinstance(time, int) for time in times(LATENT, sampler, 27))


def test_karras_levels_of_dpmpp_leave_the_models_clock():
    """Their times are rounded and repeat, so that a level must never be looked up by its time."""
    asked = [999, 962, 921, 876, 827, 772, 710, 640, 561, 474, 380, 285, 197, 123, 69, 35, 15, 6, 2, 0]
    grid = LATENT.find_grid("dpmpp_2m", 20, karras=True)
    assert [time_of(place) for place in grid.places] == asked and grid.end == CLEAN
    scheduler = diffusers.DPMSolverMultistepScheduler(**FILE, use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    sigmas = [place.noise / place.signal for place in grid.places if isinstance(place, Level)]
    assert sigmas == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=3e-5)
    many = times(LATENT, "unipc", 100, karras=True)
    assert len(set(many)) < len(many) == 100


def test_karras_of_a_file_holds_for_the_solvers_that_know_it():
    process = Diffusion.linear(grid=GridDefaults(karras=True))
    assert all(isinstance(place, Level) for place in process.find_grid("euler", 5).places)
    assert not any(isinstance(place, Level) for place in process.find_grid("ddim", 5).places)
    assert not any(isinstance(place, Level) for place in process.find_grid("euler", 5, karras=False).places)


@pytest.mark.parametrize(
    ("spacing", "karras", "scale"),
    [("linspace", False, 0.997667), ("trailing", True, 0.997667), ("leading", False, 1.0)],
)
def test_euler_starts_from_the_noise_of_its_first_level_alone(spacing, karras, scale):
    row = make_row("text_to_image", prompt="a", steps=10, sampler="euler", spacing=spacing, karras=karras)
    trajectory = make_trajectory(row, Stage(1, 8, 3, LATENT), Inputs({}))
    assert trajectory.start_scale == pytest.approx(scale, abs=1e-6)


def test_a_walk_that_ends_at_the_first_timestep_goes_on_to_the_picture():
    """Where the file has its end there, and the grid stands there already, as without an offset."""
    process = Diffusion.linear(grid=GridDefaults(ends_noisy=True))
    assert process.find_grid("pndm", 10).end == CLEAN and process.find_grid("pndm", 10, "trailing").end == 0
    assert process.find_grid("ddpm", 10, "trailing").end == CLEAN


def test_plms_goes_twice_through_the_first_interval_wherever_it_starts():
    row = make_row("image_to_image", prompt="a", steps=10, sampler="pndm", strength=0.5)
    moves = make_trajectory(row, Stage(1, 8, 3, LATENT), Inputs({})).moves
    assert [move.kind for move in moves[:3]] == ["heun_predict", "heun_correct", "denoise"]
    assert [move.model_time for move in moves] == [400, 300, 300, 200, 100, 0]
    single = make_row("image_to_image", prompt="a", steps=10, sampler="pndm", strength=0.1)
    assert [move.kind for move in make_trajectory(single, Stage(1, 8, 3, LATENT), Inputs({})).moves] == ["denoise"]


@pytest.mark.parametrize(
    ("process", "asked", "message"),
    [
        (LATENT, ("euler", 1001), "the model's 1000 timesteps; got 1001"),
        (LATENT, ("dpmpp_2m", 1000), "one less than the model's 1000, that is 999 timesteps; got 1000"),
        (Diffusion.linear(grid=SD15), ("ddim", 1000), "1000 steps from 1 on go beyond the model's 1000"),
    ],
)
def test_more_steps_than_there_is_room_for(process, asked, message):
    with pytest.raises(ValueError, match=message):
        process.find_grid(*asked)


def test_karras_levels_begin_at_edms_sigma_at_most():
    """The cosine schedule's last timestep has 20,000, Stable Diffusion's 14.6."""
    for process, most in ((Diffusion.cosine(), 80.0), (LATENT, 14.6146)):
        for sampler in ("euler", "unipc"):
            first = process.find_grid(sampler, 10, "linspace", karras=True).places[0]
            assert first.noise / first.signal == pytest.approx(most, rel=1e-4)
