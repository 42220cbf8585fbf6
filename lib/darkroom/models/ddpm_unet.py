"""The UNet of DDPM: residual blocks that are told the time and the class, self-attention at the low resolutions.

Source: arXiv 2006.11239 (DDPM), appendix B, which is PixelCNN++'s backbone with GroupNorm and a sinusoidal time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of a GroupNorm, as far as they divide its features
HEAD = 64  # features of an attention head, at most

# 16.7 M parameters, 3.0 GFLOP a forward pass of one picture; and 2.7 M, 0.58 GFLOP.
CIFAR10: dict[str, Any] = dict(channels=3, size=32, width=64, multipliers=(1, 2, 4, 4), blocks=1, attention=(16,))
MNIST: dict[str, Any] = dict(channels=1, size=28, width=32, multipliers=(1, 2, 4), blocks=1, attention=(7,))


class DDPMUNet(nn.Module):
    """Noisy pictures [B, channels, size, size] at timesteps t to a prediction in the same shape.

    width: features at full size; multipliers: how many times that at each level, every level half the size of the one
    before; blocks: residual blocks a level (one more on the way up); attention: the sizes in pixels at which each block
    is followed by self-attention; num_classes: 0 for none. Every parameter has a say in every forward pass, and nothing
    branches on a tensor's values.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int] = (),
        num_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(size, width, multipliers, blocks, attention, num_classes)
        self.channels, self.size, self.num_classes = channels, size, num_classes
        told = 4 * width
        levels = [(size >> level, width * multiplier) for level, multiplier in enumerate(multipliers)]
        make = functools.partial(_Block, told=told, dropout=dropout)
        self.time = _Time(width, told)
        self.classes = nn.Embedding(num_classes + 1, told) if num_classes else None
        self.stem = nn.Conv2d(channels, width, 3, 1, 1)
        self.down, skips = _way_down(width, levels, blocks, attention, make)
        bottom = levels[-1][1]
        self.middle = nn.ModuleList([make(bottom, bottom, attends=True), make(bottom, bottom, attends=False)])
        self.up = _way_up(skips, levels, blocks, attention, make)
        self.head = nn.Sequential(_norm(levels[0][1]), nn.SiLU(), _silent(nn.Conv2d(levels[0][1], channels, 3, 1, 1)))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """x float32 [B, C, S, S]; t int64 [B]; label int64 [B], where num_classes (or None) is "no class"."""
        told = self.time(t)
        if self.classes is not None:
            told = told + self.classes(torch.full_like(t, self.num_classes) if label is None else label)
        told = F.silu(told)
        x = self.stem(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, told)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, told)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1) if isinstance(layer, _Block) else x, told)
        return self.head(x)


def _way_down(
    features: int, levels: list[tuple[int, int]], blocks: int, attention: Sequence[int], make: Callable[..., _Block]
) -> tuple[nn.ModuleList, list[int]]:
    """From the stem's features to the lowest level's, and the features of every state that is kept for a skip."""
    layers, skips = nn.ModuleList(), [features]
    for at, outputs in levels:
        for _ in range(blocks):
            layers.append(make(features, outputs, attends=at in attention))
            features = outputs
            skips.append(features)
        if (at, outputs) != levels[-1]:
            layers.append(_Down(features))
            skips.append(features)
    return layers, skips


def _way_up(
    skips: list[int],
    levels: list[tuple[int, int]],
    blocks: int,
    attention: Sequence[int],
    make: Callable[..., _Block],
) -> nn.ModuleList:
    """Back to the first level's features; every block takes one skip, last kept first."""
    layers, skips, features = nn.ModuleList(), list(skips), skips[-1]
    for at, outputs in reversed(levels):
        for _ in range(blocks + 1):
            layers.append(make(features + skips.pop(), outputs, attends=at in attention))
            features = outputs
        if (at, outputs) != levels[0]:
            layers.append(_Up(features))
    return layers


class _Time(nn.Module):
    """t int64 [B] -> [B, told]: sines and cosines of geometrically spaced frequencies, then an MLP."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, told), nn.SiLU(), nn.Linear(told, told))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies.float()
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1).to(self.mlp[0].weight.dtype))


class _Block(nn.Module):
    """A residual block, and where `attends` self-attention after it. [B, inputs, S, S] -> [B, outputs, S, S]."""

    def __init__(self, inputs: int, outputs: int, told: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1))
        self.told = nn.Linear(told, outputs)
        last = _silent(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.second = nn.Sequential(_norm(outputs), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = _Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        inside = self.first(x) + self.told(told)[:, :, None, None]
        return self.attention(self.skip(x) + self.second(inside))


class _Attention(nn.Module):
    """Every pixel looks at every other; a residual."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(-(-features // HEAD), features + 1) if features % heads == 0)
        self.norm = _norm(features)
        self.ask = nn.Linear(features, 3 * features)
        self.answer = _silent(nn.Linear(features, features))

    def forward(self, x: Tensor) -> Tensor:
        batch, features, height, width = x.shape
        # Pixels as rows are what channels_last memory is already, so neither transpose copies there.
        rows = self.norm(x).flatten(2).transpose(1, 2)
        split = self.ask(rows).view(batch, height * width, 3, self.heads, features // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows.shape)
        return x + self.answer(seen).transpose(1, 2).view(x.shape)


class _Down(nn.Module):
    """Half the size, by a strided convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(features, features, 3, 2, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.convolution(x)


class _Up(nn.Module):
    """Twice the size: each pixel four times, then a convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(features, features, 3, 1, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(features: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, features), features)


def _silent(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with zeros for weights: what ends in it says nothing at the start of training."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check(
    size: int, width: int, multipliers: Sequence[int], blocks: int, attention: Sequence[int], num_classes: int
) -> None:
    if width < 2 or width % 2 or blocks < 1 or not multipliers or min(multipliers) < 1 or num_classes < 0:
        raise ValueError(
            "a DDPM UNet wants an even width, blocks and multipliers of 1 or more and num_classes of 0 or more; "
            f"got width {width}, blocks {blocks}, multipliers {list(multipliers)}, num_classes {num_classes}"
        )
    factor = 2 ** (len(multipliers) - 1)
    if size < factor or size % factor:
        raise ValueError(f"{len(multipliers)} levels halve the size {size} to a fraction: it must divide by {factor}")
    sizes = [size >> level for level in range(len(multipliers))]
    if strange := sorted(set(attention) - set(sizes)):
        raise ValueError(f"attention at {strange} pixels, but the levels have {sizes}")
