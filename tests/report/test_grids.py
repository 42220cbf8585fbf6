from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.report.grids import DENSITY, GAP, PAD, ROW_GAP, draw_grid, page_size


def read(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_enlarged_pixel_by_pixel(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 8, 8))
    sheet = read(draw_grid(list(torch.from_numpy(levels).float() / 255), side=16))
    times = 2 * DENSITY
    for y, line in enumerate(levels):
        for x, picture in enumerate(line):
            top, left = PAD + y * (8 * times + ROW_GAP), PAD + x * (8 * times + GAP)
            found = sheet[top : top + 8 * times, left : left + 8 * times]
            wanted = np.broadcast_to(picture.transpose(1, 2, 0), (8, 8, 3)).repeat(times, axis=0).repeat(times, axis=1)
            assert np.array_equal(found, wanted)


def test_values_beyond_the_range_are_black_and_white() -> None:
    sheet = read(draw_grid([torch.tensor([-3.0, 7.0]).view(2, 1, 1, 1)], side=1))
    assert sheet[PAD, PAD].tolist() == [0, 0, 0]
    assert sheet[PAD, PAD + DENSITY + GAP].tolist() == [255, 255, 255]


def test_rows_may_be_of_different_lengths_and_labels_make_room() -> None:
    rows = [torch.zeros(3, 1, 4, 4), torch.zeros(1, 1, 4, 4)]
    bare = page_size(draw_grid(rows, side=40))
    labelled = page_size(draw_grid(rows, ["first", "second"], ["a", "b", "c"], side=40))
    assert labelled[0] > bare[0] and labelled[1] > bare[1]
    endless = page_size(draw_grid(rows, ["first", "endless " * 90], ["word " * 90, "b", "c"], side=40))
    assert endless[0] < bare[0] + 200, "long words are cut"
