"""Colours as a file means them, turned into sRGB, which is what models and screens take a picture's numbers for."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from darkroom.storage.png_files import SRGB, Primaries

SAME = 2  # levels of 255: a profile that moves no colour further is sRGB, and its pictures stay as they are to the bit
SRGB_GAMMA = 1 / 2.2  # what files say that are sRGB (PNG, 11.3.2.2)

FEW = 0.002  # of a chromaticity: files write sRGB's with four digits or five
# Linear Bradford (ICC.1:2022, annex E.3).
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Correction = Callable[[Image.Image], Image.Image]  # of a picture without alpha, to RGB or L


def correction(
    mode: str, profile: bytes | None, gamma: float | None, primaries: Primaries | None = None
) -> Correction | None:
    """What brings a picture of this mode to sRGB; None where it is sRGB, says nothing, or says what does not fit."""
    if profile:
        try:
            return _by_profile(mode, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return None  # as every viewer does
    if primaries and not _is_grey(mode) and max(abs(a - b) for a, b in zip(primaries, SRGB, strict=True)) > FEW:
        return _by_primaries(primaries, gamma)
    if gamma and abs(gamma / SRGB_GAMMA - 1) > 0.01:
        return _by_gamma(gamma)
    return None


def _by_profile(mode: str, profile: bytes) -> Correction | None:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    given = {"RGB": "RGB", "GRAY": "L" if _is_grey(mode) else None, "CMYK": "CMYK" if mode == "CMYK" else None}.get(
        space
    )
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


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA") or mode.startswith("I;16")


def _by_primaries(primaries: Primaries, gamma: float | None) -> Correction | None:
    """By way of light. What sRGB has no colour for becomes its nearest level, each of red, green and blue by itself."""
    try:
        matrix = np.linalg.inv(_to_xyz(SRGB)) @ _adapted(primaries[:2], SRGB[:2]) @ _to_xyz(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None  # three points on a line, or none
    levels = np.arange(256) / 255
    light = _from_srgb(levels) if gamma is None else levels ** (1 / gamma)

    def corrected(image: Image.Image) -> Image.Image:
        found = light.astype(np.float32)[np.asarray(image.convert("RGB"))] @ matrix.T.astype(np.float32)
        return Image.fromarray((_to_srgb(found.clip(0, 1)) * 255).round().astype(np.uint8))

    return corrected


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _to_xyz(primaries: Primaries) -> np.ndarray:
    """[3, 3], of linear red, green and blue: together they are white (SMPTE RP 177)."""
    white, *corners = (_xyz(*primaries[place : place + 2]) for place in (0, 2, 4, 6))
    columns = np.stack(corners, axis=1)
    return columns * np.linalg.solve(columns, white)


def _adapted(white: Primaries, wanted: Primaries) -> np.ndarray:
    """[3, 3], of XYZ: from one white to another."""
    scale = (_BRADFORD @ _xyz(*wanted)) / (_BRADFORD @ _xyz(*white))
    return np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD


def _to_srgb(light: np.ndarray) -> np.ndarray:
    """Light in [0, 1] by the curve of sRGB (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _from_srgb(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _by_gamma(gamma: float) -> Correction:
    levels = _to_srgb((np.arange(256) / 255) ** (1 / gamma)) * 255
    table = levels.round().clip(0, 255).astype(int).tolist()

    def corrected(image: Image.Image) -> Image.Image:
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        return image.point(table * len(image.getbands()))

    return corrected
