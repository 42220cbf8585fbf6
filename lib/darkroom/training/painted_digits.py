"""MNIST digits painted in colours, with prompts that say what was painted: the world that `if-xs` knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from darkroom.models.painted_ink import COLOURS, DIGITS

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
TEMPLATE_WEIGHTS = (0.25, 0.15, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05)
NULL_PROMPT_SHARE = 0.1  # classifier-free guidance needs the empty prompt too (arXiv 2207.12598)


def vocabulary() -> list[str]:
    """Every word a prompt may hold; digits also as numerals."""
    template_words = {word for template in TEMPLATES for word in template.split() if not word.startswith("{")}
    return sorted(template_words | {*DIGITS, *map(str, range(10)), *COLOURS})


@dataclass(frozen=True)
class Painting:
    """small: float32 [B, 3, 24, 24] and large: [B, 3, 48, 48], both in [-1, 1]; prompts: B sentences."""

    small: torch.Tensor
    large: torch.Tensor
    prompts: list[str]


def paint(digits: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Painting:
    """Paints uint8 digits [B, 28, 28] in random colours: the middle 24 pixels at once and twice their size."""
    names, backgrounds = _choose_colours(len(digits), generator)
    ink = torch.tensor([COLOURS[name] for name in names], dtype=torch.float32) / 127.5 - 1
    ground = torch.tensor([COLOURS[name] for name in backgrounds], dtype=torch.float32) / 127.5 - 1
    ink = (ink + torch.from_numpy(generator.normal(0, 0.04, ink.shape)).float()).clamp(-1, 1)
    grey = torch.from_numpy(digits.astype(np.float32) / 255)[:, None]
    twice = F.interpolate(grey, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    prompts = [_sentence(*words, generator) for words in zip(labels, names, backgrounds, strict=True)]
    return Painting(_blend(grey[:, :, 2:26, 2:26], ink, ground), _blend(twice[:, :, 4:52, 4:52], ink, ground), prompts)


def _blend(mask: torch.Tensor, ink: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """mask [B, 1, H, W] in [0, 1], colours [B, 3] -> [B, 3, H, W]."""
    return torch.lerp(ground[:, :, None, None], ink[:, :, None, None], mask)


def _choose_colours(count: int, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    backgrounds = [BACKGROUNDS[i] for i in generator.integers(len(BACKGROUNDS), size=count)]
    inks = []
    for background in backgrounds:
        choices = [name for name in COLOURS if name != background]
        inks.append(choices[generator.integers(len(choices))])
    return inks, backgrounds


def _sentence(label: int, colour: str, background: str, generator: np.random.Generator) -> str:
    if generator.random() < NULL_PROMPT_SHARE:
        return ""
    digit = DIGITS[label] if generator.random() < 0.8 else str(label)
    template = TEMPLATES[generator.choice(len(TEMPLATES), p=TEMPLATE_WEIGHTS)]
    return template.format(c=colour, d=digit, b=background)
