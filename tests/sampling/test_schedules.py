from __future__ import annotations

import pytest
from diffusers import DDPMScheduler
from diffusers.pipelines.deepfloyd_if import timesteps as floyd
from diffusers.schedulers import RePaintScheduler

from darkroom.sampling.schedules import (
    CLEAN,
    NAMED,
    Move,
    flow_moves,
    flow_times,
    moves,
    start_index,
    timesteps,
    with_jumps,
)


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


def test_moves_end_clean():
    assert moves([20, 10, 0]) == (Move(20, 10), Move(10, 0), Move(0, CLEAN))
    assert moves([20, 10, 0], start=2) == (Move(0, -1, "denoise"),)
    assert moves([20, 10, 0], start=3) == ()


def test_moves_refuse_what_does_not_descend():
    with pytest.raises(ValueError, match="must descend"):
        moves([0, 10])
    with pytest.raises(ValueError, match="start must lie between 0 and 3"):
        moves([20, 10, 0], start=4)


@pytest.mark.parametrize(
    ("strength", "index"), [(0.0, 34), (0.02, 34), (0.03, 33), (0.5, 17), (0.7, 11), (0.99, 1), (1.0, 0)]
)
def test_start_index_counts_as_diffusers(strength, index):
    assert start_index(34, strength) == index
    assert len(moves(timesteps(1000), start_index(34, strength))) == int(34 * strength)


def test_strength_is_between_0_and_1():
    with pytest.raises(ValueError, match="strength"):
        start_index(34, 1.5)


def test_jumps_spelled_out():
    # States 40 30 20 10 0 clean. Stretches of two, counted from timestep 0 upwards: 40-30-20 and 20-10-0.
    walk = moves([40, 30, 20, 10, 0])
    assert with_jumps(walk, jump=2, times=2) == (
        Move(40, 30),
        Move(30, 20),
        Move(20, 40, "renoise"),
        Move(40, 30),
        Move(30, 20),
        Move(20, 10),
        Move(10, 0),
        Move(0, 20, "renoise"),
        Move(20, 10),
        Move(10, 0),
        Move(0, CLEAN),
    )


def test_moves_that_fill_no_stretch_are_made_once():
    path = [move.t for move in with_jumps(moves([30, 20, 10, 0]), jump=2, times=3)]
    assert path == [30, 20, 10, 0, 20, 10, 0, 20, 10, 0]


def test_one_time_or_a_jump_as_long_as_the_walk_changes_nothing():
    walk = moves(timesteps(1000))
    assert with_jumps(walk, jump=10, times=1) == walk
    assert with_jumps(walk, jump=34, times=3) == walk
    assert with_jumps((), jump=2, times=3) == ()


@pytest.mark.parametrize(("steps", "jump", "times"), [(250, 10, 10), (34, 10, 3), (31, 10, 2), (50, 1, 2), (20, 7, 4)])
def test_jumps_are_those_of_repaint(steps, jump, times):
    scheduler = RePaintScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(steps, jump_length=jump, jump_n_sample=times)
    times_walked = timesteps(1000, steps=steps)
    path = [times_walked[0]]
    for move in with_jumps(moves(times_walked), jump, times):
        if move.kind == "renoise":  # RePaint goes up one timestep at a time
            low, high = times_walked.index(move.t), times_walked.index(move.t_next)
            path += times_walked[high:low][::-1]
        else:
            path.append(move.t_next)
    assert path == [*scheduler.timesteps.tolist(), CLEAN]


def test_each_jumped_move_is_walked_so_many_times():
    walk = with_jumps(moves(timesteps(1000)), jump=10, times=3)
    counts = [sum(move == Move(t, max(t - 30, -1)) for move in walk) for t in timesteps(1000)]
    assert counts == [1] * 3 + [3] * 30 + [1]


def test_jumps_keep_a_solvers_two_halves_together():
    walk = with_jumps(flow_moves(flow_times(2), "midpoint"), jump=1, times=2)
    half, full = Move(0.0, 0.25, "midpoint_half"), Move(0.0, 0.5, "midpoint_full")
    last = (Move(0.5, 0.75, "midpoint_half"), Move(0.5, 1.0, "midpoint_full"))
    assert walk == (half, full, Move(0.5, 0.0, "renoise"), half, full, *last)


def test_jumps_refuse_zero():
    with pytest.raises(ValueError, match="jump 0"):
        with_jumps(moves([10, 0]), jump=0, times=2)


def test_flow_times():
    assert flow_times(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="steps"):
        flow_times(0)


def test_flow_moves():
    assert flow_moves(flow_times(2)) == (Move(0.0, 0.5), Move(0.5, 1.0))
    assert flow_moves(flow_times(2), "heun", start=1) == (
        Move(0.5, 1.0, "heun_predict"),
        Move(0.5, 1.0, "heun_correct"),
    )
    assert flow_moves(flow_times(2), "euler", start=2) == ()
    with pytest.raises(ValueError, match="did you mean 'euler'"):
        flow_moves(flow_times(2), "euller")
    with pytest.raises(ValueError, match="start must lie between 0 and 2"):
        flow_moves(flow_times(2), "euler", start=3)
    with pytest.raises(ValueError, match="ascend"):
        flow_moves([1.0, 0.0])


def test_where_the_model_is_asked():
    asked = [move.model_time for move in flow_moves([0.0, 0.5, 1.0], "heun")]
    assert asked == [0.0, 0.5, 0.5, 1.0]
    assert [move.model_time for move in flow_moves([0.0, 0.5, 1.0], "midpoint")] == [0.0, 0.25, 0.5, 0.75]
    assert [move.model_time for move in moves([10, 0])] == [10, 0]
    assert not Move(0, 10, "renoise").asks and Move(10, 0).asks
