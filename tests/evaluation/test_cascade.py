from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from darkroom.jobs import evaluate as job
from PIL import Image

from darkroom.evaluation.cascade import Wish, balanced, sample_and_judge
from darkroom.models.painted_ink import COLOURS
from darkroom.report.cascade import cascade_sheet, write_cascade_evaluation
from darkroom.report.evaluation import WRONG
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_digits import _blend


def test_eighty_wishes_are_every_digit_in_every_colour() -> None:
    asked = balanced(500, seed=9)
    assert {(a.digit, a.colour) for a in asked[:80]} == {(d, c) for d in range(10) for c in COLOURS}
    assert np.bincount([a.digit for a in asked]).tolist() == [50] * 10
    assert [a.seed for a in asked] == list(range(9, 509))
    assert asked[7].prompt == "a red seven on black"


def test_wishes_take_every_paper_in_turn_and_none_of_their_ink() -> None:
    asked = balanced(160)
    assert {(a.digit, a.colour, a.paper) for a in asked} == {
        (d, c, paper) for d in range(10) for c in COLOURS for paper in ("white", "black") if paper != c
    }
    papers = [a.paper for a in balanced(500, papers=("white", "black", "yellow", "grey"))]
    assert all(110 <= papers.count(paper) <= 140 for paper in ("white", "black", "yellow", "grey"))


def test_a_sheet_frames_what_is_wrong(tmp_path: Path) -> None:
    """Two red ones, the second of which was to be on black: framed; the first is not."""
    sample = load_images(sample_uri(), "test")
    mask = torch.from_numpy(sample.images[sample.labels == 1][:2, :, :, 0].copy()).float()[:, None, 2:26, 2:26] / 255
    red, white = (torch.tensor([COLOURS[name]] * 2) / 127.5 - 1 for name in ("red", "white"))
    sheet = cascade_sheet(_blend(mask, red, white), [Wish(1, "red", "white", 0), Wish(1, "red", "black", 1)])
    (tmp_path / "sheet.png").write_bytes(sheet)
    image = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    framed = (image == [int(WRONG[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any(axis=0).nonzero()[0]
    pictures = (image == COLOURS["white"]).all(axis=2).any(axis=0).nonzero()[0]
    middle = (pictures.min() + pictures.max()) // 2
    assert framed.size and framed.min() >= middle and framed.max() > pictures.max() and pictures.min() < middle


def test_what_a_cascade_leaves_out_of_account_is_refused(
    untrained_cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        ({"sampler": "heun"}, "--sampler is for a network, and"),
        ({"data": sample_uri()}, "--data is for a network, and"),
        ({"guidance": float("inf")}, "guidance must be a finite number, was inf"),
    ):
        with pytest.raises(typer.Exit) as ended:
            job.main(str(untrained_cascade), out=str(tmp_path / "out"), count=1, illusions=0, textures=0, **given)
        assert ended.value.exit_code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_whole_cascade_is_sampled_judged_and_written_down(untrained_cascade: Path, tmp_path: Path) -> None:
    evaluation = sample_and_judge(str(untrained_cascade), count=3, stride=500, guidance=2.0, seed=4)
    assert write_cascade_evaluation(evaluation, str(tmp_path)).startswith("24 px, 3 pictures: digit ")
    assert [pictures.shape for pictures in evaluation.pictures] == [(3, 3, 24, 24), (3, 3, 48, 48)]
    record = json.loads((tmp_path / "quality.json").read_text())
    assert (record["count"], record["guidance"], record["seed"]) == (3, 2.0, 4)
    assert set(record["quality"]) == {"24", "48"} and record["quality"]["24"]["count"] == 3
    assert set(record["quality"]["24"]["per_paper"]) == {"white", "black"}
    assert {path.name for path in tmp_path.glob("*.png")} == {"sheet-24.png", "sheet-48.png"}
    again = sample_and_judge(str(untrained_cascade), count=3, stride=500, guidance=2.0, seed=4, stages=1)
    assert len(again.pictures) == 1 and torch.equal(again.pictures[0], evaluation.pictures[0])


def test_what_cannot_be_sampled_is_a_sentence(untrained_cascade: Path) -> None:
    with pytest.raises(ValueError, match="wanted 1 to 2 stages and some pictures, got 3 and 4"):
        sample_and_judge(str(untrained_cascade), count=4, stages=3)
    with pytest.raises(ValueError, match="unknown spacing 'trail', did you mean 'trailing'"):
        sample_and_judge(str(untrained_cascade), steps=15, spacing="trail")


def test_steps_and_their_spacing_are_those_of_a_row(untrained_cascade: Path) -> None:
    """One step stands at 0 where it is leading, and at 999 where it is trailing: the pictures differ."""
    options = {"count": 1, "stages": 1, "steps": 1}
    leading = sample_and_judge(str(untrained_cascade), **options, spacing="leading")
    trailing = sample_and_judge(str(untrained_cascade), **options, spacing="trailing")
    assert (trailing.settings["steps"], trailing.settings["spacing"], "stride" in trailing.settings) == (
        1,
        "trailing",
        False,
    )
    assert not torch.equal(leading.pictures[0], trailing.pictures[0])


@pytest.mark.slow
def test_the_embedded_latent_model_paints_what_it_is_asked() -> None:
    """The bounds are those that its card states for 500 pictures, less three standard errors of 100."""
    quality = sample_and_judge("sd-xs", count=100).quality
    assert quality.digit_accuracy >= 0.88 and quality.colour_accuracy >= 0.92 and quality.place_accuracy >= 0.95


@pytest.mark.slow
def test_the_embedded_model_paints_what_it_is_asked() -> None:
    """The bounds are those the model card states for 500 pictures, less three standard errors of 100."""
    for quality in sample_and_judge("if-xs", count=100).quality:
        assert quality.digit_accuracy >= 0.81
        assert quality.colour_accuracy >= 0.88
