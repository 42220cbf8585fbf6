"""Masks as their editors meant them: what of a picture is painted anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from darkroom.storage.decoding import PictureError, Unpacked, unpack
from darkroom.storage.squares import Fit, Size, Squares, fitted, to_array

FULL_SCALES = (1, 255, 1023, 4095)  # of a mask that uses less than the 16 bits of its file
LOOKED_AT = 2**20  # pixels, for a message


@dataclass(frozen=True, eq=False)
class Mask(Squares):
    """255 where paint goes, else 0, C is 1. painted: pixels of the file; values: in it, a few of them, for people."""

    painted: int
    values: tuple[float, ...]


def read_mask(
    data: bytes, where: str, sizes: Iterable[Size], fit: Fit = "crop", ids: tuple[int, ...] | None = None
) -> Mask:
    """A mask file at these sizes: white on black, any one colour on black, or strokes on a transparent ground, of any
    depth; of class ids (grey levels, or places in a palette) those in `ids`. Values are never mixed; what `fit` pads is
    kept. PictureError."""

    def work(unpacked: Unpacked) -> Mask:
        painted = _of_ids(unpacked, ids) if ids else _painted(unpacked.image)
        image = Image.fromarray(painted.view(np.uint8) * np.uint8(255))
        arrays = {size: to_array(fitted(image, size, fit, Image.Resampling.NEAREST, ground=0)) for size in sizes}
        return Mask(unpacked.shape, arrays, int(np.count_nonzero(painted)), _values(unpacked))

    return unpack(data, where, work)


def _painted(image: Image.Image) -> np.ndarray:
    """bool [H, W]. The first reading by which anything is selected is what was meant."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque = np.asarray(rgba.getchannel("A")) >= 128
        image = rgba.convert("RGB")
        if not opaque.all():  # strokes on a layer; dark ones beside light ones were to take away from these
            light = opaque & (_brightest(image) >= 128)
            return light if light.any() else opaque
    painted = np.zeros((image.height, image.width), bool)
    for painted in _readings(image):
        if painted.any():
            break
    return painted


def _readings(image: Image.Image) -> Iterator[np.ndarray]:
    """Of a mask without transparent parts."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        full = next((full for full in FULL_SCALES if levels.max() <= full), 65535)
        yield levels > full / 2
        yield _higher_of_two(levels)
        return
    levels = np.asarray(image.convert("L"))
    yield levels >= 128
    if image.mode not in ("1", "L"):
        yield _brightest(image.convert("RGB")) >= 128
    yield _higher_of_two(levels)
    if image.mode == "P":
        yield _higher_of_two(np.asarray(image))  # a palette that nobody filled


def _brightest(image: Image.Image) -> np.ndarray:
    """Of a pixel's red, green and blue: pure red and pure blue are dark to the eye."""
    red, green, blue = (np.asarray(image.getchannel(name)) for name in "RGB")
    return np.maximum(np.maximum(red, green), blue)


def _higher_of_two(levels: np.ndarray) -> np.ndarray:
    """Nothing, where there are not just two levels."""
    lowest, highest = levels.min(), levels.max()
    high = levels == highest
    return high if lowest < highest and (high | (levels == lowest)).all() else np.zeros_like(high)


def _of_ids(unpacked: Unpacked, ids: tuple[int, ...]) -> np.ndarray:
    levels = _levels(unpacked)
    if levels is None:
        raise PictureError(
            f"{unpacked.where}: the mask has colours ({unpacked.image.mode}); 'mask_value' wants class ids that are "
            "grey levels or places in a palette"
        )
    painted = np.zeros(levels.shape, bool)
    for number in ids:
        painted |= levels == number
    return painted


def _levels(unpacked: Unpacked) -> np.ndarray | None:
    """[H, W]: the numbers that a mask was written with. None where these are colours."""
    image = unpacked.image
    if image.mode in ("1", "P", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode in ("L", "LA"):
        return np.asarray(image.getchannel("L")) // unpacked.id_step
    if image.mode not in ("RGB", "RGBA"):
        return None
    red, green, blue = (np.asarray(image.getchannel(name)) for name in "RGB")
    return red if (red == green).all() and (red == blue).all() else None


def _values(unpacked: Unpacked) -> tuple[float, ...]:
    levels = _levels(unpacked)
    if levels is None:
        return ()
    every = -(-levels.size // LOOKED_AT)
    return tuple(np.unique(levels.reshape(-1)[::every]).tolist())
