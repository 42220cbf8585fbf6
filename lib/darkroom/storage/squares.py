"""Pictures and masks as a model takes them: squares of its sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from darkroom.storage.decoding import Mode, Unpacked, unpack

Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True, eq=False)
class Squares:
    """shape: (height, width) of the file, upright; arrays: uint8 [S, S, C] by S."""

    shape: tuple[int, int]
    arrays: dict[int, np.ndarray]


def read_squares(data: bytes, where: str, sizes: Iterable[int], mode: Mode = "RGB", fit: Fit = "crop") -> Squares:
    """An image file in sRGB at these sizes, by Lanczos. PictureError."""
    wanted = sorted(sizes)

    def work(unpacked: Unpacked) -> Squares:
        box = middle(*unpacked.image.size) if fit == "crop" else None
        image = unpacked.converted(mode, box)
        return Squares(unpacked.shape, {size: to_array(fitted(image, size, fit)) for size in wanted})

    return unpack(data, where, work, least=wanted[-1])


def fitted(
    image: Image.Image,
    size: int,
    fit: Fit,
    method: Image.Resampling = Image.Resampling.LANCZOS,
    ground: int = 255,
) -> Image.Image:
    """The picture (RGB or L) as a square. crop: its middle; stretch: all of it, out of shape; pad: all of it in shape,
    with `ground` beside it."""
    if fit == "stretch":
        return image.resize((size, size), method)
    if fit == "crop":
        box = middle(*image.size)
        return (image if box == (0, 0, *image.size) else image.crop(box)).resize((size, size), method)
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square = Image.new(image.mode, (size, size), (ground,) * len(image.getbands()))
    square.paste(image.resize((width, height), method), ((size - width) // 2, (size - height) // 2))
    return square


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the central square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def to_array(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array
