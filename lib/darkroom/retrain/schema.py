"""The parts of a pipeline file, typed. What they mean together is checked in `pipeline_checks`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from darkroom.models.registry import NAME
from darkroom.retrain.gate import Rule
from darkroom.retrain.times import Missed
from darkroom.training.recipes import find_recipe
from darkroom.training.recipes.recipe import Recipe, with_settings


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Schedule(_Part):
    """missed: what becomes of ticks that nobody ran in time; deadline_seconds: how late a tick still is in time;
    timeout_seconds: how long one may run before `darkroom schedule run` ends it, so that the next can begin."""

    cron: str
    time_zone: str = "UTC"
    missed: Missed = "last"
    deadline_seconds: int = Field(600, ge=1)
    timeout_seconds: int = Field(24 * 3600, ge=1)


class Data(_Part):
    """classes: of IDX files, how many labels there are; a record with another is bad. bad_records: the share of records
    that may be bad before the run stops."""

    kind: Literal["mnist", "cifar10", "idx", "folder", "captions"]
    source: str | None = None
    classes: int = Field(10, ge=2, le=256)
    bad_records: float = Field(0.01, ge=0, lt=1)


class Train(_Part):
    """workers: how many share each batch, or the least and the most: [2, 8]. (YAML takes a bare 2:8 for 128.)"""

    recipe: str
    settings: dict[str, str | bool | int | float | list[int]] = {}
    workers: int | list[int] = 1

    def texts(self) -> tuple[str, ...]:
        """The settings as `darkroom train --set` takes them."""
        return tuple(f"{key}={_text(value)}" for key, value in self.settings.items())

    def workers_text(self) -> str:
        """As `darkroom train --workers` takes them."""
        return str(self.workers) if isinstance(self.workers, int) else ":".join(map(str, self.workers))


class Evaluate(_Part):
    """How both models are measured; count: pictures for each of 3 seeds."""

    count: int = Field(500, ge=4)
    steps: int = Field(50, ge=1)
    guidance: float = Field(5.0, ge=0)
    sampler: str | None = None
    seed: int = Field(0, ge=0)


class Generate(_Part):
    """out: the run; its default is a folder of the tick's."""

    manifest: str
    out: str | None = None
    capacity: int = Field(32, ge=1)
    workers: int | None = Field(None, ge=1)


class Pipeline(_Part):
    """A pipeline file without problems, its paths absolute. classifier: the model directory of what judges pictures in
    place of the classifier of MNIST's digits."""

    name: str = Field(pattern=rf"^{NAME.pattern}$")
    out: str
    registry: str
    schedule: Schedule | None = None
    data: Data
    train: Train
    evaluate: Evaluate = Evaluate()
    classifier: str | None = None
    gate: dict[str, Rule]
    smoke: str | None = None
    generate: Generate | None = None
    keep: int = Field(3, ge=1)
    lease_seconds: float = Field(60, ge=1)

    def recipe(self) -> Recipe:
        """The recipe with its settings: of a network, or of an adapter."""
        return with_settings(find_recipe(self.train.recipe)(), self.train.texts())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
