"""Colours as a file means them, turned into sRGB, which is what models and screens take a picture's numbers for."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # levels of 255: a profile that moves no colour further is sRGB, and its pictures stay as they are to the bit
SRGB_GAMMA = 1 / 2.2  # what files say that are sRGB (PNG, 11.3.2.2)

Correction = Callable[[Image.Image], Image.Image]  # of a picture without alpha, to RGB or L


def correction(mode: str, profile: bytes | None, gamma: float | None) -> Correction | None:
    """What brings a picture of this mode to sRGB; None where it is sRGB, says nothing, or says what does not fit."""
    if profile:
        try:
            return _by_profile(mode, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return None  # as every viewer does
    if gamma and abs(gamma / SRGB_GAMMA - 1) > 0.01:
        return _by_gamma(gamma)
    return None


def _by_profile(mode: str, profile: bytes) -> Correction | None:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    grey = mode in ("1", "L", "LA") or mode.startswith("I;16")
    given = {"RGB": "RGB", "GRAY": "L" if grey else None, "CMYK": "CMYK" if mode == "CMYK" else None}.get(space)
    if given is None or (mode == "CMYK" and given != "CMYK"):
        return None
    srgb: Any = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(opened, srgb, given, "RGB")

    def corrected(image: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(image if image.mode == given else image.convert(given), transform)
        assert found is not None, "only a transform in place gives nothing back"
        return found

    return None if given != "CMYK" and _changes_little(corrected, given) else corrected


def _changes_little(corrected: Correction, mode: str) -> bool:
    """By every seventeenth level of each colour, or every grey."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    change = np.asarray(corrected(image)).astype(int) - np.asarray(image.convert("RGB"))
    return int(np.abs(change).max()) <= SAME


def _by_gamma(gamma: float) -> Correction:
    light = (np.arange(256) / 255) ** (1 / gamma)
    # IEC 61966-2-1: the curve of sRGB
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    table = levels.round().clip(0, 255).astype(int).tolist()

    def corrected(image: Image.Image) -> Image.Image:
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        return image.point(table * len(image.getbands()))

    return corrected
