from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.evaluation.cascade import Asked, balanced, contact_sheet, evaluate, sample_and_judge
from darkroom.evaluation.digits import Seen
from darkroom.models.painted_ink import COLOURS


def test_eighty_wishes_are_every_digit_in_every_colour() -> None:
    asked = balanced(500, seed=9)
    assert {(a.digit, a.colour) for a in asked[:80]} == {(d, c) for d in range(10) for c in COLOURS}
    assert np.bincount([a.digit for a in asked]).tolist() == [50] * 10
    assert [a.seed for a in asked] == list(range(9, 509))
    assert asked[7].prompt == "a red seven"


def test_a_sheet_frames_what_is_wrong() -> None:
    asked = [Asked(1, "red", 0), Asked(2, "blue", 1), Asked(3, "cyan", 2)]
    sheet = contact_sheet(-torch.ones(3, 3, 24, 24), asked, Seen([1, 2, 8], ["red", "red", "cyan"]))
    assert sheet.shape == (100, 1000, 3)
    assert [tuple(sheet[0, 100 * i]) for i in range(4)] == [(128,) * 3, (255, 0, 160), (255, 0, 160), (128,) * 3]
    assert not sheet[2:98, 2:98].any()


def test_a_whole_cascade_is_sampled_judged_and_written_down(untrained_cascade: Path, tmp_path: Path) -> None:
    evaluation = evaluate(str(untrained_cascade), str(tmp_path), count=3, stride=500, guidance=2.0, seed=4)
    assert [pictures.shape for pictures in evaluation.pictures] == [(3, 3, 24, 24), (3, 3, 48, 48)]
    record = json.loads((tmp_path / "quality.json").read_text())
    assert (record["count"], record["guidance"], record["seed"]) == (3, 2.0, 4)
    assert set(record["quality"]) == {"24", "48"} and record["quality"]["24"]["count"] == 3
    assert Image.open(tmp_path / "sheet-48.png").size == (1000, 100)
    again = sample_and_judge(str(untrained_cascade), count=3, stride=500, guidance=2.0, seed=4, stages=1)
    assert len(again.pictures) == 1 and torch.equal(again.pictures[0], evaluation.pictures[0])


def test_what_cannot_be_sampled_is_a_sentence(untrained_cascade: Path) -> None:
    with pytest.raises(ValueError, match="wanted 1 to 2 stages and some pictures, got 3 and 4"):
        sample_and_judge(str(untrained_cascade), count=4, stages=3)


@pytest.mark.slow
def test_the_embedded_model_paints_what_it_is_asked() -> None:
    """The bounds are those the model card states for 500 pictures, less three standard errors of 100."""
    for quality in sample_and_judge("if-xs", count=100).quality:
        assert quality.digit_accuracy >= 0.81
        assert quality.colour_accuracy >= 0.88
