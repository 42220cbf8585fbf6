"""Are the asked digits on the picture, in their colours, of the asked size, where they were asked for, on the asked
paper? The embedded classifier, the nearest colours and the box around the ink tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.evaluation.digits import NOTHING, shares
from darkroom.models.classifier import mnist_classifier
from darkroom.models.painted_ink import COLOURS, DIGITS, PAPERS, boxes, fitted, ink, paper_names, read_ink
from darkroom.training.painted_scenes import KINDS, PLACES, PREFIXES, SIDE

INKY = 0.008  # of a picture's pixels, which even a small "one" covers wholly
LARGE, SMALL = 34, 23.5  # longer side of a digit's box from which on it is large, and up to which it is small
NEAR = 6.5  # pixels from the middle, along an axis: no further is in the middle, further is at a side
_NUMBERS = {word: number for number, word in enumerate(DIGITS)} | {str(number): number for number in range(10)}
_INK, _SIDE = "|".join(COLOURS), "|".join(PLACES.values())
_THING = re.compile(
    rf"(?:a|the) (?:(?P<size>large|small) )?(?:(?P<ink>{_INK}) )?(?:number )?(?P<digit>{'|'.join(_NUMBERS)})"
    rf"(?: in (?P<colour>{_INK}))?(?: (?P<place>{_SIDE}))?"
)
_PAPER = re.compile(rf" on (?P<paper>{'|'.join(PAPERS)})(?: paper)?$")


@dataclass(frozen=True)
class SceneWish:
    """What a picture is asked to show; kind: of painted_scenes.KINDS; digits, colours: two of a pair, from the left.
    A colour or a paper of "" is any."""

    kind: str
    digits: tuple[int, ...]
    colours: tuple[str, ...]
    paper: str
    seed: int = 0

    @property
    def prompt(self) -> str:
        size = f"{self.kind} " if self.kind in ("large", "small") else ""
        named = (f"a {size}{colour} {DIGITS[digit]}" for digit, colour in zip(self.digits, self.colours, strict=True))
        said = [" and ".join(named), PLACES.get(self.kind), f"on {self.paper}" if self.paper else ""]
        return " ".join(filter(None, said))


def wish_of(prompt: str) -> SceneWish | None:
    """What a prompt in the words of `painted_scenes` asks for; None for one that says anything else, or no digit."""
    text = prompt.strip()
    prefix = next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")
    paper = _PAPER.search(text)
    things = re.split(" and | beside ", text.removeprefix(prefix)[: -len(paper[0]) if paper else None])
    found = [_THING.fullmatch(thing) for thing in things]
    if not 0 < len(found) <= 2 or None in found:
        return None
    first = found[0]
    named = {place: kind for kind, place in PLACES.items()}
    kind = "pair" if len(found) == 2 else named.get(first["place"], first["size"] or "")
    colours = tuple(thing["ink"] or thing["colour"] or "" for thing in found)
    return SceneWish(kind, tuple(_NUMBERS[thing["digit"]] for thing in found), colours, paper["paper"] if paper else "")


@dataclass(frozen=True)
class SceneQuality:
    """Shares of pictures on which the asked digits (both of a pair), their colours, the paper are seen; and, of those
    that ask for a size, a side or a pair, on which the digits are so and there. by_kind: all four of a kind."""

    count: int
    digit_accuracy: float
    colour_accuracy: float
    paper_accuracy: float
    place_accuracy: float
    per_digit: dict[str, float]
    per_colour: dict[str, float]
    by_kind: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What is on each of N pictures or halves of pictures: a digit (NOTHING on a blank one), a colour's name ("" on a
    blank one), and the box around the ink: left, top, right, bottom in pixels, [N, 4]."""

    digits: list[int]
    colours: list[str]
    boxes: Tensor


def balanced_scenes(count: int, seed: int = 0) -> list[SceneWish]:
    """Every kind in turn, and within each every digit and every colour as often."""
    wishes = []
    for number in range(count):
        kind, turn = list(KINDS)[number % len(KINDS)], number // len(KINDS)
        paper = list(PAPERS)[turn % len(PAPERS)]
        inks = [name for name in COLOURS if name != paper]
        digits = (turn % 10, (turn * 3 + 4) % 10)
        colours = (inks[(turn + turn // 10) % len(inks)], inks[(turn * 2 + 3) % len(inks)])
        shown = 2 if kind == "pair" else 1
        wishes.append(SceneWish(kind, digits[:shown], colours[:shown], paper, seed + number))
    return wishes


def judge_scenes(pictures: Tensor, wishes: Sequence[SceneWish]) -> SceneQuality:
    """pictures float32 [N, 3, 48, 48] in [-1, 1]. ValueError for another size or number of them."""
    if not len(pictures) == len(wishes) > 0 or pictures.shape[1:] != (3, SIDE, SIDE):
        raise ValueError(f"{len(wishes)} pictures of {SIDE} x {SIDE} can be judged, not {list(pictures.shape)}")
    verdicts = [verdict(picture, wish) for picture, wish in zip(pictures, wishes, strict=True)]
    digit, colour, paper, place = (list(column) for column in zip(*verdicts, strict=True))
    placed = [right for right, wish in zip(place, wishes, strict=True) if wish.kind]
    kinds = [wish.kind or "plain" for wish in wishes]
    measures = {"digit": digit, "colour": colour, "paper": paper, "place": place}
    by_measure = {name: shares(kinds, right) for name, right in measures.items()}
    return SceneQuality(
        count=len(wishes),
        digit_accuracy=sum(digit) / len(digit),
        colour_accuracy=sum(colour) / len(colour),
        paper_accuracy=sum(paper) / len(paper),
        place_accuracy=sum(placed) / max(1, len(placed)),
        per_digit=shares([DIGITS[wish.digits[0]] for wish in wishes], digit),
        per_colour=shares([wish.colours[0] for wish in wishes], colour),
        by_kind={kind: {name: by_measure[name][kind] for name in measures} for kind in dict.fromkeys(kinds)},
    )


def see(pictures: Tensor) -> Seen:
    """pictures float32 [N, 3, H, W] in [-1, 1] that show one digit each, anywhere and of any size."""
    pictures = pictures.float().clamp(-1, 1)
    colour, map_of_ink = ink(pictures, INKY * SIDE**2 / pictures[0, 0].numel())
    found, names = boxes(map_of_ink), list(COLOURS)
    reading = read_ink(colour, map_of_ink, fitted(map_of_ink, found), mnist_classifier().classify)
    read = (reading.digits.argmax(dim=1), reading.colours.argmax(dim=1), reading.blank)
    digits, colours, blank = (column.tolist() for column in read)
    return Seen(
        [NOTHING if empty else digit for digit, empty in zip(digits, blank, strict=True)],
        ["" if empty else names[colour] for colour, empty in zip(colours, blank, strict=True)],
        found,
    )


def verdict(picture: Tensor, wish: SceneWish) -> tuple[bool, bool, bool, bool]:
    """Whether digits, colours, paper and place are as asked."""
    parts = picture[None].chunk(len(wish.digits), dim=3)
    seen = see(torch.cat(parts))
    (paper,) = paper_names(picture[None])
    place = all(_placed(box, wish.kind) for box in seen.boxes)
    colour = all(asked in ("", found) for asked, found in zip(wish.colours, seen.colours, strict=True))
    return tuple(seen.digits) == wish.digits, colour, wish.paper in ("", paper), place


def _placed(box: Tensor, kind: str) -> bool:
    """Whether a digit's box is where, and of what size, a picture of that kind has it."""
    left, top, right, bottom = box.tolist()
    side, x, y = max(right - left, bottom - top), (left + right - SIDE) / 2, (top + bottom - SIDE) / 2
    if kind == "pair":
        return 0 < side < LARGE and abs(y) <= NEAR  # which half it is in is known: each was looked at alone
    if kind in PLACES:
        along, across = (x, y) if kind in ("left", "right") else (y, x)
        beyond = along if kind in ("right", "bottom") else -along
        return beyond > NEAR and abs(across) <= NEAR
    return {"large": side >= LARGE, "small": 0 < side <= SMALL}.get(kind, side > 0)
