"""Contact sheets: pictures enlarged on a grid with short captions, as one PNG that needs no browser."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 1280
MARGIN, GAP, BETWEEN = 32, 28, 6  # around the sheet, between figures, between the panels of a figure
LINE = 16
SMALLEST, LARGEST = 96, 128
PAPER, INK, FAINT, EDGE = "#fbfaf7", "#26231f", "#7c756b", "#d9d4ca"
ELLIPSIS = "…"


@dataclass(frozen=True)
class Cell:
    """A figure on the sheet. tiles: RGB images of one size; under: lines of words for each tile, the first its label;
    caption, note: lines below all."""

    tiles: list[Image.Image]
    under: list[list[str]]
    caption: list[str] = field(default_factory=list)
    note: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        return sum(tile.width for tile in self.tiles) + BETWEEN * (len(self.tiles) - 1)


def caption_font() -> ImageFont.FreeTypeFont:
    """The font that comes with PIL: every machine draws the same sheet."""
    return ImageFont.load_default(12)


def edge(side: int) -> int:
    """How large a picture whose longer side is so many pixels is shown: the least multiple within 96..128, so that
    pixels stay square."""
    if side >= LARGEST:
        return LARGEST
    enough = side * -(-SMALLEST // side)
    return enough if enough <= LARGEST else side * (LARGEST // side)


def shown_size(picture: np.ndarray, size: int) -> tuple[int, int]:
    """Width and height of a picture, [H, W, 3], whose longer side is shown at `size` pixels."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def tile(picture: np.ndarray, size: int) -> Image.Image:
    """uint8 [H, W, 3] at size x size: enlarged pixel by pixel, or shrunk smoothly. What is not square keeps its shape,
    in the middle of paper."""
    width, height = shown_size(picture, size)
    method = Image.Resampling.NEAREST if max(picture.shape[:2]) <= size else Image.Resampling.LANCZOS
    image = Image.fromarray(picture).resize((width, height), method)
    if width == height:
        return image
    square = Image.new("RGB", (size, size), PAPER)
    square.paste(image, ((size - width) // 2, (size - height) // 2))
    return square


def draw_sheet(title: str, subtitle: str, cells: list[Cell]) -> bytes:
    """The sheet as PNG, 1280 pixels wide, or wider where one figure is."""
    width = max([WIDTH, *(cell.width + 2 * MARGIN for cell in cells)])
    small, large = caption_font(), ImageFont.load_default(22)
    rows = _rows(cells, width - 2 * MARGIN)
    top = MARGIN + 56
    sheet = Image.new("RGB", (width, top + sum(_height(row) + GAP for row in rows) + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, INK, large)
    pen.text((MARGIN, MARGIN + 24), fitted(subtitle, width - 2 * MARGIN, 1, small)[0], FAINT, small)
    for row in rows:
        left = MARGIN
        for cell in row:
            _draw_cell(sheet, pen, cell, left, top, small)
            left += cell.width + GAP
        top += _height(row) + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def fitted(text: str, width: int, lines: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The text in at most so many lines of so many pixels, cut with an ellipsis; at least one line, maybe empty."""
    most = lines * width  # characters, were each a pixel wide: to measure more takes minutes of a long prompt
    text = text if len(text) <= most else text[:most] + ELLIPSIS
    words, done = " ".join(text.split()).split(" "), []
    while words and len(done) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        done.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        done[-1] += " " + ELLIPSIS
    return [_cut(line, width, font) for line in done]


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(line) <= width:
        return line
    kept = line.removesuffix(ELLIPSIS)
    while kept and font.getlength(kept + ELLIPSIS) > width:
        kept = kept[:-1]
    return kept.rstrip() + ELLIPSIS


def _rows(cells: list[Cell], width: int) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    left = width + 1
    for cell in cells:
        if left + cell.width > width:
            rows.append([])
            left = 0
        rows[-1].append(cell)
        left += cell.width + GAP
    return rows


def _height(row: list[Cell]) -> int:
    lines = (_lines_under(cell) + len(cell.caption) + len(cell.note) for cell in row)
    return max(cell.tiles[0].height + 6 + LINE * count for cell, count in zip(row, lines, strict=True))


def _lines_under(cell: Cell) -> int:
    return max(map(len, cell.under), default=0)


def _draw_cell(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, left: int, top: int, font: ImageFont.FreeTypeFont
) -> None:
    x, below = left, top + cell.tiles[0].height + 6
    for picture, words in zip(cell.tiles, cell.under, strict=True):
        pen.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=EDGE)
        sheet.paste(picture, (x, top))
        for number, line in enumerate(words):
            pen.text((x, below + LINE * number), _cut(line, picture.width, font), INK if number else FAINT, font)
        x += picture.width + BETWEEN
    below += LINE * _lines_under(cell)
    for number, line in enumerate([*cell.caption, *cell.note]):
        ink = INK if number < len(cell.caption) else FAINT
        pen.text((left, below + LINE * number), _cut(line, cell.width, font), ink, font)
