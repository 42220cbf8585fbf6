"""A row's pictures as a stage of latents takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.stage import Inputs, Row, Stage

Encode = Callable[[Tensor, Tensor], Tensor]
"""A picture [3, H, W] in [-1, 1] and standard normal noise [C, h, w] -> a sample of its latents [C, h, w]."""


def to_latents(inputs: Inputs, row: Row, stage: Stage, encode: Encode) -> Inputs:
    """The inputs with latents in the place of pictures, and a mask of their size, where a stage works on latents.

    Latents are drawn from the distribution that the encoder answers with (arXiv 2112.10752), by noise of the row's own.
    A mask is taken at every `stage.factor`-th pixel, as diffusers does: between the two values it would be grey.
    ValueError where nothing is left of it. A stage that is told which part it paints sees the picture without it.
    """
    if inputs.image is None or not stage.encodes:
        return inputs
    if stage.edits:  # as the distribution has it in the middle, which is not drawn from
        image = encode(inputs.image, torch.zeros(stage.shape))
        return replace(inputs, image=image, beside=image)
    if inputs.mask is None:
        return replace(inputs, image=encode(inputs.image, _drawn(row, stage, 0)))
    mask = inputs.mask[:, :: stage.factor, :: stage.factor]
    if not (inputs.mask if stage.folds else mask).any() and row.get("empty_mask", "fail") == "fail":
        (_, height, width), cell = stage.shape, stage.factor
        raise ValueError(
            f"the mask selects none of the {width} x {height} latents, each of which stands for {cell} x {cell} "
            "pixels: paint a larger part"
        )
    image = encode(inputs.image, _drawn(row, stage, 0))
    if not stage.inpaints:
        return replace(inputs, image=image, mask=mask)
    masked = encode(inputs.image * ~inputs.mask, _drawn(row, stage, 1))
    told = [masked, folded(inputs.mask.float(), stage.factor)] if stage.folds else [mask.float(), masked]
    return replace(inputs, image=image, mask=mask, beside=torch.cat(told))


def folded(mask: Tensor, factor: int) -> Tensor:
    """[1, H, W] -> [factor^2, H / factor, W / factor]: a channel for each pixel that a latent stands for, by rows."""
    _, height, width = mask.shape
    cells = mask.reshape(height // factor, factor, width // factor, factor)
    return cells.permute(1, 3, 0, 2).reshape(factor**2, height // factor, width // factor)


def _drawn(row: Row, stage: Stage, draw: int) -> Tensor:
    return torch.from_numpy(noise.normal(row["seed"], stage.number, noise.ENCODE, draw, stage.shape))
