"""The course's UNet: two levels of BatchNorm convolutions around a single vector, skips by concatenation.

Source: Berkeley CS180, project 5B, "Flow Matching from Scratch": figures of the unconditional, the time-conditioned
and the class-conditioned UNet.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Conditioning = Literal["none", "time", "class"]


class CourseUNet(nn.Module):
    """Pictures [B, channels, size, size] to what is predicted of them, in the same shape.

    conditioning: "none" (a denoiser), "time" (a flow), "class" (a flow of `num_classes` labels).
    hidden: features at full size (D); the middle has 2 D. size: pixels a side, divisible by 4.
    Every parameter has a say in every forward pass, and nothing branches on a tensor's values.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 28,
        hidden: int = 64,
        conditioning: Conditioning = "none",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(size, hidden, channels, conditioning, num_classes)
        self.channels, self.size, self.conditioning, self.num_classes = channels, size, conditioning, num_classes
        self.conv1 = _conv_block(channels, hidden)
        self.down1 = _down_block(hidden, hidden)
        self.down2 = _down_block(hidden, 2 * hidden)
        self.flatten = nn.Sequential(nn.AvgPool2d(size // 4), nn.GELU())
        self.unflatten = _normed(nn.ConvTranspose2d(2 * hidden, 2 * hidden, size // 4, size // 4), 2 * hidden)
        self.up1 = _up_block(4 * hidden, hidden)
        self.up2 = _up_block(2 * hidden, hidden)
        self.head = nn.Sequential(_conv_block(2 * hidden, hidden), nn.Conv2d(hidden, channels, 3, 1, 1))
        if conditioning != "none":
            self.time1, self.time2 = _fc_block(1, 2 * hidden), _fc_block(1, hidden)
        if conditioning == "class":
            self.class1, self.class2 = _fc_block(num_classes, 2 * hidden), _fc_block(num_classes, hidden)

    def forward(self, x: Tensor, t: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """x float32 [B, C, S, S]; t float [B] in [0, 1]; label int64 [B], where num_classes (or None) is "no class".

        What the network is not conditioned on is ignored.
        """
        conv1 = self.conv1(x)
        down1 = self.down1(conv1)
        down2 = self.down2(down1)
        unflattened = self._modulate(1, self.unflatten(self.flatten(down2)), t, label)
        up1 = self._modulate(2, self.up1(torch.cat([unflattened, down2], dim=1)), t, label)
        up2 = self.up2(torch.cat([up1, down1], dim=1))
        return self.head(torch.cat([up2, conv1], dim=1))

    def _modulate(self, place: int, features: Tensor, t: Tensor | None, label: Tensor | None) -> Tensor:
        """class * features + time, with [B, F, 1, 1] of each."""
        if self.conditioning == "none":
            return features
        assert t is not None, f"a course UNet with conditioning {self.conditioning!r} is asked at a time"
        if self.conditioning == "class":
            features = features * getattr(self, f"class{place}")(self._one_hot(t, label))[:, :, None, None]
        return features + getattr(self, f"time{place}")(t.to(self._dtype)[:, None])[:, :, None, None]

    def _one_hot(self, t: Tensor, label: Tensor | None) -> Tensor:
        """[B, num_classes]; zeros for "no class", which is how the course drops the condition."""
        if label is None:
            return torch.zeros(len(t), self.num_classes, dtype=self._dtype, device=t.device)
        # A comparison and not F.one_hot, which looks at the largest label and so waits for the device.
        return (label[:, None] == torch.arange(self.num_classes, device=label.device)).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.time1[0].weight.dtype


def _check(size: int, hidden: int, channels: int, conditioning: str, num_classes: int) -> None:
    if size < 4 or size % 4:
        raise ValueError(f"a course UNet halves its pictures twice: their size must be divisible by 4; got {size}")
    if hidden < 1 or channels < 1:
        raise ValueError(f"hidden and channels must be at least 1; got hidden {hidden} and channels {channels}")
    if conditioning not in get_args(Conditioning):
        raise ValueError(f"conditioning must be one of {', '.join(get_args(Conditioning))}; got {conditioning!r}")
    if conditioning == "class" and num_classes < 1:
        raise ValueError(f"conditioning 'class' wants num_classes of at least 1; got {num_classes}")
    if conditioning != "class" and num_classes:
        raise ValueError(f"num_classes is for conditioning 'class' only; got {num_classes} with {conditioning!r}")


def _normed(convolution: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.GELU())


def _conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _normed(nn.Conv2d(inputs, outputs, 3, 1, 1), outputs), _normed(nn.Conv2d(outputs, outputs, 3, 1, 1), outputs)
    )


def _down_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_normed(nn.Conv2d(inputs, outputs, 3, 2, 1), outputs), _conv_block(outputs, outputs))


def _up_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_normed(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), outputs), _conv_block(outputs, outputs))


def _fc_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))
