from __future__ import annotations

import json

import pytest
import torch

from darkroom.sampling.levels import flow_times, timesteps
from darkroom.sampling.processes import Column, Diffusion, Flow, Process, process_from_config
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves

PROCESSES = {
    "floyd": Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5)),
    "x0, clipped": Diffusion.linear(prediction="x0", clip=1.0),
    "v": Diffusion.cosine(100, prediction="v"),
    "explicit": Diffusion(torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)),
    "flow": Flow(),
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
        parts = [process.coefficients(moves, "ddpm"), process.coefficients(moves, "ddim", 0.7)]
        parts.append(process.coefficients([Move(0, last, "renoise"), Move(-1, last, "renoise")]))
    pool = torch.cat(parts)
    return pool[torch.randint(len(pool), (count,), generator=torch.Generator().manual_seed(count))]


@pytest.mark.parametrize("size", [9, 24, 64])  # 3 * 9 * 9 fills no vector: samples begin and end inside one
@pytest.mark.parametrize("name", ["floyd", "x0, clipped", "v", "flow"])
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(name, size):
    process, count = PROCESSES[name], 16
    x, anchor, prediction, noise = (randn(seed, count, 3, size, size) for seed in range(4))
    variance = randn(5, *x.shape) if process.learned_variance else None
    table = lines(process, count)

    def step(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        learned = None if variance is None else variance[rows]
        return process.step(x[rows], anchor[rows], prediction[rows], learned, table[rows], noise[rows])

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
    assert process.coefficients([]).shape == (0, len(Column))
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
