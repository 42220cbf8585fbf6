"""Is the asked digit on the picture, in the asked colour? The embedded classifier and the nearest colour tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.models.mnist_classifier import classify
from darkroom.models.painted_ink import COLOURS, DIGITS, as_digits, ink

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
    ink_colour, map_of_ink = ink(pictures.float().clamp(-1, 1))
    names = list(COLOURS)
    palette = torch.tensor([COLOURS[name] for name in names]) / 127.5 - 1
    nearest = torch.cdist(ink_colour, palette).argmin(dim=1).tolist()
    digits = classify(as_digits(map_of_ink)).argmax(dim=1).tolist()
    blank = (map_of_ink.amax(dim=(1, 2, 3)) == 0).tolist()
    return Seen(
        [NOTHING if empty else digit for digit, empty in zip(digits, blank, strict=True)],
        ["" if empty else names[i] for i, empty in zip(nearest, blank, strict=True)],
    )


def _shares(asked: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    """By what was asked for: the share that came out right."""
    groups: dict[str, list[bool]] = {}
    for name, good in zip(asked, right, strict=True):
        groups.setdefault(name, []).append(good)
    return {name: sum(group) / len(group) for name, group in groups.items()}
