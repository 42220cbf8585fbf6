from __future__ import annotations

import pytest
from diffusers import DDPMScheduler
from diffusers.pipelines.deepfloyd_if import timesteps as floyd

from darkroom.sampling.levels import NAMED, descent, flow_times, start_index, timesteps
from darkroom.sampling.schedules import diffusion_moves


def test_the_default_is_every_thirtieth_timestep():
    times = timesteps(1000)
    assert times[:3] == [990, 960, 930] and times[-2:] == [30, 0] and len(times) == 34
    assert times[10] == 690


def test_stride():
    assert timesteps(1000, stride=250) == [750, 500, 250, 0]
    assert timesteps(100) == [90, 60, 30, 0]
    assert timesteps(10, stride=3) == [9, 6, 3, 0]
    assert timesteps(4, stride=1) == [3, 2, 1, 0]


def test_steps():
    assert timesteps(1000, steps=4) == [750, 500, 250, 0]
    assert timesteps(1000, steps=3) == [666, 333, 0]
    assert timesteps(1000, steps=1) == [0]


@pytest.mark.parametrize("steps", [1, 3, 7, 27, 34, 50, 999, 1000])
def test_steps_are_those_of_diffusers(steps):
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    assert timesteps(1000, steps=steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", sorted(NAMED))
def test_named_schedules_are_those_of_diffusers(name):
    assert timesteps(1000, name=name) == getattr(floyd, f"{name}_timesteps")
    assert len(timesteps(1000, name=name)) == int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def test_there_are_eight_named_schedules():
    assert list(NAMED) == ["fast27", "smart27", "smart50", "smart100", "smart185", "super27", "super40", "super100"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 10, "stride": 30}, "steps and stride"),
        ({"steps": 0}, "steps must lie between 1 and the model's 1000"),
        ({"steps": 1001}, "got 1001"),
        ({"stride": 0}, "stride must lie between 1"),
        ({"name": "smart51"}, "did you mean 'smart50'"),
    ],
)
def test_nonsense_is_refused_in_plain_words(given, message):
    with pytest.raises(ValueError, match=message):
        timesteps(1000, **given)


def test_a_named_schedule_needs_a_thousand_timesteps():
    with pytest.raises(ValueError, match="this one has 100"):
        timesteps(100, name="fast27")


@pytest.mark.parametrize(
    ("strength", "index"), [(0.0, 34), (0.02, 34), (0.03, 33), (0.5, 17), (0.7, 11), (0.99, 1), (1.0, 0)]
)
def test_start_index_counts_as_diffusers(strength, index):
    assert start_index(34, strength) == index
    assert len(diffusion_moves(timesteps(1000), start_index(34, strength))) == int(34 * strength)


def test_strength_is_between_0_and_1():
    with pytest.raises(ValueError, match="strength"):
        start_index(34, 1.5)


def test_flow_times():
    assert flow_times(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="steps"):
        flow_times(0)


def test_descent_is_what_lies_below():
    assert descent([990, 660, 330, 0], 700) == [700, 660, 330, 0]
    assert descent([990, 660, 330, 0], 660) == [660, 330, 0]
    assert descent([990, 660, 330, 0], 990, until=330) == [990, 660, 330]
    assert descent([735.294, 705.882], 750, until=735.3) == [750, 735.294], "to half a tenth"
    with pytest.raises(ValueError, match="below 700, the nearest: 660 and 330; was 500"):
        descent([990, 660, 330, 0], 700, until=500)
