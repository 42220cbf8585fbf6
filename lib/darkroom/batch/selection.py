"""Which of several pictures of a row is best: how well each of its views shows what its prompt asks for.

matrix[i, j] is the likeness of view i to prompt j, by a scorer. From it, as in Visual Anagrams (arXiv 2311.17919,
section 5): alignment, the worst of the diagonal, as an illusion is as good as the view that is seen least; and
concealment, how surely a view can be told by its prompt and a prompt by its view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darkroom.models.scorers import Scorer
from darkroom.sampling.components import Component
from darkroom.sampling.plans import component_of, view_of

Row = Mapping[str, Any]


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
