"""Pictures on a grid with a word for each row and column, as one PNG that needs no browser."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from darkroom.report.sheets import EDGE, FAINT, INK, PAPER, fitted
from darkroom.storage import to_uint8

DENSITY = 2  # pixels drawn for each pixel of the page, so that words stay sharp on dense screens
GAP, ROW_GAP, PAD = 4 * DENSITY, 6 * DENSITY, DENSITY
WORDS, LINE = 12 * DENSITY, 20 * DENSITY  # size of the letters, height of a line
WIDEST_LABEL = 150 * DENSITY


def draw_grid(
    pictures: Sequence[Tensor],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    side: int = 56,
    down: str = "",
    across: str = "",
) -> bytes:
    """PNG of pictures: a float tensor [N, C, S, S] in 0..1 (clamped) for each row, C 1 or 3, not all as long.

    rows, columns: their labels, or none. side: about how large a picture appears on the page, in its pixels; enlarged
    pixel by pixel, by a whole number. down, across: what rows and columns are, both or neither.
    """
    assert not rows or len(rows) == len(pictures), f"{len(rows)} labels for {len(pictures)} rows"
    font = ImageFont.load_default(WORDS)
    cell = _enlarged(pictures[0].shape[-1], side) * DENSITY
    left = PAD + _label_width([*rows, *filter(None, [down])], font)
    above = LINE if across else 0
    top = PAD + above + (LINE if columns else 0)
    width = left + max(map(len, pictures)) * (cell + GAP) - GAP + PAD
    sheet = Image.new("RGB", (width, top + len(pictures) * (cell + ROW_GAP) - ROW_GAP + PAD), PAPER)
    pen = ImageDraw.Draw(sheet)
    if across:
        (words,) = fitted(across, width - left - PAD, 1, font)
        pen.text(((left + width - PAD) // 2, PAD), words, INK, font, anchor="ma")
        pen.text((PAD, PAD + above), down, INK, font)
    for number, label in enumerate(columns):
        (words,) = fitted(label, cell + GAP, 1, font)
        pen.text((left + number * (cell + GAP) + cell // 2, PAD + above), words, FAINT, font, anchor="ma")
    for number, row in enumerate(pictures):
        y = top + number * (cell + ROW_GAP)
        if rows:
            pen.text((PAD, y + cell // 2), fitted(rows[number], WIDEST_LABEL, 1, font)[0], INK, font, anchor="lm")
        for place, picture in enumerate(row):
            _paste(sheet, pen, as_image(picture), left + place * (cell + GAP), y, cell)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def page_size(png: bytes) -> tuple[int, int]:
    """Width and height that a picture of `DENSITY` has on the page."""
    width, height = Image.open(io.BytesIO(png)).size
    return width // DENSITY, height // DENSITY


def as_image(picture: Tensor) -> Image.Image:
    """Float [C, S, S], clamped to 0..1, C 1 or 3 -> an RGB picture."""
    levels = to_uint8(picture.detach().float() * 2 - 1).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))


def _enlarged(size: int, side: int) -> int:
    return size * max(1, round(side / size))


def _label_width(rows: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    widest = max((font.getlength(fitted(label, WIDEST_LABEL, 1, font)[0]) for label in rows), default=0)
    return int(widest) + 10 * DENSITY if widest else 0


def _paste(sheet: Image.Image, pen: ImageDraw.ImageDraw, picture: Image.Image, x: int, y: int, cell: int) -> None:
    pen.rectangle((x - 1, y - 1, x + cell, y + cell), outline=EDGE)
    sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
