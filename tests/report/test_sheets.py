from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from darkroom.report.sheets import MARGIN, PAPER, WIDTH, Cell, caption_font, draw_sheet, edge, fitted, shown_size, tile

TOP = MARGIN + 56


SHOWN = {1: 96, 16: 96, 24: 96, 28: 112, 32: 96, 40: 120, 44: 88, 48: 96, 64: 128, 100: 100, 128: 128, 1024: 128}


@pytest.mark.parametrize(("side", "shown"), SHOWN.items())
def test_pictures_are_shown_at_a_whole_multiple(side: int, shown: int) -> None:
    assert edge(side) == shown


def test_small_pictures_are_enlarged_pixel_by_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    assert np.array_equal(np.array(tile(picture, 96)), picture.repeat(4, axis=0).repeat(4, axis=1))


def test_large_pictures_are_shrunk() -> None:
    assert np.array(tile(np.full((256, 256, 3), 77, np.uint8), 128)).tolist() == np.full((128, 128, 3), 77).tolist()


def test_what_is_not_square_keeps_its_shape() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 24, 3), np.uint8)
    twice, paper = picture.repeat(4, axis=0).repeat(4, axis=1), np.array(Image.new("RGB", (96, 24), PAPER))
    assert np.array_equal(np.array(tile(picture, 96)), np.concatenate([paper, twice, paper]))
    assert np.array_equal(np.array(tile(picture.swapaxes(0, 1), 96)), np.array(tile(picture, 96)).swapaxes(0, 1))
    shrunk = np.array(tile(np.full((300, 200, 3), 77, np.uint8), 96))
    assert shrunk.shape == (96, 96, 3) and (shrunk[:, 16:80] == 77).all() and not (shrunk[:, [15, 80]] == 77).any()
    assert shown_size(np.empty((1, 500, 3)), 96) == (96, 1)


def test_the_sheet_holds_the_tiles_in_rows() -> None:
    colours = [(number * 9, 40, 200) for number in range(25)]
    cells = [Cell([Image.new("RGB", (96, 96), colour)], [[]], ["a caption"], ["seed 1"]) for colour in colours]
    sheet = np.array(Image.open(io.BytesIO(draw_sheet("Title", "below", cells))))
    assert sheet.shape[1] == WIDTH
    step = 96 + 6 + 2 * 16 + 28
    for number, colour in enumerate(colours):
        x, y = MARGIN + (number % 10) * 124, TOP + (number // 10) * step
        assert (sheet[y : y + 96, x : x + 96] == colour).all(), f"tile {number}"


def test_a_figure_wider_than_the_sheet_widens_it() -> None:
    cell = Cell([Image.new("RGB", (96, 96), "red")] * 24, [["start"]] * 24)
    sheet = np.array(Image.open(io.BytesIO(draw_sheet("Title", "", [cell]))))
    assert sheet.shape[1] == 24 * 96 + 23 * 6 + 2 * MARGIN
    assert (sheet[TOP, MARGIN + 23 * 102 : MARGIN + 23 * 102 + 96] == (255, 0, 0)).all()


def test_captions_stay_below_their_picture() -> None:
    long = "an extraordinarily long prompt that has no end " * 9
    red, blue = (Image.new("RGB", (96, 96), colour) for colour in ("red", "blue"))
    cells = [Cell([red], [[long]], [long], [long]), Cell([blue], [[]])]
    sheet = np.array(Image.open(io.BytesIO(draw_sheet("Title", long * 9, cells))))
    between = sheet[TOP + 97 :, MARGIN + 97 :]
    assert (between == sheet[-1, -1]).all(), "words beside the picture they belong to"


@pytest.fixture
def font() -> ImageFont.FreeTypeFont:
    return caption_font()


def test_short_text_is_kept_as_it_is(font) -> None:
    assert fitted("a red seven", 96, 2, font) == ["a red seven"]
    assert fitted("a photo of  a\npurple five", 96, 2, font) == ["a photo of a", "purple five"]


@pytest.mark.parametrize("text", ["a prompt of many words " * 9, "unbreakable" * 20, "短い文" * 30])
@pytest.mark.parametrize("lines", [1, 2])
def test_long_text_is_cut_to_width_with_an_ellipsis(text: str, lines: int, font) -> None:
    found = fitted(text, 96, lines, font)
    assert len(found) <= lines
    assert found[-1].endswith("…")
    assert all(font.getlength(line) <= 96 for line in found)


def test_a_text_of_megabytes_is_cut_before_it_is_measured() -> None:
    (line,) = fitted("x" * 5_000_000, 100, 1, caption_font())
    assert line.endswith("x\N{HORIZONTAL ELLIPSIS}") and caption_font().getlength(line) <= 100
