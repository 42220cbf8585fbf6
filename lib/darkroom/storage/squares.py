"""Pictures and masks as a model takes them: of its sizes, mostly squares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from darkroom.storage.decoding import Mode, Unpacked, unpack

Fit = Literal["crop", "pad", "stretch"]
Size = int | tuple[int, int]  # the side of a square, or width and height


@dataclass(frozen=True, eq=False)
class Squares:
    """shape: (height, width) of the file, upright; arrays: uint8 [H, W, C] by size."""

    shape: tuple[int, int]
    arrays: dict[Size, np.ndarray]


def read_squares(data: bytes, where: str, sizes: Iterable[Size], mode: Mode = "RGB", fit: Fit = "crop") -> Squares:
    """An image file in sRGB at these sizes, by Lanczos. PictureError."""
    wanted = list(sizes)
    all_square = all(isinstance(size, int) for size in wanted)

    def work(unpacked: Unpacked) -> Squares:
        box = middle(*unpacked.image.size) if fit == "crop" and all_square else None
        image = unpacked.converted(mode, box)
        return Squares(unpacked.shape, {size: to_array(fitted(image, size, fit)) for size in wanted})

    return unpack(data, where, work, least=max(max(sides(size)) for size in wanted))


def sides(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def size_name(size: Size) -> str:
    """A size in a name: "512" of a square, else "768x512"."""
    width, height = sides(size)
    return f"{width}" if width == height else f"{width}x{height}"


def fitted(
    image: Image.Image,
    size: Size,
    fit: Fit,
    method: Image.Resampling = Image.Resampling.LANCZOS,
    ground: int = 255,
) -> Image.Image:
    """The picture (RGB or L) in a size. crop: its middle; stretch: all of it, out of shape; pad: all of it in shape,
    with `ground` beside it."""
    wanted = sides(size)
    if fit == "stretch":
        return image.resize(wanted, method)
    if fit == "crop":
        box = middle(*image.size, *wanted)
        return (image if box == (0, 0, *image.size) else image.crop(box)).resize(wanted, method)
    (wide, high), (width, height) = wanted, image.size
    # The side that fills its own is known before any division: a square's sides are rounded as they always were.
    if width * high >= height * wide:
        inner = wide, max(1, round(height * wide / width))
    else:
        inner = max(1, round(width * high / height)), high
    whole = Image.new(image.mode, wanted, (ground,) * len(image.getbands()))
    whole.paste(image.resize(inner, method), ((wide - inner[0]) // 2, (high - inner[1]) // 2))
    return whole


def middle(width: int, height: int, wide: int = 1, high: int = 1) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest part in the middle whose sides are as `wide` to `high`."""
    if width * high >= height * wide:
        across, down = round(height * wide / high), height
    else:
        across, down = width, round(width * high / wide)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def to_array(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array
