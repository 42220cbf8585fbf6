"""Pictures that an adapter makes while it is trained, of validation prompts; and its base, for prior preservation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from darkroom.manifest import parse_task
from darkroom.models.predictors import UNetPredictor
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.run import walk_fitting
from darkroom.sampling.stage import Fields, Inputs, Stage
from darkroom.storage import to_uint8

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

CAPACITY = 8  # evaluations a pass; fewer where a device that can train has no room for so many


@dataclass(frozen=True)
class Wishes:
    """Rows to be drawn: a prompt each, seeds from 0 on."""

    rows: tuple[dict[str, Any], ...]
    stage: Stage

    @classmethod
    def of(cls, prompts: Sequence[str], model: Cascade, side: int, steps: int, guidance: float) -> Wishes:
        """side: of the pictures, in pixels."""
        row = {"task": "text_to_image", "steps": steps, "guidance": guidance, "size": side}
        rows = [row | {"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts)]
        return cls(tuple(parse_task(row).canonical() for row in rows), model.stages[0])

    @property
    def keys(self) -> list[str]:
        """Of all that the model will be asked."""
        return [key for row in self.rows for key in condition_keys(row, self.stage)]

    @torch.no_grad()
    def draw(self, predictor: UNetPredictor, texts: dict[str, Fields]) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] each, with whatever hangs on the predictor's UNet. texts: of `keys`."""
        assert predictor.latents is not None, "adapters are trained on models of latents"
        for first in range(0, len(self.rows), CAPACITY):  # so many at once fill every pass, and are seen as they come
            plans = [
                make_plan(row, self.stage, Inputs({key: texts[key] for key in condition_keys(row, self.stage)}))
                for row in self.rows[first : first + CAPACITY]
            ]
            for result in walk_fitting(predictor, plans, CAPACITY):
                picture = predictor.latents.decode(result.image[None])[0]
                yield to_uint8(picture).permute(1, 2, 0).cpu().numpy()


def in_a_row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Side by side, two pixels of white between."""
    gap = np.full((pictures[0].shape[0], 2, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)
