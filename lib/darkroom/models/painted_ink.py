"""What is to be seen on a painted digit: its paper, its ink's colour, how much ink lies where, and so which digit it is
in which colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
COLOUR_SPREAD = 0.25  # of RGB in -1..1, per channel: names are 0.5 apart and more
SIDE = 28  # of MNIST's frame
BLANK = 0.2  # ink closer to the paper than this (white to black is 3.46) is no ink


@dataclass(frozen=True, eq=False)
class Reading:
    """digits: log P of each digit [N, 10]; colours: of each of COLOURS, [N, 8]; blank: bool [N], where all are as
    likely."""

    digits: Tensor
    colours: Tensor
    blank: Tensor


def read_digits(pictures: Tensor, classify: Callable[[Tensor], Tensor]) -> Reading:
    """pictures float32 [N, 3 or 1, S, S] in [-1, 1] (clamped), S 24, 48 or, in MNIST's own frame, 28.

    classify: maps of ink [N, 1, 28, 28] to logits [N, 10]; it gives P(digit). P(colour) is a softmax of the ink's
    squared distance to the named colours. ValueError for another size.
    """
    colour, map_of_ink = ink(pictures.float().clamp(-1, 1).expand(-1, 3, -1, -1))
    framed = map_of_ink if map_of_ink.shape[-2:] == (SIDE, SIDE) else as_digits(map_of_ink)
    digits, blank = classify(framed).log_softmax(dim=1), map_of_ink.amax(dim=(1, 2, 3)) == 0
    palette = torch.tensor(list(COLOURS.values()), device=colour.device) / 127.5 - 1
    colours = (-torch.cdist(colour, palette).square() / (2 * COLOUR_SPREAD**2)).log_softmax(dim=1)
    for likelihoods in (digits, colours):
        likelihoods[blank] = -torch.tensor(float(likelihoods.shape[1])).log()
    return Reading(digits, colours, blank)


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
