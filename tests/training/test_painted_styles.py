"""Pictures of a style that a number tells: strokes as wide as they were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from darkroom.models.painted_ink import boldness, ink
from darkroom.storage import open_store
from darkroom.training.captions import read_captions
from darkroom.training.ingest import ingest
from darkroom.training.painted_styles import paint_bold, write_style


def test_boldness_of_bars_is_their_width_as_a_share_of_their_length() -> None:
    bars = torch.zeros(3, 1, 48, 48)
    bars[0, 0, 20:22, 4:44] = 1.0
    bars[1, 0, 4:44, 20:26] = 1.0
    found = boldness(bars)  # ends have edges too: w / (l + w), of l = 40
    assert found[:2].tolist() == pytest.approx([2 / 42, 6 / 46], rel=0.03) and found[2] == 0


def test_a_style_is_bolder_than_the_digits_that_it_is_made_of(tmp_path: Path) -> None:
    (plain, captions), (bold, same) = (paint_bold(20, 3, brush) for brush in (1, 3))
    widths = [boldness(ink(pictures, 0.008)[1]) for pictures in (plain, bold)]
    assert captions == same and (widths[1] / widths[0]).mean() > 1.4
    write_style(open_store(str(tmp_path / "style")), 20, 3)
    ingest("captions", str(tmp_path / "style"), str(tmp_path / "data"))
    assert [picture.text for picture in read_captions(str(tmp_path / "data"))] == captions
