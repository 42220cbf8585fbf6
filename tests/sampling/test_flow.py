from __future__ import annotations

import math

import pytest
import torch

from darkroom.sampling.flow import Flow
from darkroom.sampling.levels import flow_times
from darkroom.sampling.schedules import Move, flow_moves
from darkroom.sampling.shifts import Shift
from darkroom.sampling.solvers import REMEMBERED, Column


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def solve(velocity, x: torch.Tensor, sampler: str, steps: int) -> torch.Tensor:
    flow, moves = Flow(), flow_moves(flow_times(steps), sampler)
    memory, none = [torch.full_like(x, 77.0)] * REMEMBERED, torch.zeros_like(x)
    for move, line in zip(moves, flow.coefficients(moves, sampler), strict=True):
        x, memory = flow.step(x, memory, velocity(x, move.model_time), None, line[None].expand(len(x), -1), none)
    return x


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_order_of_the_solvers(sampler, order):
    """x' = t^2 - x from x = 1: x(1) = 1 - 1/e. Half the step, a 2^order-th of the error."""
    exact = 1 - math.exp(-1.0)
    errors = [
        abs(solve(lambda x, t: t**2 - x, torch.ones(1, 1, 1, 1), sampler, steps).item() - exact)
        for steps in (8, 16, 32)
    ]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_steps_one_can_do_by_hand():
    """x' = 2t, one step from x = 0: Euler asks at 0, midpoint at 1/2, Heun at 0 and 1."""
    for sampler, expected in {"euler": 0.0, "midpoint": 1.0, "heun": 1.0}.items():
        end = solve(lambda x, t: torch.full_like(x, 2 * t), torch.zeros(1, 1, 1, 1), sampler, 1)
        assert end.item() == expected


@pytest.mark.parametrize("sampler", ["heun", "midpoint"])
def test_the_exact_field_of_a_gaussian_carries_noise_to_it(sampler):
    """x_t ~ N(t m, t^2 s^2 + (1 - t)^2); its velocity is linear in x, and maps noise n to m + s n."""
    m, s = 0.4, 0.3

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        variance = t**2 * s**2 + (1 - t) ** 2
        return m + (t * s**2 - (1 - t)) / variance * (x - t * m)

    noise = randn(1, 4, 3, 64, 64)
    x = solve(velocity, noise, sampler, 100)
    torch.testing.assert_close(x, m + s * noise, rtol=0, atol=2e-3)
    assert x.mean().item() == pytest.approx(m, abs=0.01) and x.std().item() == pytest.approx(s, abs=0.01)


def test_constant_velocity_is_followed_exactly_to_the_picture():
    flow = Flow()
    x1, noise = randn(1, 2, 3, 8, 8), randn(2, 2, 3, 8, 8)
    for sampler in flow.samplers:
        end = solve(lambda x, t: x1 - noise, noise, sampler, 4)
        torch.testing.assert_close(end, x1, rtol=0, atol=1e-6)


def test_noise_and_its_undoing():
    flow = Flow()
    x1, eps = randn(1, 3, 3, 8, 8), randn(2, 3, 3, 8, 8)
    t = torch.tensor([0.0, 0.3, 1.0])
    x = flow.noise(x1, t, eps)
    assert torch.equal(x[0], eps[0]) and torch.equal(x[2], x1[2])
    picture, noise = flow.x0_and_noise(x1 - eps, x, t)
    torch.testing.assert_close(picture, x1, rtol=0, atol=1e-6)
    torch.testing.assert_close(noise, eps, rtol=0, atol=1e-6)


def test_known_pixels_follow_the_state():
    lines = Flow().coefficients(flow_moves([0.0, 0.5, 1.0], "midpoint"), "midpoint")
    assert lines[:, Column.SIGNAL_NEXT].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert lines[:, Column.NOISE_NEXT].tolist() == [0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(("t", "t_next"), [(0.5, 0.25), (0.9, 0.1), (1.0, 0.5), (0.5, 0.0)])
def test_renoise_keeps_the_marginal(t, t_next):
    flow = Flow()
    x1 = torch.full((1, 1, 400, 400), 0.5)
    x = flow.noise(x1, torch.tensor([t]), randn(1, *x1.shape))
    line = flow.coefficients([Move(t, t_next, "renoise")])
    x, _ = flow.step(x, (None,) * REMEMBERED, torch.zeros_like(x), None, line, randn(2, *x1.shape))
    std = 1 - t_next
    assert abs(x.mean().item() - 0.5 * t_next) < 5 * std / 400
    assert abs(x.var().item() / std**2 - 1) < 5 * 2**0.5 / 400


def test_only_renoising_draws_noise():
    flow = Flow()
    for sampler in flow.samplers:
        assert (flow.coefficients(flow_moves(flow_times(5), sampler), sampler)[:, Column.NOISE] == 0).all()
    assert flow.coefficients([Move(0.5, 0.25, "renoise")])[0, Column.NOISE] > 0


def test_unipc_is_exact_where_the_picture_is_known():
    """A model that knows the picture: whatever the grid, the walk ends at it, by Euler too."""
    flow = Flow.from_config(Flow(shift=Shift(5.0, multistep=True)).to_config())
    assert flow.samplers == ("unipc", "euler", "heun", "midpoint") and flow.default_sampler == "unipc"
    x1, start = randn(1, 2, 3, 4, 4), randn(3, 2, 3, 4, 4)
    for steps, sampler in ((1, "unipc"), (2, "unipc"), (9, "unipc"), (9, "euler")):
        grid = flow.flow_grid(steps, tokens=1)
        moves = flow_moves([*grid.places, grid.end], sampler)
        x, memory = start, (None,) * REMEMBERED
        for move, line in zip(moves, flow.coefficients(moves, sampler), strict=True):
            velocity = (x1 - x) / move.t.noise
            remembered = [torch.zeros_like(x) if own is None else own for own in memory]
            x, memory = flow.step(x, remembered, velocity, None, line.expand(2, -1), torch.zeros_like(x))
        torch.testing.assert_close(x, x1, rtol=0, atol=3e-5)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        Flow().coefficients([], "heunn")
    with pytest.raises(ValueError, match="eta"):
        Flow().coefficients([], "euler", eta=0.5)
    with pytest.raises(ValueError, match="unknown key .* 'steps'"):
        Flow.from_config({"kind": "flow", "steps": 3})
