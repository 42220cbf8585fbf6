"""Is the asked digit on the picture, in the asked colour? The embedded classifier and the nearest colour tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.training.classifier import classify
from darkroom.training.painted_digits import COLOURS, DIGITS

INK_SHARE = 0.04  # of all pixels, the inkiest: even a thin "one" has more, and none of them is a blurred edge
BLANK = 0.2  # ink closer to the paper than this (white to black is 3.46) is no ink
NOTHING = -1  # the digit seen on a blank picture


@dataclass(frozen=True)
class Quality:
    """Shares of pictures on which the asked digit, and the asked colour, is seen; `worst` names the weakest of both."""

    count: int
    digit_accuracy: float
    colour_accuracy: float
    per_digit: dict[str, float]
    per_colour: dict[str, float]
    worst: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What is on each picture: a digit (NOTHING on a blank one) and a colour's name ("" on a blank one)."""

    digits: list[int]
    colours: list[str]


def judge(pictures: Tensor, digits: Sequence[int], colours: Sequence[str]) -> Quality:
    """pictures float32 [N, 3, H, W] in [-1, 1], H = W = 24 or 48; what was asked for: digits 0..9, names of COLOURS."""
    if not len(pictures) == len(digits) == len(colours) > 0:
        raise ValueError(f"{len(pictures)} pictures, {len(digits)} digits and {len(colours)} colours cannot be judged")
    seen = recognise(pictures)
    right_digit = [asked == found for asked, found in zip(digits, seen.digits, strict=True)]
    right_colour = [asked == found for asked, found in zip(colours, seen.colours, strict=True)]
    per_digit = _shares([DIGITS[digit] for digit in digits], right_digit)
    per_colour = _shares(colours, right_colour)
    return Quality(
        count=len(pictures),
        digit_accuracy=sum(right_digit) / len(right_digit),
        colour_accuracy=sum(right_colour) / len(right_colour),
        per_digit=per_digit,
        per_colour=per_colour,
        worst={"digit": min(per_digit, key=per_digit.get), "colour": min(per_colour, key=per_colour.get)},
    )


def recognise(pictures: Tensor) -> Seen:
    """pictures float32 [N, 3, S, S] in [-1, 1], S 24 or 48. ValueError for another size."""
    ink_colour, map_of_ink = _ink(pictures.float().clamp(-1, 1))
    names = list(COLOURS)
    palette = torch.tensor([COLOURS[name] for name in names]) / 127.5 - 1
    nearest = torch.cdist(ink_colour, palette).argmin(dim=1).tolist()
    digits = classify(as_digits(map_of_ink)).argmax(dim=1).tolist()
    blank = (map_of_ink.amax(dim=(1, 2, 3)) == 0).tolist()
    return Seen(
        [NOTHING if empty else digit for digit, empty in zip(digits, blank, strict=True)],
        ["" if empty else names[i] for i, empty in zip(nearest, blank, strict=True)],
    )


def as_digits(map_of_ink: Tensor) -> Tensor:
    """A map of ink [N, 1, S, S], S 24 or 48, in MNIST's frame, [N, 1, 28, 28]: `paint` left its margin of 2 away."""
    size = map_of_ink.shape[-1]
    if map_of_ink.shape[-2:] not in ((24, 24), (48, 48)):
        raise ValueError(f"pictures of 24 x 24 or 48 x 48 can be judged, not of {map_of_ink.shape[-2]} x {size}")
    return F.pad(F.avg_pool2d(map_of_ink, size // 24), (2, 2, 2, 2))


def _ink(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The ink's colour [N, 3] and how much of it lies on each pixel, [N, 1, H, W] in 0..1 (all 0 on a blank picture).

    Undoes `paint`, which mixes paper and ink in proportion. The share is measured along the line from paper to ink, and
    not as a plain distance, so that noise of other hues does not count as ink.
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


def _border(pictures: Tensor) -> Tensor:
    """The outermost pixels, [N, 3, 4 (S - 1)]."""
    sides = pictures[:, :, 0, :-1], pictures[:, :, -1, 1:], pictures[:, :, 1:, 0], pictures[:, :, :-1, -1]
    return torch.cat(sides, dim=2)


def _shares(asked: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    """By what was asked for: the share that came out right."""
    groups: dict[str, list[bool]] = {}
    for name, good in zip(asked, right, strict=True):
        groups.setdefault(name, []).append(good)
    return {name: sum(group) / len(group) for name, group in groups.items()}
