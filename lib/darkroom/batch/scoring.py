"""What happens to pictures beside the model: the best of several candidates is chosen; finished ones are scored, looked
at by the safety checker and marked. No picture is changed for what a judge says of it; that is written in its row.

How well a picture of a row shows what each of its views' prompts asks for: matrix[i, j] is the likeness of view i to
prompt j, by a scorer. From it, as in Visual Anagrams (arXiv 2311.17919, section 5): alignment, the worst of the
diagonal, as an illusion is as good as the view that is seen least; and concealment, how surely a view can be told by
its prompt and a prompt by its view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.batch.row_state import Failure, RowState, guarded, is_device_lost
from darkroom.models.catalog import open_revision
from darkroom.models.errors import ModelError
from darkroom.models.families import family_of
from darkroom.models.scorers import Scorer, open_scorer
from darkroom.models.sources import Source
from darkroom.sampling.components import Component
from darkroom.sampling.plans import component_of
from darkroom.sampling.stage import Row
from darkroom.sampling.views import view_of
from darkroom.storage import to_uint8

MARKED = "watermarked"  # by us; the checker's own flag `watermark` says that a picture seems to hold somebody's
SMALLEST_MARKED = 17  # pixels: the mark is 62 of 1024 wide, on a smaller picture nothing at all
_FOLDERS = ("safety_checker/", "feature_extractor/", "watermarker/")


@dataclass(frozen=True)
class JudgeOptions:
    """What a job's judges are told. model, revision: whose folders hold the checker and the mark; scorer: as
    `open_scorer` takes it, or None; safety, watermark: whether to."""

    model: str
    scorer: str | None = None
    safety: bool = False
    watermark: bool = False
    revision: str | None = None

    @property
    def finishes(self) -> bool:
        """Whether finished pictures have anything to pass."""
        return self.scorer is not None or self.safety or self.watermark


class Judge:
    """Judges on this worker's device."""

    def __init__(self, options: JudgeOptions, threads: int) -> None:
        torch.set_num_threads(threads)
        self.options = options
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.scorer: Scorer | None = open_scorer(options.scorer, device) if options.scorer else None
        if self.scorer is not None:
            self.scorer.load()
        self.safety = None
        if options.safety or options.watermark:
            self.safety = open_model_safety(open_revision(options.model, options.revision), device)

    def choose(self, rows: list[RowState]) -> list[RowState]:
        """Of every row with candidates the best one goes on, with its seed; their scores are kept."""
        for state in rows:
            if state.picture is not None and state.picture.ndim == 4:
                with guarded(state):
                    self._choose(state, state.picture)
        return rows

    def finish(self, rows: list[RowState]) -> list[RowState]:
        """Scores, flags and marks the finished pictures. One that cannot be scored is no failed row: its scores say
        why. One that was to be checked or marked, and could not be, is."""
        for state in rows:
            if state.picture is not None:
                with guarded(state):
                    self._finish(state, state.picture)
        return rows

    def _choose(self, state: RowState, drawn: np.ndarray) -> None:
        assert self.scorer is not None, "candidates without a scorer"
        candidates = [
            Candidate(seed, score(state.row, _as_image(picture), self.scorer))
            for seed, picture in zip(seeds(state.row), drawn, strict=True)
        ]
        chosen = choose(candidates)
        state.chosen_seed, state.picture = chosen.seed, drawn[candidates.index(chosen)]
        state.scores = record(self.scorer, chosen.score, candidates)

    def _finish(self, state: RowState, picture: np.ndarray) -> None:
        if picture.dtype != np.uint8:  # a chosen candidate: judged as it is written, like all others
            picture = state.picture = to_uint8(picture)
        if self.scorer is not None:
            state.scores = self._score(self.scorer, state, _as_image(picture))
        if self.options.safety:
            state.flag(*self.safety.flag(_as_image(picture)[None])[0])
        if self.options.watermark and picture.shape[-1] >= SMALLEST_MARKED:
            marked = self.safety.watermark(_as_image(picture)[None])[0].numpy()
            state.picture = to_uint8(marked)
            state.flag(MARKED)

    def _score(self, scorer: Scorer, state: RowState, picture: Tensor) -> dict[str, Any]:
        """The record of the finished picture."""
        asked = prompts(state.row)
        if not asked:
            return {}
        unscored = {"scorer": scorer.name, "revision": scorer.revision}
        if complaint := next(filter(None, map(scorer.complaint, asked)), ""):
            return unscored | {"not_scored": complaint}
        drawn = [
            Candidate(one["seed"], Score((), one["alignment"], one["concealment"]))
            for one in state.scores.get("candidates", [])
        ]
        try:
            return record(scorer, score(state.row, picture, scorer), drawn)
        except (ValueError, ArithmeticError, RuntimeError) as error:  # want of memory too
            if is_device_lost(error):
                raise
            return unscored | {"not_scored": Failure.of(error).text}


def open_model_safety(model: Any, device: str) -> Any:
    """IF's checker and watermark from the first of the model's stages that has them. ModelError where none has."""
    from darkroom.models.safety import open_safety

    folder = _safety_folder(model)
    if folder is None:
        raise ModelError(
            f"the model {model.name!r} has no safety checker and no watermark in any of its stages' folders"
        )
    return open_safety(folder, device)


def offers(model: Any, part: str) -> bool:
    """Whether some stage's folder holds a part of IF's, "safety_checker" or "watermarker"."""
    return any(name.startswith(f"{part}/") for source in _with_ifs_parts(model) for name in source.names())


def _with_ifs_parts(model: Any) -> list[Source]:
    """The stages' folders; not those of Stable Diffusion's families, whose safety_checker/ is another one."""
    return [source for source in getattr(model, "sources", ()) if not ((own := family_of(source)) and own.latent)]


def _safety_folder(model: Any) -> Path | None:
    for source in _with_ifs_parts(model):
        names = [name for name in source.names() if name.startswith(_FOLDERS)]
        if names:
            return source.fetch(names)
    return None


@dataclass(frozen=True)
class Score:
    """matrix: of each view (a row) with each prompt (a column); concealment: None where there is but one view."""

    matrix: tuple[tuple[float, ...], ...]
    alignment: float
    concealment: float | None


@dataclass(frozen=True)
class Candidate:
    """A picture of a row, by its seed, and its score."""

    seed: int
    score: Score


def prompts(row: Row) -> list[str]:
    """What the row's picture is judged by, a prompt ("label 7" where a label stands) for each of `views`; [] where
    nothing is asked. A component held to a given picture is not judged."""
    asked = [_prompt(part) for part in _parts(row)]
    return [prompt for prompt in asked if prompt]


def views(row: Row, picture: Tensor) -> Tensor:
    """picture float32 [C, S, S] in [-1, 1] -> [len(prompts(row)), C, S, S], as each prompt's part is meant to be seen.

    A view of an anagram is the view of the picture. A component of a hybrid is the picture as a viewer meets it where
    that component rules, and not the component by itself, which nobody sees: low_pass from afar, so blurred; low_band,
    middle_band: blurred by the coarse and by the fine filter; grayscale in dim light, so without colour; motion while
    it moves, so smeared; all others (high_pass, high_band, color, motion_residual, scale, whole) from near, at rest,
    in full light: the picture itself. A component that has a view of its own is then seen through it.
    """
    seen = [_seen(part, picture[None]) for part in _parts(row) if _prompt(part)]
    return torch.cat(seen) if seen else picture.new_zeros(0, *picture.shape)


def score(row: Row, picture: Tensor, scorer: Scorer) -> Score:
    """The picture of a row, float32 [C, S, S], judged. ValueError if the row asks nothing, or a score is no number."""
    asked = prompts(row)
    if not asked:
        raise ValueError("the row has no prompt that its picture could be judged by")
    matrix = scorer(views(row, picture.clamp(-1, 1)), asked)
    if not torch.isfinite(matrix).all():
        raise ValueError(f"the scorer gave {matrix.tolist()}, wanted numbers")
    return of_matrix(matrix, scorer.temperature)


def of_matrix(matrix: Tensor, temperature: float) -> Score:
    """alignment = min of the diagonal; concealment = the mean of the diagonals of softmax(matrix / temperature) over
    prompts and over views, in 1 / n (nothing can be told apart) .. 1."""
    size = len(matrix)
    assert matrix.shape == (size, size), f"as many views as prompts are wanted, got {list(matrix.shape)}"
    matrix = matrix.double()
    told = [(matrix / temperature).softmax(dim=dim).diagonal().mean().item() for dim in (0, 1)]
    rounded = tuple(tuple(round(value, 6) for value in line) for line in matrix.tolist())
    return Score(rounded, round(matrix.diagonal().min().item(), 6), round(sum(told) / 2, 6) if size > 1 else None)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The one that is best aligned; of equals the one with the least seed, in whatever order they come."""
    return min(candidates, key=lambda candidate: (-candidate.score.alignment, candidate.seed))


def seeds(row: Row) -> list[int]:
    """Those of a row's candidates: its own and the ones that follow, `best_of` of them (1 if not given)."""
    return [row["seed"] + more for more in range(row.get("best_of") or 1)]


def record(scorer: Scorer, final: Score, candidates: Sequence[Candidate] = ()) -> dict[str, Any]:
    """What a result row says of its scores, plain JSON values: `final` is of the finished picture, `candidates` are of
    all that were drawn (at stage I), by seed; fewer than two leave no trace."""
    found: dict[str, Any] = {"scorer": scorer.name, "revision": scorer.revision}
    found |= {"matrix": [list(line) for line in final.matrix]}
    found |= {"alignment": final.alignment, "concealment": final.concealment}
    if len(candidates) > 1:
        drawn = sorted(candidates, key=lambda candidate: candidate.seed)
        found["candidates"] = [
            {"seed": one.seed, "alignment": one.score.alignment, "concealment": one.score.concealment} for one in drawn
        ]
        found["chosen_seed"] = choose(candidates).seed
    return found


def _parts(row: Row) -> Sequence[Row]:
    """The views or components of a row that are not held to a given picture, or the row itself."""
    if "views" in row:
        return row["views"]
    if "components" in row:
        return [part for part in row["components"] if part.get("image") is None]
    return [{key: row[key] for key in ("prompt", "label") if row.get(key) is not None}]


def _prompt(part: Row) -> str:
    return f"label {part['label']}" if part.get("label") is not None else part.get("prompt") or ""


def _seen(part: Row, picture: Tensor) -> Tensor:
    return view_of(part).apply(_shown(component_of(part), picture))


def _shown(component: Component, picture: Tensor) -> Tensor:
    if component.name in ("low_pass", "low_band", "grayscale", "motion"):
        return component(picture)
    if component.name == "middle_band":  # low and middle band together: the picture, finely blurred
        return picture - Component("high_band", component.params)(picture)
    return picture


def _as_image(picture: np.ndarray) -> Tensor:
    """uint8 or float32 [C, H, W], C 1 or 3 -> float32 [3, H, W] in about [-1, 1]."""
    tensor = torch.from_numpy(np.array(picture))
    image = tensor.float() / 127.5 - 1 if tensor.dtype == torch.uint8 else tensor
    return image.expand(3, *image.shape[1:]).contiguous()
