from __future__ import annotations

import pytest
from diffusers.schedulers import RePaintScheduler

from darkroom.sampling.levels import CLEAN, flow_times, timesteps
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves, with_jumps


def test_moves_end_clean():
    assert diffusion_moves([20, 10, 0]) == (Move(20, 10), Move(10, 0), Move(0, CLEAN))
    assert diffusion_moves([20, 10, 0], start=2) == (Move(0, -1, "denoise"),)
    assert diffusion_moves([20, 10, 0], start=3) == ()


def test_moves_refuse_what_does_not_descend():
    with pytest.raises(ValueError, match="must descend"):
        diffusion_moves([0, 10])
    with pytest.raises(ValueError, match="start must lie between 0 and 3"):
        diffusion_moves([20, 10, 0], start=4)


def test_jumps_spelled_out():
    # States 40 30 20 10 0 clean. Stretches of two, counted from timestep 0 upwards: 40-30-20 and 20-10-0.
    moves = diffusion_moves([40, 30, 20, 10, 0])
    assert with_jumps(moves, jump=2, times=2) == (
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
    path = [move.t for move in with_jumps(diffusion_moves([30, 20, 10, 0]), jump=2, times=3)]
    assert path == [30, 20, 10, 0, 20, 10, 0, 20, 10, 0]


def test_one_time_or_a_jump_as_long_as_the_schedule_changes_nothing():
    moves = diffusion_moves(timesteps(1000))
    assert with_jumps(moves, jump=10, times=1) == moves
    assert with_jumps(moves, jump=34, times=3) == moves
    assert with_jumps((), jump=2, times=3) == ()


@pytest.mark.parametrize(("steps", "jump", "times"), [(250, 10, 10), (34, 10, 3), (31, 10, 2), (50, 1, 2), (20, 7, 4)])
def test_jumps_are_those_of_repaint(steps, jump, times):
    scheduler = RePaintScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(steps, jump_length=jump, jump_n_sample=times)
    levels = timesteps(1000, steps=steps)
    path = [levels[0]]
    for move in with_jumps(diffusion_moves(levels), jump, times):
        if move.kind == "renoise":  # RePaint goes up one timestep at a time
            low, high = levels.index(move.t), levels.index(move.t_next)
            path += levels[high:low][::-1]
        else:
            path.append(move.t_next)
    assert path == [*scheduler.timesteps.tolist(), CLEAN]


def test_each_jumped_move_is_made_so_many_times():
    moves = with_jumps(diffusion_moves(timesteps(1000)), jump=10, times=3)
    counts = [sum(move == Move(t, max(t - 30, -1)) for move in moves) for t in timesteps(1000)]
    assert counts == [1] * 3 + [3] * 30 + [1]


def test_jumps_keep_a_solvers_two_halves_together():
    moves = with_jumps(flow_moves(flow_times(2), "midpoint"), jump=1, times=2)
    half, full = Move(0.0, 0.25, "midpoint_half"), Move(0.0, 0.5, "midpoint_full")
    last = (Move(0.5, 0.75, "midpoint_half"), Move(0.5, 1.0, "midpoint_full"))
    assert moves == (half, full, Move(0.5, 0.0, "renoise"), half, full, *last)


def test_jumps_refuse_zero():
    with pytest.raises(ValueError, match="jump 0"):
        with_jumps(diffusion_moves([10, 0]), jump=0, times=2)


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
    assert [move.model_time for move in diffusion_moves([10, 0])] == [10, 0]
    assert not Move(0, 10, "renoise").asks and Move(10, 0).asks
