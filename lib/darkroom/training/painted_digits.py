"""MNIST digits and textures painted in colours, with prompts that say what was painted: the world of `if-xs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.models.painted_ink import COLOURS, DIGITS, PATTERNS, PLURALS, TILES
from darkroom.sampling.components import make_component

BACKGROUNDS = ("white", "black")
TEMPLATES = (  # {c} colour, {d} digit, {b} background
    "a {c} {d}",
    "a photo of a {c} {d}",
    "a {c} {d} on {b}",
    "a photo of a {c} {d} on {b}",
    "the number {d} in {c}",
    "a {d}",
    "a {c} digit",
    "a high quality photo",
)
TEMPLATE_WEIGHTS = (0.17, 0.09, 0.3, 0.15, 0.09, 0.09, 0.06, 0.05)
TEXTURE_TEMPLATES = ("{c} {p} on {b}", "{c} {p}")  # {p}: stripes, dots, checks; "small {c} sevens" of digits
TEXTURE_WEIGHTS = (0.7, 0.3)
KINDS = ("digit", "pattern", "small", "hybrid")
KIND_WEIGHTS = (0.5, 0.2, 0.3)
ENLARGED_WEIGHTS = (0.4, 0.15, 0.2, 0.25)  # of what is learned to be enlarged: both parts of a hybrid are to stay
PARTED = (1.0, 2.5)  # where a hybrid's parts are parted: sigmas of low_pass and high_pass
PLAIN_SHARE = 0.25  # more pictures in black and white: which of the two is ink is learned last
NULL_PROMPT_SHARE = 0.1  # classifier-free guidance needs the empty prompt too (arXiv 2207.12598)
SIZE = 48
# Pixels of the large picture: finer than a stroke is wide, or a hybrid could not part them by their frequencies, and
# always in one place, as so small a network keeps no count of lines from one border to the other.
PERIODS = {"stripes": 6, "dots": 6, "checks": 8}
SMALL_INK = 1.25  # how much more ink small digits get, whose strokes are thinner than a pixel
EDGE = 3.0  # how much steeper than a sine a pattern's edges are


def vocabulary() -> list[str]:
    """Every word a prompt may hold, digits also as numerals; a paper with its "on", as it would take a larger encoder
    to tell "a white six on black" from "a black six on white"."""
    template_words = {word for template in TEMPLATES for word in template.split() if not word.startswith("{")}
    papers = {f"on {background}" for background in BACKGROUNDS}
    return sorted(template_words | {*DIGITS, *PLURALS, *PATTERNS, "small", *map(str, range(10)), *COLOURS, *papers})


@dataclass(frozen=True)
class Painting:
    """small: float32 [B, 3, 24, 24] and large: [B, 3, 48, 48], both in [-1, 1]; prompts: B sentences."""

    small: Tensor
    large: Tensor
    prompts: list[str]


def paint(
    digits: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
    kinds: Sequence[float] = KIND_WEIGHTS,
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> Painting:
    """Paints uint8 digits [B, 28, 28] in random colours on one of the backgrounds: the middle 24 pixels at once and
    twice their size; some of them repeated, small, in the place of others a pattern, and some hybrids of a digit and
    one of these, whose prompts name one of both. kinds: shares of the first of KINDS."""
    names, papers = _choose_colours(len(digits), backgrounds, generator)
    ink = torch.tensor([COLOURS[name] for name in names], dtype=torch.float32) / 127.5 - 1
    ground = torch.tensor([COLOURS[name] for name in papers], dtype=torch.float32) / 127.5 - 1
    ink = (ink + torch.from_numpy(generator.normal(0, 0.04, ink.shape)).float()).clamp(-1, 1)
    grey = torch.from_numpy(digits.astype(np.float32) / 255)[:, None]
    twice = F.interpolate(grey, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    pairs = list(zip(grey[:, :, 2:26, 2:26], twice[:, :, 4:52, 4:52], strict=True))
    masks, prompts = [], []
    for row, (label, colour, paper) in enumerate(zip(labels, names, papers, strict=True)):
        kind = KINDS[generator.choice(len(kinds), p=kinds)]
        if kind == "hybrid":
            texture, (_, near) = _texture(KINDS[generator.integers(1, 3)], labels[row - 1], pairs[row - 1], generator)
            masks.append(_hybrid(pairs[row][1], near, generator.uniform(*PARTED)))
            texture = texture if generator.random() < 0.5 else ""
        else:
            texture, pair = _texture(kind, label, pairs[row], generator)
            masks.append(pair)
        prompts.append(_sentence(label, texture, colour, paper, generator))
    small, large = (torch.stack(sized) for sized in zip(*masks, strict=True))
    return Painting(_blend(small, ink, ground), _blend(large, ink, ground), prompts)


def _texture(
    kind: str, label: int, digit: Sequence[Tensor], generator: np.random.Generator
) -> tuple[str, Sequence[Tensor]]:
    """What fills a picture, as a phrase that lacks its colour ("" for the one digit), and how much ink lies where,
    [1, 24, 24] and [1, 48, 48]; digit: the same of the digit."""
    if kind == "small":
        tiles = [(F.avg_pool2d(sized, TILES) * SMALL_INK).clamp(max=1) for sized in digit]
        return f"small {{c}} {PLURALS[label]}", [tile.repeat(1, TILES, TILES) for tile in tiles]
    if kind == "pattern":
        name = PATTERNS[generator.integers(len(PATTERNS))]
        large = pattern(name, lying=name == "stripes" and generator.random() < 0.5)[None]
        return f"{{c}} {name}", (F.avg_pool2d(large, 2), large)
    return "", digit


def _hybrid(far: Tensor, near: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """How much ink lies where, [1, 24, 24] and [1, 48, 48], of two such large ones, of which one is seen from afar."""
    large = (near + make_component("low_pass", sigma=sigma)((far - near)[None])[0]).clamp(0, 1)
    return F.avg_pool2d(large, 2), large


def pattern(name: str, along: float = 0.0, down: float = 0.0, lying: bool = False) -> Tensor:
    """How much ink lies where, float32 [48, 48] in [0, 1], of one of PATTERNS; along, down: where it begins, as shares
    of its period; lying: of stripes."""
    period = PERIODS[name]
    middles = (torch.arange(SIZE, dtype=torch.float32) + 0.5) * (2 * math.pi / period)
    y, x = (middles - 2 * math.pi * begin for begin in (down, along))
    if name == "stripes":
        wave = -torch.cos(y[:, None] if lying else x).expand(SIZE, SIZE) - 0.5
    elif name == "dots":
        wave = -torch.cos(x) - torch.cos(y)[:, None] - 1
    else:
        wave = 2 * torch.sin(x) * torch.sin(y)[:, None]
    return (0.5 + EDGE / 2 * wave).clamp(0, 1)


def _blend(mask: Tensor, ink: Tensor, ground: Tensor) -> Tensor:
    """mask [B, 1, H, W] in [0, 1], colours [B, 3] -> [B, 3, H, W]."""
    return torch.lerp(ground[:, :, None, None], ink[:, :, None, None], mask)


def _choose_colours(
    count: int, backgrounds: Sequence[str], generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    papers = [backgrounds[i] for i in generator.integers(len(backgrounds), size=count)]
    inks = []
    for background in papers:
        plain = generator.random() < PLAIN_SHARE
        choices = [name for name in (BACKGROUNDS if plain else COLOURS) if name != background]
        inks.append(choices[generator.integers(len(choices))])
    return inks, papers


def _sentence(label: int, texture: str, colour: str, background: str, generator: np.random.Generator) -> str:
    """texture: what is painted instead of one digit, "" for the digit."""
    if generator.random() < NULL_PROMPT_SHARE:
        return ""
    if texture:
        template = TEXTURE_TEMPLATES[generator.choice(len(TEXTURE_TEMPLATES), p=TEXTURE_WEIGHTS)]
        return template.replace("{c} {p}", texture).format(c=colour, b=background)
    digit = DIGITS[label] if generator.random() < 0.8 else str(label)
    template = TEMPLATES[generator.choice(len(TEMPLATES), p=TEMPLATE_WEIGHTS)]
    return template.format(c=colour, d=digit, b=background)
