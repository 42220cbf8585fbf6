"""Measures the textures that a cascade of painted digits fills pictures with: stripes, dots, checks, small digits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.evaluation.cascade import sample_wishes, schedule_of
from darkroom.evaluation.digits import shares
from darkroom.models.catalog import open_model
from darkroom.models.classifier import mnist_classifier
from darkroom.models.painted_ink import COLOURS, PAPERS, PATTERNS, PLURALS, TILES, at_24, paper_of
from darkroom.training.painted_digits import BACKGROUNDS, pattern

TONE = 0.04  # of all pixels, those at either end of a picture's colours
ALIKE = 0.7  # the correlation with a pattern from which on it is one: of real ones 1, of small digits 0.4 at most
FAINT = 0.25  # of a small digit's ink: below it is what enlarging spreads around a stroke
PHASES = 8  # of each direction, at which patterns are held against a picture
SMALL = tuple(f"small {name}" for name in PLURALS)
TEXTURES = (*PATTERNS, *SMALL)


@dataclass(frozen=True)
class TextureWish:
    """What a picture is asked to be filled with; texture: of TEXTURES."""

    texture: str
    colour: str
    paper: str
    seed: int

    @property
    def prompt(self) -> str:
        *small, name = self.texture.split()
        return " ".join([*small, self.colour, name, "on", self.paper])


@dataclass(frozen=True)
class TextureQuality:
    """Shares of pictures that show the asked texture, and the two colours asked for; by texture, and the weakest."""

    count: int
    texture_accuracy: float
    colour_accuracy: float
    pattern_accuracy: float
    small_accuracy: float
    per_texture: dict[str, float]
    worst: str


@dataclass(frozen=True, eq=False)
class TextureEvaluation:
    """What was sampled and how it was judged; pictures [N, 3, S, S] and quality by stage, from the first."""

    wishes: list[TextureWish]
    pictures: list[Tensor]
    quality: list[TextureQuality]
    seconds: float

    def record(self) -> dict[str, object]:
        """What quality.json holds, by picture size."""
        sized = zip(self.pictures, self.quality, strict=True)
        return {"seconds": round(self.seconds, 1), **{str(p.shape[-1]): asdict(q) for p, q in sized}}

    def text(self) -> str:
        """A line per stage."""
        return "\n".join(
            f"{pictures.shape[-1]} px, {q.count} textures: {q.texture_accuracy:.1%} "
            f"(patterns {q.pattern_accuracy:.1%}, small digits {q.small_accuracy:.1%}; "
            f"worst: {q.worst}, {q.per_texture[q.worst]:.0%}), "
            f"colours {q.colour_accuracy:.1%}"
            for pictures, q in zip(self.pictures, self.quality, strict=True)
        )


def sample_textures(model: str, count: int, settings: Mapping[str, object]) -> TextureEvaluation:
    """Samples `count` textures with all stages of a cascade of painted digits, and reads them.

    settings: those of an evaluation: guidance, seed (of the first picture; the others follow), stride, or steps and
    their spacing. ValueError for no count.
    """
    if count < 1:
        raise ValueError(f"wanted some textures, got {count}")
    began, wishes = time.monotonic(), balanced_textures(count, int(str(settings["seed"])))
    cascade = open_model(model)
    pictures = sample_wishes(cascade, wishes, schedule_of(settings), len(cascade.stages))
    quality = [judge_textures(images, wishes) for images in pictures]
    return TextureEvaluation(wishes, pictures, quality, time.monotonic() - began)


def balanced_textures(count: int, seed: int = 0) -> list[TextureWish]:
    """Patterns and small digits in turn, each of them equally often, in every colour on either paper."""
    wishes = []
    for number in range(count):
        turn, kind = divmod(number, 2)
        texture = SMALL[turn % len(SMALL)] if kind else PATTERNS[turn % len(PATTERNS)]
        colour = list(COLOURS)[(turn + turn // len(COLOURS)) % len(COLOURS)]
        others = [paper for paper in BACKGROUNDS if paper != colour]
        wishes.append(TextureWish(texture, colour, others[turn // 2 % len(others)], seed + number))
    return wishes


def judge_textures(pictures: Tensor, wishes: Sequence[TextureWish]) -> TextureQuality:
    """pictures float32 [N, 3, S, S] in [-1, 1], S 24 or 48. ValueError for another size or number."""
    if not len(pictures) == len(wishes) > 0:
        raise ValueError(f"{len(pictures)} pictures of {len(wishes)} textures cannot be judged")
    right = [found == wish.texture for found, wish in zip(read_textures(pictures), wishes, strict=True)]
    colours = [pair == {wish.colour, wish.paper} for pair, wish in zip(tones(pictures), wishes, strict=True)]
    per_texture = shares([wish.texture for wish in wishes], right)
    kinds = shares(["pattern" if wish.texture in PATTERNS else "small" for wish in wishes], right)
    return TextureQuality(
        count=len(wishes),
        texture_accuracy=sum(right) / len(right),
        colour_accuracy=sum(colours) / len(colours),
        pattern_accuracy=kinds.get("pattern", math.nan),
        small_accuracy=kinds.get("small", math.nan),
        per_texture=per_texture,
        worst=min(per_texture, key=per_texture.__getitem__),
    )


def tones(pictures: Tensor) -> list[set[str]]:
    """Of pictures [N, 3, S, S], the names of the two colours they are made of."""
    names = COLOURS | {name: PAPERS[name] for name in BACKGROUNDS}
    palette = torch.tensor(list(names.values())) / 127.5 - 1
    ends = torch.stack(_ends(pictures.float().clamp(-1, 1))[1:], dim=1)
    nearest = torch.cdist(ends, palette.expand(len(ends), -1, -1)).argmin(dim=2)
    return [{list(names)[index] for index in pair} for pair in nearest.tolist()]


def read_textures(pictures: Tensor) -> list[str]:
    """Of pictures float32 [N, 3, S, S] in [-1, 1], S 24 or 48: which of TEXTURES fills each.

    It is a pattern where one, in whatever place, is like it enough; otherwise the
    small digit that the embedded classifier sees in the mean of its tiles.
    """
    return _read(_ends(pictures.float().clamp(-1, 1))[0])


def read_near_textures(pictures: Tensor) -> list[str]:
    """The same, of what is left of pictures [N, 3, S, S] without their low frequencies: about 0 is paper, and ink lies
    on the side that goes farther from it."""
    mean = pictures.float().clamp(-1, 1).mean(dim=1)
    away = mean - mean.flatten(1).median(dim=1).values[:, None, None]
    ink = away * away.pow(3).mean(dim=(1, 2), keepdim=True).sign()
    most = ink.flatten(1).topk(round(TONE * ink[0].numel()), dim=1).values.mean(dim=1)
    return _read((ink / most.clamp(min=1e-6)[:, None, None]).clamp(0, 1))


def _read(ink: Tensor) -> list[str]:
    """ink: how much of it lies on each pixel, [N, S, S] in 0..1."""
    names, drawn = _patterns()
    alike = _centred(at_24(ink[:, None]).flatten(1)) @ drawn.T
    best, which = alike.max(dim=1)
    digits = mnist_classifier().classify(_tile(ink)).argmax(dim=1)
    found = zip(best.tolist(), which.tolist(), digits.tolist(), strict=True)
    return [names[index] if likeness >= ALIKE else SMALL[digit] for likeness, index, digit in found]


def _tile(ink: Tensor) -> Tensor:
    """The mean of a picture's tiles in MNIST's frame, [N, S, S] -> [N, 1, 28, 28]."""
    side = ink.shape[-1] // TILES
    tiles = ink.unflatten(1, (TILES, side)).unflatten(3, (TILES, side)).mean(dim=(1, 3))
    large = F.interpolate(tiles[:, None], size=24, mode="bicubic").clamp(min=0)
    large = large / large.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return F.pad((large - FAINT).clamp(min=0) / (1 - FAINT), (2, 2, 2, 2))


def _ends(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """pictures [N, 3, H, W] of two colours -> where each pixel lies between them, [N, H, W] in 0..1, and the two,
    [N, 3]: what most of the border shows is 0."""
    pixels = pictures.flatten(2).transpose(1, 2)
    away = pixels - pixels.mean(dim=1, keepdim=True)
    axis = torch.linalg.eigh(away.transpose(1, 2) @ away).eigenvectors[:, :, -1]
    along = (away @ axis[:, :, None])[:, :, 0]
    count = round(TONE * along.shape[1])
    low, high = (
        torch.gather(pixels, 1, along.topk(count, largest=largest).indices[:, :, None].expand(-1, -1, 3)).mean(dim=1)
        for largest in (False, True)
    )
    paper = paper_of(pictures)
    swap = ((paper - high).square().sum(dim=1) < (paper - low).square().sum(dim=1))[:, None]
    low, high = torch.where(swap, high, low), torch.where(swap, low, high)
    direction = high - low
    share = ((pixels - low[:, None]) @ direction[:, :, None])[:, :, 0]
    share = share / direction.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
    return share.clamp(0, 1).unflatten(1, pictures.shape[-2:]), low, high


@cache
def _patterns() -> tuple[list[str], Tensor]:
    """Every pattern at places an eighth of its period apart: names, and maps of ink [M, 576], centred."""
    names, maps = [], []
    for name in PATTERNS:
        for along, down in product([phase / PHASES for phase in range(PHASES)], repeat=2):
            for lying in (False, True) if name == "stripes" else (False,):
                names.append(name)
                maps.append(F.avg_pool2d(pattern(name, along, down, lying)[None], 2).flatten())
    return names, _centred(torch.stack(maps))


def _centred(maps: Tensor) -> Tensor:
    """Each of [N, M] with mean 0 and length 1, so that products are correlations."""
    return F.normalize(maps - maps.mean(dim=1, keepdim=True), dim=1)
