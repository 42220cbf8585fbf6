"""Is the asked digit on the picture, in the asked colour? The embedded classifier and the nearest colour tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from darkroom.models.classifier import mnist_classifier
from darkroom.models.painted_ink import COLOURS, DIGITS, read_digits

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
    per_digit = shares([DIGITS[digit] for digit in digits], right_digit)
    per_colour = shares(colours, right_colour)
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
    reading, names = read_digits(pictures, mnist_classifier().classify), list(COLOURS)
    digits, colours, blank = (
        found.tolist() for found in (reading.digits.argmax(dim=1), reading.colours.argmax(dim=1), reading.blank)
    )
    return Seen(
        [NOTHING if empty else digit for digit, empty in zip(digits, blank, strict=True)],
        ["" if empty else names[colour] for colour, empty in zip(colours, blank, strict=True)],
    )


def shares(asked: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    """By what was asked for: the share that came out right."""
    groups: dict[str, list[bool]] = {}
    for name, good in zip(asked, right, strict=True):
        groups.setdefault(name, []).append(good)
    return {name: sum(group) / len(group) for name, group in groups.items()}
