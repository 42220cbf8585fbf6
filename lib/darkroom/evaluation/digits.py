"""Is the asked digit on the picture, in the asked colour, on the asked paper? The embedded classifier and the nearest
colours tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from darkroom.models.classifier import mnist_classifier
from darkroom.models.painted_ink import COLOURS, DIGITS, paper_names, read_digits

NOTHING = -1  # the digit seen on a blank picture


@dataclass(frozen=True)
class Quality:
    """Shares of pictures on which the asked digit, its colour and the paper are seen, of the paper among those that ask
    for one (None where none does); `worst` names the weakest of each."""

    count: int
    digit_accuracy: float
    colour_accuracy: float
    paper_accuracy: float | None
    per_digit: dict[str, float]
    per_colour: dict[str, float]
    per_paper: dict[str, float]
    worst: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What is on each picture: a digit (NOTHING on a blank one), its colour's name ("" on a blank one), its paper's."""

    digits: list[int]
    colours: list[str]
    papers: list[str]


def judge(pictures: Tensor, digits: Sequence[int], colours: Sequence[str], papers: Sequence[str]) -> Quality:
    """pictures float32 [N, 3, H, W] in [-1, 1], H = W = 24 or 48; what was asked for: digits 0..9, names of COLOURS, of
    PAPERS ("" is any)."""
    if not len(pictures) == len(digits) == len(colours) == len(papers) > 0:
        counts = f"{len(digits)} digits, {len(colours)} colours and {len(papers)} papers"
        raise ValueError(f"{len(pictures)} pictures, {counts} cannot be judged")
    seen = recognise(pictures)
    right_digit = [asked == found for asked, found in zip(digits, seen.digits, strict=True)]
    right_colour = [asked == found for asked, found in zip(colours, seen.colours, strict=True)]
    on_paper = [(asked, asked == found) for asked, found in zip(papers, seen.papers, strict=True) if asked]
    asked_papers, right_paper = [asked for asked, _ in on_paper], [right for _, right in on_paper]
    measures = {
        "digit": shares([DIGITS[digit] for digit in digits], right_digit),
        "colour": shares(colours, right_colour),
        "paper": shares(asked_papers, right_paper),
    }
    return Quality(
        count=len(pictures),
        digit_accuracy=sum(right_digit) / len(right_digit),
        colour_accuracy=sum(right_colour) / len(right_colour),
        paper_accuracy=sum(right_paper) / len(right_paper) if right_paper else None,
        per_digit=measures["digit"],
        per_colour=measures["colour"],
        per_paper=measures["paper"],
        worst={name: min(group, key=group.get) for name, group in measures.items() if group},
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
        paper_names(pictures),
    )


def shares(asked: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    """By what was asked for: the share that came out right."""
    groups: dict[str, list[bool]] = {}
    for name, good in zip(asked, right, strict=True):
        groups.setdefault(name, []).append(good)
    return {name: sum(group) / len(group) for name, group in groups.items()}
