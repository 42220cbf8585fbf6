"""Pictures from the weights of a training run, without a model directory: what the sections on sampling draw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from darkroom.models.network import NetworkPredictor, make_stage, sample
from darkroom.report.trained import TrainingRun, device
from darkroom.sampling.stage import Stage

COLUMNS = 10
CAPACITY = {"cpu": 64, "cuda": 512}  # evaluations a pass, at most


@dataclass(frozen=True)
class Painter:
    """A run's network after an epoch of `TrainingRun.shown`, as a sampler of pictures."""

    run: TrainingRun
    epoch: int | None

    @property
    def num_classes(self) -> int:
        """0 for a network that takes no class."""
        return self.run.config["network"].get("num_classes", 0)

    @cached_property
    def stage(self) -> Stage:
        return make_stage(self.run.config)

    @cached_property
    def predictor(self) -> NetworkPredictor:
        return NetworkPredictor(self.run.network(self.epoch), self.stage.process, device())

    def pictures(self, rows: list[dict[str, Any]]) -> Tensor:
        """[N, C, S, S] in about 0..1, in the order of the rows."""
        return (sample(self.predictor, self.stage, rows, capacity(rows)) + 1) / 2


def capacity(rows: list[dict[str, Any]]) -> int:
    """No more than the rows ask at once: the engine fills a pass up with empty places, which cost as much as others."""
    return min(CAPACITY[device().type], sum(1 if asked["guidance"] == 1.0 else 2 for asked in rows))


def labels(num_classes: int) -> list[int | None]:
    """What the columns of a sheet ask for: the first classes, or nothing."""
    return list(range(min(num_classes, COLUMNS))) if num_classes else [None] * COLUMNS


def headings(run: TrainingRun) -> list[str]:
    """The names of the classes above the columns of a sheet; [] for a network that takes no class."""
    classes = run.config.get("classes") or []
    return [str(name) for name in classes[:COLUMNS]] if run.config["network"].get("num_classes") else []
