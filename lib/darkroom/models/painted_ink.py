"""What is to be seen on a painted digit: its paper, its ink's colour, how much ink lies where, and so which digit it is
in which colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = tuple("sixes" if digit == "six" else f"{digit}s" for digit in DIGITS)  # of small ones that fill a picture
TILES = 3  # of these in a row, and in a column
PATTERNS = ("stripes", "dots", "checks")
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
PAPERS = {"white": (255, 255, 255), "black": (0, 0, 0), "yellow": (255, 235, 130), "grey": (150, 150, 150)}
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
    return read_ink(colour, map_of_ink, as_digits(map_of_ink), classify)


def read_ink(colour: Tensor, map_of_ink: Tensor, framed: Tensor, classify: Callable[[Tensor], Tensor]) -> Reading:
    """The reading of what `ink` found. framed: the maps of ink in MNIST's frame, [N, 1, 28, 28]."""
    digits, blank = classify(framed).log_softmax(dim=1), map_of_ink.amax(dim=(1, 2, 3)) == 0
    palette = torch.tensor(list(COLOURS.values()), device=colour.device) / 127.5 - 1
    colours = (-torch.cdist(colour, palette).square() / (2 * COLOUR_SPREAD**2)).log_softmax(dim=1)
    for likelihoods in (digits, colours):
        likelihoods[blank] = -torch.tensor(float(likelihoods.shape[1])).log()
    return Reading(digits, colours, blank)


def ink(pictures: Tensor, inky: float = INK_SHARE) -> tuple[Tensor, Tensor]:
    """float32 [N, 3, H, W] in [-1, 1] -> the ink's colour [N, 3], and how much of it lies on each pixel, [N, 1, H, W]
    in 0..1 (all 0 on a blank picture).

    Undoes painting, which mixes paper and ink in proportion. The share is measured along the line from paper to ink,
    and not as a plain distance, so that noise of other hues does not count as ink. inky: the share of all pixels that
    is surely ink.
    """
    paper = paper_of(pictures)[:, :, None, None]
    away = pictures - paper
    distance = away.square().sum(dim=1).sqrt().flatten(1)
    inkiest = distance.topk(max(1, round(inky * distance.shape[1])), dim=1).indices
    direction = torch.gather(away.flatten(2), 2, inkiest[:, None].expand(-1, 3, -1)).mean(dim=2)
    length = direction.square().sum(dim=1)
    share = torch.einsum("nchw,nc->nhw", away, direction) / length.clamp(min=BLANK**2)[:, None, None]
    share = torch.where(length[:, None, None] < BLANK**2, 0.0, share)
    return paper[:, :, 0, 0] + direction, share.clamp(0, 1)[:, None]


def paper_of(pictures: Tensor) -> Tensor:
    """The colour [N, 3] of what most of the border shows."""
    return _border(pictures).median(dim=2).values


def paper_names(pictures: Tensor) -> list[str]:
    """Of PAPERS, the one whose colour is nearest to what most of the border shows."""
    named = torch.tensor(list(PAPERS.values()), device=pictures.device) / 127.5 - 1
    nearest = torch.cdist(paper_of(pictures.float().clamp(-1, 1)), named).argmin(dim=1)
    return [list(PAPERS)[index] for index in nearest.tolist()]


def yellowness(pictures: Tensor) -> Tensor:
    """How much less blue the paper is than red and green, [N], as a share of their range: 0 of white, grey and black,
    0.45 of the yellow of PAPERS. pictures: float32 [N, 3, H, W] in [-1, 1]."""
    red, green, blue = paper_of(pictures.float().clamp(-1, 1)).unbind(dim=1)
    return ((red + green) / 2 - blue) / 2


def as_digits(map_of_ink: Tensor) -> Tensor:
    """A map of ink [N, 1, S, S], S 24 or 48, in MNIST's frame, [N, 1, 28, 28]: painting left its margin of 2 away."""
    return map_of_ink if map_of_ink.shape[-2:] == (SIDE, SIDE) else F.pad(at_24(map_of_ink), (2, 2, 2, 2))


def at_24(pictures: Tensor) -> Tensor:
    """[N, C, S, S], S 24 or 48, at 24 pixels a side. ValueError for another size."""
    height, width = pictures.shape[-2:]
    if (height, width) not in ((24, 24), (48, 48)):
        raise ValueError(f"pictures of 24 x 24 or 48 x 48 can be judged, not of {height} x {width}")
    return F.avg_pool2d(pictures, width // 24)


def boxes(map_of_ink: Tensor) -> Tensor:
    """Where the ink is that covers half a pixel and more: left, top, right, bottom in pixels, float32 [N, 4]; 0 where
    there is none. map_of_ink: [N, 1, H, W]."""
    found = torch.zeros(len(map_of_ink), 4)
    for row, inked in enumerate((map_of_ink[:, 0] > 0.5).cpu()):
        if inked.any():
            rows, columns = inked.any(dim=1).nonzero()[:, 0], inked.any(dim=0).nonzero()[:, 0]
            found[row] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return found


def fitted(map_of_ink: Tensor, found: Tensor) -> Tensor:
    """Digits of any size, wherever they are, as MNIST's were put in their frame: the longer side 20 pixels, the centre
    of mass in the middle. [N, 1, H, W] and their `boxes` -> [N, 1, 28, 28]."""
    framed = map_of_ink.new_zeros(len(map_of_ink), 1, SIDE, SIDE)
    for row, (left, top, right, bottom) in enumerate(found.int().tolist()):
        if right > left:
            crop = map_of_ink[row : row + 1, :, top:bottom, left:right]
            scale = 20 / max(crop.shape[-2:])
            size = [max(1, round(length * scale)) for length in crop.shape[-2:]]
            crop = F.interpolate(crop, size, mode="bilinear", antialias=True)[0, 0]
            y, x = (_start(crop.sum(dim=1 - axis), size[axis]) for axis in (0, 1))
            framed[row, 0, y : y + size[0], x : x + size[1]] = crop
    return framed


def _start(mass: Tensor, length: int) -> int:
    """Where to put what has that mass along an axis, so that its centre is in the middle and all of it in the frame."""
    centre = (mass * torch.arange(length, device=mass.device)).sum() / mass.sum().clamp(min=1e-6)
    return min(max(0, round(SIDE / 2 - 0.5 - centre.item())), SIDE - length)


def _border(pictures: Tensor) -> Tensor:
    """The outermost pixels, [N, 3, 4 (S - 1)]."""
    sides = pictures[:, :, 0, :-1], pictures[:, :, -1, 1:], pictures[:, :, 1:, 0], pictures[:, :, :-1, -1]
    return torch.cat(sides, dim=2)
