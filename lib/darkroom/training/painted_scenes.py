"""MNIST digits painted in colours, large or small, here or there, alone or beside another, with prompts that say what
was painted: the world that `sd-xs` knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from darkroom.models.painted_ink import COLOURS, DIGITS, PAPERS

SIDE = 48  # pixels of a picture
KINDS = {  # how often a picture is of which kind
    "": 0.2,
    "large": 0.12,
    "small": 0.12,
    "left": 0.08,
    "right": 0.08,
    "top": 0.08,
    "bottom": 0.08,
    "pair": 0.24,
}
FRAMES = {"": (38, 42), "large": (52, 58), "small": (26, 30), "side": (30, 34), "pair": (29, 33)}
CENTRES = {"left": (-11, 0), "right": (11, 0), "top": (0, -11), "bottom": (0, 11)}  # from the middle, x and y
PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
SMALL_SHARE = 0.3  # of the digits at a side
NULL_SHARE = 0.1  # classifier-free guidance needs the empty prompt too (arXiv 2207.12598)
HINT_SHARE = 0.1  # of prompts that name one thing alone, so that a negative prompt may: "red", "yellow paper"
PREFIXES = ("a photo of ", "a painting of ")


@dataclass(frozen=True, eq=False)
class World:
    """What is painted: of digits uint8 [N, 28, 28] with labels [N] any, pictures of those kinds, on those papers."""

    digits: np.ndarray
    labels: np.ndarray
    kinds: Mapping[str, float] = field(default_factory=lambda: KINDS)
    papers: Sequence[str] = tuple(PAPERS)

    def first_words(self) -> World:
        """Its simplest pictures: of each class the one digit that is nearest to their mean, in the middle, on one
        paper. Their prompts' words can mean nothing but a shape and a colour."""
        chosen = []
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)
            digits = self.digits[rows].astype(np.float32)
            chosen.append(rows[np.square(digits - digits.mean(axis=0)).sum(axis=(1, 2)).argmin()])
        return World(self.digits[chosen], self.labels[chosen], {"": 1.0}, ["grey"])


@dataclass(frozen=True)
class Digit:
    """One digit of a picture. frame: the side of MNIST's 28 pixels in the picture; x, y: their centre, in pixels."""

    digit: int
    colour: str
    frame: float
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """What is on a picture: one digit or two, from the left. kind: of KINDS; small: also a small one, at its side."""

    kind: str
    small: bool
    paper: str
    digits: tuple[Digit, ...]


@dataclass(frozen=True, eq=False)
class Painting:
    """pictures: float32 [B, 3, 48, 48] in [-1, 1]; of each what it shows and what its prompt says of that."""

    pictures: torch.Tensor
    scenes: list[Scene]
    prompts: list[str]


def vocabulary() -> list[str]:
    """Every word a prompt may hold; digits also as numerals."""
    phrases = " ".join((*PREFIXES, *PLACES.values(), "large small digit the number in and beside paper ink"))
    return sorted({*phrases.split(), *DIGITS, *map(str, range(10)), *COLOURS, *PAPERS})


def paint(world: World, count: int, generator: np.random.Generator) -> Painting:
    """`count` pictures of that world, and prompts for them."""
    scenes, chosen = [], np.zeros((2, count), int)
    for row in range(count):
        chosen[:, row] = generator.integers(len(world.digits), size=2)
        scenes.append(_scene([int(world.labels[index]) for index in chosen[:, row]], world, generator))
    prompts = [prompt_of(scene, generator) for scene in scenes]
    return Painting(draw(scenes, world.digits[chosen], generator), scenes, prompts)


def draw(scenes: list[Scene], digits: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """Pictures [B, 3, 48, 48] of the scenes. digits: uint8 [2, B, 28, 28], the second of those that hold a pair."""
    pictures = _colours([PAPERS[scene.paper] for scene in scenes])[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    for place in range(2):
        rows = [row for row, scene in enumerate(scenes) if len(scene.digits) > place]
        if not rows:
            continue
        shown = [scenes[row].digits[place] for row in rows]
        ink = _colours([COLOURS[digit.colour] for digit in shown])
        ink = (ink + torch.from_numpy(generator.normal(0, 0.04, ink.shape)).float()).clamp(-1, 1)
        mask = _put(torch.from_numpy(digits[place][rows].astype(np.float32) / 255)[:, None], shown)
        pictures = pictures.clone()
        pictures[rows] = torch.lerp(pictures[rows], ink[:, :, None, None], mask)
    return pictures


def prompt_of(scene: Scene, generator: np.random.Generator) -> str:
    """A sentence about the scene, which leaves some of it unsaid; now and then a word alone, or nothing at all."""
    chance = generator.random()
    if chance < NULL_SHARE:
        return ""
    if chance < NULL_SHARE + HINT_SHARE:
        return _hint(scene, generator)
    text = _pair(scene, generator) if scene.kind == "pair" else _single(scene, generator)
    if generator.random() < 0.5:
        text += f" on {scene.paper}" + (" paper" if generator.random() < 0.3 else "")
    return PREFIXES[generator.integers(len(PREFIXES))] + text if generator.random() < 0.2 else text


def _scene(labels: list[int], world: World, generator: np.random.Generator) -> Scene:
    kind = list(world.kinds)[generator.choice(len(world.kinds), p=list(world.kinds.values()))]
    paper = world.papers[generator.integers(len(world.papers))]
    colours = [name for name in COLOURS if name != paper]
    inks = [colours[index] for index in generator.integers(len(colours), size=2)]
    small = kind == "small" or (kind in CENTRES and generator.random() < SMALL_SHARE)
    frame = generator.uniform(*FRAMES["small" if small else "side" if kind in CENTRES else kind])
    x, y = np.array(CENTRES.get(kind, (0, 0))) + SIDE / 2 + generator.uniform(-2, 2, size=2)
    if kind != "pair":
        return Scene(kind, small, paper, (Digit(labels[0], inks[0], frame, x, y),))
    both = ((labels[0], inks[0], x - 11.5), (labels[1], inks[1], x + 11.5))
    return Scene(kind, False, paper, tuple(Digit(label, ink, frame, at, y) for label, ink, at in both))


def _single(scene: Scene, generator: np.random.Generator) -> str:
    digit, said = scene.digits[0], generator.random(5)
    words = [scene.kind if scene.kind == "large" else "small" if scene.small else ""]
    words = [words[0] if said[0] < 0.9 else "", digit.colour if said[1] < 0.85 else ""]
    name = _name(digit, generator) if said[2] < 0.92 else "digit"
    if said[3] < 0.08 and name != "digit":
        text = " ".join(filter(None, ["the", words[0], "number", name, "in", digit.colour]))
    else:
        text = " ".join(filter(None, ["a", *words, name]))
    place = PLACES.get(scene.kind, "")
    return f"{text} {place}" if place and said[4] < 0.9 else text


def _pair(scene: Scene, generator: np.random.Generator) -> str:
    coloured = generator.random() < 0.85
    first, second = (
        " ".join(filter(None, ["a", digit.colour if coloured else "", _name(digit, generator)]))
        for digit in scene.digits
    )
    chance = generator.random()
    if chance < 0.6:
        return f"{first} and {second}"
    if chance < 0.8:
        return f"{first} beside {second}"
    return f"{first} on the left and {second} on the right"


def _hint(scene: Scene, generator: np.random.Generator) -> str:
    digit = scene.digits[generator.integers(len(scene.digits))]
    size = "large" if scene.kind == "large" else "small" if scene.small else ""
    hints = [digit.colour, f"{digit.colour} ink", _name(digit, generator), f"{scene.paper} paper", f"on {scene.paper}"]
    hints += [*filter(None, [size, PLACES.get(scene.kind, "")])] * 2
    return hints[generator.integers(len(hints))]


def _name(digit: Digit, generator: np.random.Generator) -> str:
    return DIGITS[digit.digit] if generator.random() < 0.85 else str(digit.digit)


def _colours(named: list[tuple[int, int, int]]) -> torch.Tensor:
    return torch.tensor(named, dtype=torch.float32) / 127.5 - 1


def _put(grey: torch.Tensor, shown: list[Digit]) -> torch.Tensor:
    """Digits [B, 1, 28, 28] in 0..1, each in its frame on an empty sheet, [B, 1, 48, 48]."""
    theta = torch.zeros(len(shown), 2, 3)
    for row, digit in enumerate(shown):
        theta[row, 0, 0] = theta[row, 1, 1] = SIDE / digit.frame
        theta[row, :, 2] = (SIDE - 2 * torch.tensor([digit.x, digit.y])) / digit.frame
    grid = F.affine_grid(theta, [len(shown), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(grey, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)
