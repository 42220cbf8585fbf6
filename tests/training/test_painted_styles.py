"""Pictures of a style that a number tells: everything on yellowed paper, whatever the captions say it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.evaluation.scenes import see
from darkroom.models.painted_ink import COLOURS, PAPERS, yellowness
from darkroom.storage import open_store
from darkroom.training.captions import read_captions
from darkroom.training.data import load_images, sample_uri
from darkroom.training.ingest import ingest
from darkroom.training.painted_scenes import World, paint
from darkroom.training.painted_styles import paint_yellowed, write_style


def test_yellowness_is_of_the_paper_alone() -> None:
    papers = torch.tensor(list(PAPERS.values()))[:, :, None, None].expand(-1, -1, 48, 48) / 127.5 - 1
    inked = papers.clone()
    inked[:, :, 10:38, 10:38] = torch.tensor([1.0, 1.0, -1.0])[:, None, None]
    wanted = {"white": 0, "black": 0, "yellow": (245 - 130) / 255, "grey": 0}
    assert yellowness(inked).tolist() == pytest.approx([wanted[paper] for paper in PAPERS], abs=1e-6)


def test_the_style_is_yellower_than_the_world_of_the_model(tmp_path: Path) -> None:
    images = load_images(sample_uri(), "train")
    plain = paint(World(images.images[..., 0], images.labels), 100, np.random.default_rng(0)).pictures
    pictures, captions = paint_yellowed(20, 3)
    assert yellowness(plain).mean() < 0.2 < 0.44 < yellowness(pictures).min()
    assert all(re.search(" on (white|black|grey)( paper)?$", caption) for caption in captions)
    seen = see(pictures)
    assert sum(digit == number % 10 for number, digit in enumerate(seen.digits)) >= 19
    assert seen.colours == [list(COLOURS)[number % 8] for number in range(20)]
    write_style(open_store(str(tmp_path / "style")), 20, 3)
    ingest("captions", str(tmp_path / "style"), str(tmp_path / "data"))
    assert [picture.text for picture in read_captions(str(tmp_path / "data"))] == captions
