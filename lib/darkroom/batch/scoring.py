"""What happens to pictures beside the model: the best of several candidates is chosen; finished ones are scored, looked
at by the safety checker and marked. No picture is changed for what a judge says of it; that is written in its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.batch import row_state, selection
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.scorers import Scorer, open_scorer

MARKED = "watermarked"  # by us; the checker's own flag `watermark` says that a picture seems to hold somebody's
SMALLEST_MARKED = 17  # pixels: the mark is 62 of 1024 wide, on a smaller picture nothing at all
_FOLDERS = ("safety_checker/", "feature_extractor/", "watermarker/")


@dataclass(frozen=True)
class Judging:
    """What a job's judges are told. scorer: as `open_scorer` takes it, or None; safety, watermark: whether to."""

    model: str
    scorer: str | None = None
    safety: bool = False
    watermark: bool = False

    @property
    def finishes(self) -> bool:
        """Whether finished pictures have anything to pass."""
        return self.scorer is not None or self.safety or self.watermark


class Judge:
    """Judges on this worker's device."""

    def __init__(self, how: Judging, threads: int) -> None:
        torch.set_num_threads(threads)
        self.how = how
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.scorer: Scorer | None = open_scorer(how.scorer, device) if how.scorer else None
        if self.scorer is not None:
            self.scorer.load()
        self.safety = open_model_safety(open_model(how.model), device) if how.safety or how.watermark else None

    def choose(self, parcels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of every row with candidates the best one goes on, with its seed; their scores are kept."""
        for made in parcels:
            drawn = None if made["error"] else row_state.unpack(made["picture"]).get("picture")
            if drawn is not None and drawn.ndim == 4:
                _guarded(self._choose, made, drawn)
        return parcels

    def finish(self, parcels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores, flags and marks the finished pictures."""
        for made in parcels:
            if made["error"]:
                continue
            picture = row_state.unpack(made["picture"])["picture"]
            if picture.dtype != np.uint8:  # a chosen candidate: judged as it is delivered, like all others
                picture = row_state.to_uint8(picture)
                made["picture"] = row_state.pack({"picture": picture})
            if self.scorer is not None:
                made["scores"] = json.dumps(self._score(made, _as_image(picture)))
            if self.how.safety:
                row_state.flag(made, *self.safety.flag(_as_image(picture)[None])[0])
            if self.how.watermark and picture.shape[-1] >= SMALLEST_MARKED:
                marked = self.safety.watermark(_as_image(picture)[None])[0].numpy()
                made["picture"] = row_state.pack({"picture": row_state.to_uint8(marked)})
                row_state.flag(made, MARKED)
        return parcels

    def _choose(self, made: dict[str, Any], drawn: np.ndarray) -> None:
        row = json.loads(made["row"])["row"]
        assert self.scorer is not None, "candidates without a scorer"
        scores = [selection.score(row, _as_image(picture), self.scorer) for picture in drawn]
        seeds = selection.seeds(row)
        candidates = [selection.Candidate(seed, score) for seed, score in zip(seeds, scores, strict=True)]
        made["chosen_seed"] = selection.choose(candidates).seed
        made["picture"] = row_state.pack({"picture": drawn[seeds.index(made["chosen_seed"])]})
        final = next(one.score for one in candidates if one.seed == made["chosen_seed"])
        made["scores"] = json.dumps(selection.record(self.scorer, final, candidates))

    def _score(self, made: dict[str, Any], picture: Tensor) -> dict[str, Any]:
        """The record of the finished picture. One that the scorer cannot judge is no failed row; it says why."""
        row = json.loads(made["row"])["row"]
        earlier = json.loads(made["scores"]).get("candidates", [])
        asked = selection.prompts(row)
        complaint = next(filter(None, map(self.scorer.complaint, asked)), "")
        if not asked:
            return {}
        if complaint:
            return {"scorer": self.scorer.name, "revision": self.scorer.revision, "not_scored": complaint}
        drawn = [
            selection.Candidate(one["seed"], selection.Score((), one["alignment"], one["concealment"]))
            for one in earlier
        ]
        return selection.record(self.scorer, selection.score(row, picture, self.scorer), drawn)


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
    """Whether some stage's folder holds a part, "safety_checker" or "watermarker"."""
    return any(name.startswith(f"{part}/") for source in getattr(model, "sources", ()) for name in source.names())


def _safety_folder(model: Any) -> Path | None:
    for source in getattr(model, "sources", ()):
        names = [name for name in source.names() if name.startswith(_FOLDERS)]
        if names:
            return source.fetch(names)
    return None


def _guarded(act: Callable[..., None], made: dict[str, Any], *more: Any) -> None:
    try:
        act(made, *more)
    except ValueError as error:
        row_state.fail(made, error)


def _as_image(picture: np.ndarray) -> Tensor:
    """uint8 or float32 [C, H, W], C 1 or 3 -> float32 [3, H, W] in about [-1, 1]."""
    tensor = torch.from_numpy(np.array(picture))
    image = tensor.float() / 127.5 - 1 if tensor.dtype == torch.uint8 else tensor
    return image.expand(3, *image.shape[1:]).contiguous()
