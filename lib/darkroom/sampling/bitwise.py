"""Operations that give a sample the same bits in every batch, on one device.

A kernel may round differently in the body of a vector and in what is left over, and so by an element's place in the
batch: exp and exp2, lerp and addcmul, quantile (which lerps) are all free to, and some do on some machines. What IEEE
rounds once (+ - * / clamp), what only picks (topk) and what is made of these cannot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def threshold(x0: Tensor, ratio: float, most: float) -> Tensor:
    """Dynamic thresholding of x0 [B, C, H, W]: within [-s, s], divided by s, where s is held within 1 .. most and is
    the `ratio` quantile of the sample's |x0|. Source: Imagen, arXiv 2205.11487, section 2.3.

    torch.quantile sorts everything, refuses more than 16 million values (six pictures of 1024 px) and rounds with lerp.
    """
    magnitudes = x0.abs().flatten(1)
    position = ratio * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    top = magnitudes.topk(magnitudes.shape[1] - below, dim=1).values
    low, high = top[:, -1], top[:, max(top.shape[1] - 2, 0)]
    s = (low + (high - low) * (position - below)).clamp(1.0, most)[:, None, None, None]
    return x0.clamp(-s, s) / s


def exp(z: Tensor) -> Tensor:
    """exp(z), float32, to about one rounding; z is held within -80 .. 80. Exactly 1 at 0.

    z = k log 2 + r with |r| <= log(2) / 2; log 2 in two parts, the first of them short, so that k times it is exact
    (Cody and Waite, "Software Manual for the Elementary Functions", 1980). Then exp(r) by its Taylor polynomial, and
    2^k by its bits.
    """
    z = z.clamp(-80.0, 80.0)
    k = (z * 1.4426950408889634).round()
    r = (z - k * 0.693359375) - k * -2.12194440054690583e-4
    series = torch.full_like(r, 1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        series = series * r + factor
    return series * ((k.to(torch.int32) + 127) << 23).view(torch.float32)


def deviation(x: Tensor) -> Tensor:
    """Standard deviation of each sample of x [B, C, (F,) H, W], of n - 1 values: [B, 1, (1,) 1, 1]."""
    count = x[0].numel()
    spread = x - _total(x) / count
    return (_total(spread * spread) / (count - 1)).sqrt()


def _total(x: Tensor) -> Tensor:
    """Sum of each sample, [B, 1, (1,) 1, 1], by halves: additions alone, in an order that the sample's size decides."""
    total = x.flatten(1)
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        rest = total[:, 2 * half :]
        total = torch.cat([total[:, :half] + total[:, half : 2 * half], rest], dim=1)
    return total.reshape(len(x), *[1] * (x.ndim - 1))
