"""What was asked of a job, opened: model, manifest, store, and what the rows' keys depend on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from darkroom.batch import options as option
from darkroom.batch import prompts
from darkroom.batch.abilities import abilities
from darkroom.batch.options import Options
from darkroom.batch.planned_rows import Maker
from darkroom.batch.read_rows import ReadRows
from darkroom.batch.scoring import JudgeOptions, offers
from darkroom.manifest import Manifest
from darkroom.models.catalog import address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.scorers import open_scorer
from darkroom.storage import Store, open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


@dataclass(frozen=True)
class Order:
    """What was asked, opened."""

    options: Options
    model: Model
    store: Store

    @classmethod
    def open(cls, options: Options) -> Order:
        """Raises ManifestError, ModelError or another ValueError for whatever can be known before Ray starts."""
        model = open_model(options.model)
        option.stage_dtypes(model, options.dtype, on_gpu=False)
        order = cls(options, model, open_store(options.out))
        assert order.rows.manifest.rows
        return order

    @cached_property
    def rows(self) -> ReadRows:
        """The manifest's, which are all good. ManifestError."""
        able = abilities(self.model, scorer=self.options.scorer is not None)
        return ReadRows(self.options.manifest, able, self.maker, self.store)

    @property
    def manifest(self) -> Manifest:
        return self.rows.manifest

    @cached_property
    def address(self) -> str:
        """What workers open: the very model that was opened here, though a champion may change while the run lasts."""
        return address(self.options.model, self.model)

    @cached_property
    def judging(self) -> JudgeOptions:
        """ModelError where the model lacks what is asked for."""
        has = {part: offers(self.model, part) for part in ("safety_checker", "watermarker")}
        marks = has["watermarker"] if self.options.watermark is None else self.options.watermark == "on"
        for asked, part in ((self.options.safety == "flag", "safety_checker"), (marks, "watermarker")):
            if asked and not has[part]:
                raise ModelError(f"the model {self.model.name!r} has no folder {part!r} in any of its stages")
        safety = self.options.safety == "flag"
        return JudgeOptions(self.address, self.options.scorer, safety, marks, self.model.revision)

    @cached_property
    def maker(self) -> Maker:
        model, scorer = self.model, self.options.scorer
        encoders = [model.encoder_of(stage.number) if model.encoders else "" for stage in model.stages]
        return Maker(
            revision=model.revision,
            stages=model.stages,
            default_size=model.default_size,
            encoders=tuple(encoders),
            finish="watermark" if self.judging.watermark else "",
            judge=open_scorer(scorer).revision if scorer else "",
            too_long=prompts.too_long(model),
        )
