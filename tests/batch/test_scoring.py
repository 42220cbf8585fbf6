"""Candidates, scores, flags and marks, on pictures whose judgement is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.batch import scoring
from darkroom.batch.row_state import Failure, RowState
from darkroom.batch.scoring import Judge, JudgeOptions, offers
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.storage import to_uint8

ROW = {"task": "text_to_image", "prompt": "bright", "negative_prompt": "", "seed": 5, "guidance": 7}
VIEWS = [{"view": "identity", "prompt": "bright"}, {"view": "negate", "prompt": "dark"}]


class Brightness:
    """Scores a picture by its mean, for "dark" by the mean's negative."""

    name, revision, temperature = "brightness", "r1", 0.5

    def load(self) -> None:
        self.loaded = True

    def complaint(self, prompt: str) -> str:
        return "" if prompt in ("bright", "dark") else f"{prompt!r} is no brightness"

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        assert images.shape[1] == 3 and images.dtype == torch.float32 and images.abs().max() <= 1
        for complaint in filter(None, map(self.complaint, prompts)):
            raise ModelError(complaint)
        signs = torch.tensor([1.0 if prompt == "bright" else -1.0 for prompt in prompts])
        return images.mean(dim=(1, 2, 3))[:, None] * signs


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr(scoring, "open_scorer", lambda uri, device: Brightness())
    return Judge(JudgeOptions("if-xs", scorer="brightness"), 1)


def made(row: dict[str, Any], picture: np.ndarray | None, **more: Any) -> RowState:
    return RowState(0, "a", "0", row, picture=picture, **more)


def flat(*levels: float) -> np.ndarray:
    """A grey picture for each level."""
    return np.stack([np.full((3, 4, 4), level, np.float32) for level in levels])


def test_the_best_candidate_goes_on_with_its_seed_and_all_are_recorded(judge: Judge) -> None:
    drawn = made({**ROW, "best_of": 3}, flat(0.1, 0.5, 0.2))
    plain = made(ROW, flat(0.3)[0])
    chosen, same = judge.choose([drawn, plain])
    assert chosen.chosen_seed == 6 and np.array_equal(chosen.picture, flat(0.5)[0])
    assert same.chosen_seed is None and same.scores == {}
    chosen.picture = to_uint8(flat(0.4)[0])
    (done,) = judge.finish([chosen])
    scores = done.scores
    assert [(one["seed"], round(one["alignment"], 3)) for one in scores["candidates"]] == [(5, 0.1), (6, 0.5), (7, 0.2)]
    assert (scores["scorer"], scores["revision"], scores["chosen_seed"]) == ("brightness", "r1", 6)
    assert scores["alignment"] == pytest.approx(0.4, abs=0.01), "of the finished picture, as it is delivered"


def test_every_view_is_judged_by_its_prompt(judge: Judge) -> None:
    row = {**ROW, "task": "anagram", "views": VIEWS}
    (done,) = judge.finish([made(row, flat(0.6)[0])])  # a level that 8 bits have
    scores = done.scores
    assert np.allclose(scores["matrix"], [[0.6, -0.6], [-0.6, 0.6]])
    told = 1 / (1 + np.exp(-1.2 / 0.5))
    assert scores["alignment"] == 0.6 and scores["concealment"] == pytest.approx(told, abs=1e-5)


def test_a_prompt_that_cannot_be_judged_costs_a_picture_nothing_but_candidates_their_row(judge: Judge) -> None:
    odd = {**ROW, "prompt": "a seven"}
    (done,) = judge.finish([made(odd, flat(0.1)[0])])
    assert done.failure is None and done.scores["not_scored"] == "'a seven' is no brightness"
    (failed,) = judge.choose([made({**odd, "best_of": 2}, flat(0.1, 0.2))])
    assert failed.failure.text == "'a seven' is no brightness" and failed.picture is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ModelError("the scorer reads 24, 48 or 28 pixels"), "the scorer reads 24, 48 or 28 pixels"),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory."),
        (torch.AcceleratorError("CUDA error: out of memory"), "AcceleratorError: CUDA error: out of memory"),
        (float("nan"), "the scorer gave [[nan]], wanted numbers"),
    ],
)
def test_a_picture_that_cannot_be_scored_costs_no_row_and_a_choice_its_row(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    class Picky(Brightness):
        def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
            if images.mean() < 0.5:
                return super().__call__(images, prompts)
            if isinstance(answer, Exception):
                raise answer
            return torch.full((len(images), len(prompts)), answer)

    (plain,) = judge.finish([made(ROW, flat(0.1)[0])])
    monkeypatch.setattr(judge, "scorer", Picky())
    neighbour, odd = judge.finish([made(ROW, flat(0.1)[0]), made(ROW, flat(0.9)[0])])
    assert odd.failure is None and odd.scores == {"scorer": "brightness", "revision": "r1", "not_scored": said}
    assert neighbour.scores == plain.scores and np.array_equal(neighbour.picture, plain.picture)
    (failed,) = judge.choose([made({**ROW, "best_of": 2}, flat(0.1, 0.9))])
    assert failed.failure.text == said


def test_a_picture_that_cannot_be_checked_or_marked_fails_alone(toy_deepfloyd: str) -> None:
    judge = Judge(JudgeOptions(toy_deepfloyd, watermark=True), 1)
    drawn = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    (alone,) = judge.finish([made(ROW, drawn)])
    odd, neighbour = judge.finish([made(ROW, np.zeros((2, 64, 64), np.uint8)), made(ROW, drawn)])
    assert odd.failure is not None and odd.picture is None, "it must not go out without its mark"
    assert neighbour.failure is None and np.array_equal(neighbour.picture, alone.picture)


def test_failed_rows_and_those_that_ask_nothing_pass(judge: Judge) -> None:
    failed = made(ROW, None, failure=Failure("input", "no"))
    forward = made({"task": "forward", "timestep": 250, "seed": 0}, flat(0.2)[0])
    assert [one.scores for one in judge.finish(judge.choose([failed, forward]))] == [{}, {}]


def test_pictures_are_flagged_and_marked_and_never_blackened(toy_deepfloyd: str) -> None:
    assert offers(open_model(toy_deepfloyd), "watermarker") and offers(open_model(toy_deepfloyd), "safety_checker")
    assert not offers(open_model("if-xs"), "watermarker")
    drawn = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    (done,) = Judge(JudgeOptions(toy_deepfloyd, safety=True, watermark=True), 1).finish([made(ROW, drawn)])
    changed = (done.picture != drawn).any(axis=0)
    assert "watermarked" in done.flags and set(done.flags) <= {"watermarked", "watermark", "nsfw"}
    assert changed.any() and not changed[:32, :32].any(), "the lower right corner has the mark, all else stays"
    (seen,) = Judge(JudgeOptions(toy_deepfloyd, safety=True), 1).finish([made(ROW, drawn)])
    assert np.array_equal(seen.picture, drawn) and "watermarked" not in seen.flags


def test_a_model_without_them_says_so() -> None:
    with pytest.raises(ModelError, match="'if-xs' has no safety checker and no watermark"):
        Judge(JudgeOptions("if-xs", watermark=True), 1)


def test_the_safety_checker_of_stable_diffusion_is_none_that_runs_here(toy_sd: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(f"{toy_sd}/sd", tmp_path / "sd"))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    assert not offers(open_model(str(folder)), "safety_checker")
    with pytest.raises(ModelError, match="'sd' has no safety checker and no watermark"):
        Judge(JudgeOptions(str(folder), safety=True), 1)


def test_a_job_without_judges_has_none() -> None:
    asked: Callable[..., bool] = lambda **how: JudgeOptions("m", **how).finishes  # noqa: E731
    assert not asked() and asked(scorer="digits") and asked(safety=True) and asked(watermark=True)
