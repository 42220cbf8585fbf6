from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom.evaluation.cascade import sample_and_judge
from darkroom.evaluation.illusions import BEST_OF, Illusion, judge_illusions, sample_illusions, wished_illusions
from darkroom.evaluation.textures import SMALL
from darkroom.manifest import parse_task
from darkroom.models.painted_ink import COLOURS, PATTERNS, PLURALS, TILES
from darkroom.report.cascade import illusion_sheet, write_cascade_evaluation
from darkroom.training.data import load_images, sample_uri


@pytest.fixture(scope="module")
def painted() -> dict[int, Tensor]:
    """A blue digit of each kind on white, float32 [3, 48, 48] in [-1, 1]."""
    sample = load_images(sample_uri(), "test")
    pictures = {}
    for digit in range(10):
        (mask, *_) = torch.from_numpy(sample.images[sample.labels == digit][:1, 2:26, 2:26, 0].copy()).float() / 255
        mask = torch.nn.functional.interpolate(mask[None, None], scale_factor=2, mode="bicubic")[0].clamp(0, 1)
        blue, white = (torch.tensor(COLOURS[name])[:, None, None] / 127.5 - 1 for name in ("blue", "white"))
        pictures[digit] = torch.lerp(white, blue, mask)
    return pictures


def wishes_of(task: str, count: int = 20) -> list[Illusion]:
    return [wish for wish in wished_illusions(count) if wish.task == task]


def test_wishes_are_every_kind_in_turn_and_rows_of_a_manifest() -> None:
    anagrams, hybrids = wishes_of("anagram", 10), wishes_of("hybrid", 10)
    kinds = ["6/9 rotate_180", "2/5 flip_vertical", "1/7 rotate_180", "0/8 rotate_90", "negative"]
    assert [wish.name for wish in anagrams] == kinds * 2
    assert {wish.parts[0].wanted for wish in wishes_of("hybrid", 20)} == set(range(10))
    pairs = {tuple(part.wanted for part in wish.parts) for wish in wishes_of("hybrid", 180)}
    small = {(far, near) for far, near in pairs if near in SMALL}
    assert len(small) == 90 and all(SMALL.index(near) != far for far, near in small)
    assert {near for _, near in pairs - small} == set(PATTERNS)
    for wish in (*anagrams, *hybrids):
        rows = wish.rows(seed=7)
        assert [row["seed"] for row in rows] == list(range(7, 7 + BEST_OF[wish.task]))
        for number, row in enumerate(rows):
            parse_task({"id": str(number), "steps": 2, **row})  # raises for what a manifest may not say


def test_what_turns_into_itself_in_the_negative_is_read_and_what_does_not_is_not(painted: dict[int, Tensor]) -> None:
    """Of four candidates of every wish the third is the digit itself: the negatives read both ways, and a one is a one
    upside down too, no seven."""
    wishes = [wish for wish in wishes_of("anagram", 5) if wish.name in ("negative", "1/7 rotate_180")]
    blank = torch.ones(3, 48, 48)
    pictures = [painted[wish.parts[0].wanted] if candidate == 2 else blank for wish in wishes for candidate in range(4)]
    found = judge_illusions(wishes, torch.stack(pictures), 0.0)
    negative, turned = found.by_kind["negative"], found.by_kind["1/7 rotate_180"]
    assert (negative.wishes, negative.best_of, negative.read, negative.both) == (1, 4, 1.0, 0.25)
    assert (turned.read, turned.first, turned.second) == (0.0, 0.25, 0.0)
    assert found.by_task["anagram"].read == 0.5 and sorted(found.right) == [(True, False), (True, True)]
    best = found.pictures[[wish.name for wish in wishes].index("negative")]
    assert torch.equal(best[1], -best[0]), "the best candidate is shown, as both its parts are seen"


def test_a_hybrid_is_read_blurred_and_from_near(painted: dict[int, Tensor]) -> None:
    """Candidates that show one of its parts alone read in that part, none in both."""
    wish = wishes_of("hybrid", 1)[0]
    far, small = painted[wish.parts[0].wanted], painted[PLURALS.index(wish.parts[1].wanted.split()[1])]
    near = torch.nn.functional.avg_pool2d(small, TILES).repeat(1, TILES, TILES)
    found = judge_illusions([wish], torch.stack([far] * 3 + [near] * 5), 0.0).by_task["hybrid"]
    assert (found.best_of, found.read) == (8, 0.0)
    assert found.first == 0.375 and found.second == 0.625


def test_a_cascades_illusions_are_sampled_read_and_shown(untrained_cascade: Path, tmp_path: Path) -> None:
    evaluation = sample_and_judge(str(untrained_cascade), count=2, stride=500, guidance=1.0)
    found = sample_illusions(str(untrained_cascade), 1, evaluation.settings)
    assert [wish.task for wish in found.wishes] == ["anagram", "hybrid"] and found.pictures.shape == (2, 2, 3, 48, 48)
    said = write_cascade_evaluation(evaluation, str(tmp_path), found)
    assert "\nanagrams: " in said and "best of 8" in said
    record = json.loads((tmp_path / "quality.json").read_text())["illusions"]
    assert record["by_task"]["hybrid"]["wishes"] == 1 and set(record["by_kind"]) == {
        "6/9 rotate_180",
        "digit over small digits",
    }
    page = (tmp_path / "index.html").read_text()
    for name in ("sheet-24.png", "sheet-48.png", "anagrams.png", "hybrids.png"):
        assert name in page and (tmp_path / name).stat().st_size
    assert illusion_sheet(found, "anagram") != illusion_sheet(found, "hybrid")
    with pytest.raises(ValueError, match="wanted some illusions, got 0"):
        sample_illusions(str(untrained_cascade), 0, evaluation.settings)
