"""What is to be seen on a painted digit: its paper, its ink's colour, and how much ink lies where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {  # ink, RGB in 0..255; far enough apart that the nearest name is never in doubt
    "red": (225, 35, 40),
    "orange": (250, 145, 20),
    "green": (35, 165, 65),
    "cyan": (40, 205, 225),
    "blue": (40, 70, 225),
    "purple": (150, 50, 190),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
INK_SHARE = 0.04  # of all pixels, the inkiest: even a thin "one" has more, and none of them is a blurred edge
BLANK = 0.2  # ink closer to the paper than this (white to black is 3.46) is no ink


def ink(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [N, 3, H, W] in [-1, 1] -> the ink's colour [N, 3], and how much of it lies on each pixel, [N, 1, H, W]
    in 0..1 (all 0 on a blank picture).

    Undoes painting, which mixes paper and ink in proportion. The share is measured along the line from paper to ink,
    and not as a plain distance, so that noise of other hues does not count as ink.
    """
    paper = _border(pictures).median(dim=2).values[:, :, None, None]
    away = pictures - paper
    distance = away.square().sum(dim=1).sqrt().flatten(1)
    inkiest = distance.topk(max(1, round(INK_SHARE * distance.shape[1])), dim=1).indices
    direction = torch.gather(away.flatten(2), 2, inkiest[:, None].expand(-1, 3, -1)).mean(dim=2)
    length = direction.square().sum(dim=1)
    share = torch.einsum("nchw,nc->nhw", away, direction) / length.clamp(min=BLANK**2)[:, None, None]
    share = torch.where(length[:, None, None] < BLANK**2, 0.0, share)
    return paper[:, :, 0, 0] + direction, share.clamp(0, 1)[:, None]


def as_digits(map_of_ink: Tensor) -> Tensor:
    """A map of ink [N, 1, S, S], S 24 or 48, in MNIST's frame, [N, 1, 28, 28]: painting left its margin of 2 away."""
    size = map_of_ink.shape[-1]
    if map_of_ink.shape[-2:] not in ((24, 24), (48, 48)):
        raise ValueError(f"pictures of 24 x 24 or 48 x 48 can be judged, not of {map_of_ink.shape[-2]} x {size}")
    return F.pad(F.avg_pool2d(map_of_ink, size // 24), (2, 2, 2, 2))


def _border(pictures: Tensor) -> Tensor:
    """The outermost pixels, [N, 3, 4 (S - 1)]."""
    sides = pictures[:, :, 0, :-1], pictures[:, :, -1, 1:], pictures[:, :, 1:, 0], pictures[:, :, :-1, -1]
    return torch.cat(sides, dim=2)
