from __future__ import annotations

import json

import pytest
import torch

from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.levels import flow_times, timesteps
from darkroom.sampling.processes import Diffusion, Flow, Process, process_from_config
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves
from darkroom.sampling.solvers import REMEMBERED, WIDTH

PROCESSES = {
    "floyd": Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5)),
    "x0, clipped": Diffusion.linear(prediction="x0", clip=1.0),
    "v": Diffusion.cosine(100, prediction="v"),
    "explicit": Diffusion(torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)),
    "flow": Flow(),
    "from no signal": Diffusion.scaled_linear(snr_shift=3.0, terminal=0.0, prediction="v"),
    "with a grid": Diffusion.linear(grid=GridDefaults("leading", 1, ends_noisy=True)),
}


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lines(process: Process, count: int) -> torch.Tensor:
    """Lines of different times, samplers and kinds of move, in no order."""
    if process.kind == "flow":
        parts = [process.coefficients(flow_moves(flow_times(5), sampler), sampler) for sampler in process.samplers]
        parts.append(process.coefficients([Move(0.8, 0.2, "renoise")]))
    else:
        last = process.num_timesteps - 1
        moves = diffusion_moves(timesteps(process.num_timesteps, stride=max(last // 7, 1)))
        twice = diffusion_moves([move.t for move in moves], twice=True)
        parts = [process.coefficients(twice if sampler == "pndm" else moves, sampler) for sampler in process.samplers]
        parts.append(process.coefficients(moves, "ddim", 0.7))
        parts.append(process.coefficients([Move(0, last, "renoise"), Move(-1, last, "renoise")]))
    pool = torch.cat(parts)
    return pool[torch.randint(len(pool), (count,), generator=torch.Generator().manual_seed(count))]


@pytest.mark.parametrize("size", [9, 24, 64])  # 3 * 9 * 9 fills no vector: samples begin and end inside one
@pytest.mark.parametrize("name", ["floyd", "x0, clipped", "v", "flow"])
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(name, size):
    process, count = PROCESSES[name], 16
    x, prediction, noise, *memory = (randn(seed, count, 3, size, size) for seed in range(3 + REMEMBERED))
    variance = randn(9, *x.shape) if process.learned_variance else None
    table = lines(process, count)

    def step(rows: list[int]) -> list[torch.Tensor]:
        """The state and what is remembered, zeros where that is nothing; 0 and -0 told apart."""
        learned = None if variance is None else variance[rows]
        own = [tensor[rows] for tensor in memory]
        state, kept = process.step(x[rows], own, prediction[rows], learned, table[rows], noise[rows])
        return [
            part.view(torch.int32) for part in (state, *(torch.zeros_like(state) if m is None else m for m in kept))
        ]

    alone = [torch.cat(part) for part in zip(*(step([row]) for row in range(count)), strict=True)]
    for rows in ([3, 11], [15, 2, 9, 0, 4, 7, 1], list(range(16)), list(reversed(range(16)))):
        for together, single in zip(step(rows), alone, strict=True):
            assert torch.equal(together, single[rows])


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_comes_back_from_json(name):
    process = PROCESSES[name]
    config = json.loads(json.dumps(process.to_config()))
    again = process_from_config(config)
    assert type(again) is type(process) and again.to_config() == process.to_config()
    assert torch.equal(lines(again, 20), lines(process, 20))


@pytest.mark.parametrize("name", PROCESSES)
def test_what_both_kinds_offer(name):
    process = PROCESSES[name]
    assert process.kind in ("diffusion", "flow")
    assert process.default_sampler in process.samplers
    assert process.num_timesteps >= 1
    assert process.coefficients([]).shape == (0, WIDTH)
    assert process.coefficients([]).dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "flwo"}, "did you mean 'flow'"),
        ({}, "unknown kind of process 'None'"),
        ({"kind": "diffusion", "schedule": "cosin"}, "did you mean 'cosine'"),
        ({"kind": "diffusion", "schedule": "cosine", "threshhold": [0.95, 1.5]}, "threshhold"),
        ({"kind": "diffusion", "schedule": "explicit"}, "alphas_cumprod"),
    ],
)
def test_a_wrong_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        process_from_config(config)
