"""The loss on held-out pictures, measured alike for every model: at fixed times, under fixed noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from darkroom.sampling.processes import Process

if TYPE_CHECKING:  # the recipes measure by this module, on a GPU that may not have PyArrow
    from darkroom.models.network import NetworkPredictor
    from darkroom.sampling.stage import Stage
    from darkroom.training.data import Images

HELD_OUT = 1000  # test pictures, evenly drawn, that a loss is measured on
TIMES = 10
BATCH = 250  # the noise is drawn by batches, so another number would draw other noise


def validation_loss(
    network: nn.Module, process: Process, images: Tensor, labels: Tensor, seed: int = 0, times: int = 10
) -> float:
    """Mean squared error of what the network predicts, over all pictures at each of `times` evenly spaced times.

    images: float32 [N, C, S, S] in [-1, 1]; labels: int64 [N], told to a network that has `num_classes` and to no
    other. What is predicted is the process's: velocity, epsilon, x0 or v. Every picture has its own noise at every
    time, drawn on the host from `seed`, so that two networks are asked the same questions. The network is put into eval
    mode meanwhile, on the device it is on.
    """
    device = next((p.device for p in network.parameters()), images.device)
    generator, was_training = torch.Generator().manual_seed(seed), network.training
    conditional = bool(getattr(network, "num_classes", 0))
    total = torch.zeros((), dtype=torch.float64)
    network.eval()
    with torch.no_grad():
        for time in time_grid(process, times):
            for x0, label in zip(images.split(BATCH), labels.split(BATCH), strict=True):
                noise = torch.randn(x0.shape, generator=generator).to(device)
                x0, t = x0.to(device), time.expand(len(x0)).to(device)
                x = process.noise(x0, t, noise)
                answer = network(x, t, label.to(device)) if conditional else network(x, t)
                error = answer[:, : x0.shape[1]].float() - process.target(x0, t, noise)  # [:, C:]: a learned variance
                total += error.double().square().sum().cpu()
    network.train(was_training)
    return total.item() / (times * images.numel())


def time_grid(process: Process, times: int) -> Tensor:
    """The middles of `times` equal parts of the way: float32 in (0, 1) of a flow, int64 in 0 .. T-1 of a diffusion."""
    middles = (torch.arange(times, dtype=torch.float64) + 0.5) / times
    return middles.float() if process.kind == "flow" else (middles * process.num_timesteps).long()


def held_out_loss(predictor: NetworkPredictor, stage: Stage, test: Images, seeds: int = 1) -> dict[str, Any]:
    """`validation_loss` on a thousand test pictures, as the JSON values that evaluation.json holds: the value under the
    noise of seed 0, and by seed."""
    chosen = evenly(len(test.labels), HELD_OUT)
    images, labels = as_tensor(test.images[chosen]).float() / 127.5 - 1, torch.from_numpy(test.labels[chosen])
    losses = [
        validation_loss(predictor.network, stage.process, images, labels, seed=seed, times=TIMES)
        for seed in range(seeds)
    ]
    return {
        "value": losses[0],
        "by_seed": losses,
        "prediction": stage.process.prediction,
        "pictures": len(chosen),
        "times": TIMES,
    }


def evenly(length: int, count: int) -> np.ndarray:
    """At most `count` places, evenly drawn: an ingested folder is in the order of its classes."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int)


def as_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> uint8 [N, C, H, W]; a copy where they may not be written to, as what Ray hands over."""
    return torch.from_numpy(np.require(images.transpose(0, 3, 1, 2), requirements=("C", "W")))
