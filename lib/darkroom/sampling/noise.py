"""Noise that depends on a row alone.

A row's noise is a function of (seed, stage, stream, draw, shape) and of nothing else: not of the rows beside it, the
order they came in, the worker, a retry or the device. A stateful generator per row would do in one process, but would
have to be carried through every retry and resume; with a counter-based one (Philox, Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011) any draw can be made at any time, and made again. It runs on the host, because
the generators of a GPU give other numbers than the CPU's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What a draw is for. A row that draws no KNOWN noise (no mask) still has the STEP noise of one that does.
START = 0  # the start state
STEP = 1  # the random part of a denoising step
KNOWN = 2  # re-noised pixels of a given image
LOWRES = 3  # noise added to the low-resolution image of an upscaling stage
ENCODE = 5  # a sample of the latents of a given image


def normal(seed: int, stage: int, stream: int, draw: int, shape: Sequence[int]) -> np.ndarray:
    """Standard normal numbers, float32 of `shape`.

    seed: any integer, taken modulo 2**64. stage, stream: 0 .. 2**32 - 1. draw: the how-manieth of its stream, from 0.

    Seed, stage and stream are Philox' key, the draw is the top word of its counter: each draw owns 2**192 blocks of
    four numbers, so no shape can run into the next draw. The bits are guaranteed by numpy, their way into normal
    numbers is not (NEP 19): the tests pin the first ones.
    """
    assert 0 <= stage < 2**32 and 0 <= stream < 2**32, f"stage {stage}, stream {stream}"
    assert 0 <= draw < 2**64, f"draw {draw}"
    key = np.array([seed % 2**64, stage << 32 | stream], dtype=np.uint64)
    counter = np.array([0, 0, 0, draw], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).standard_normal(tuple(shape), np.float32)
