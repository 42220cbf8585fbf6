"""What can be asked for: one frozen model per task, and the key that says what a picture depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from darkroom.manifest.base_task import BaseTask, check_each_once
from darkroom.manifest.branches import Asks, ComponentBranch, NetUse, Resample, UpperStage, ViewBranch
from darkroom.manifest.fields import (
    MAX_SEED,
    Candidates,
    ClassIds,
    ClipSkip,
    Fit,
    Fraction,
    Frames,
    Guidance,
    Level,
    Picture,
    Prompt,
    Sigma,
    Start,
    Switch,
    Timestep,
    Verdict,
    not_empty,
    not_too_many,
    plain,
)
from darkroom.sampling.components import check_sum, make_component
from darkroom.sampling.schedules import TWO_MOVE_SOLVERS
from darkroom.sampling.trajectories import BLUR_SIGMA

_NOTHING_OTHER = UpperStage()


class _Cascaded(BaseTask):
    """What goes on to the upper stages, where the size asks for them. stage2, stage3: what is other than their own."""

    stage2: UpperStage | None = None
    stage3: UpperStage | None = None

    def _silent(self) -> set[str]:
        return super()._silent() | {name for name in ("stage2", "stage3") if getattr(self, name) == _NOTHING_OTHER}


class _Chosen(_Cascaded):
    """best_of: so many candidates with seeds from `seed` on are made by the first stage, and the best goes on."""

    best_of: Candidates = 1

    @model_validator(mode="after")
    def _seeds_fit(self) -> _Chosen:
        largest = MAX_SEED - self.best_of + 1  # the last candidate's seed is an int64 too
        if self.seed > largest:
            raise ValueError(
                f"'seed' must be at most {largest} where 'best_of' is {self.best_of}, as each candidate has the seed "
                f"after the one before, was {self.seed}"
            )
        return self

    def _silent(self) -> set[str]:
        return super()._silent() | ({"best_of"} if self.best_of == 1 else set())


class _Prompted(_Chosen, Asks):
    """One prompt. prompt_2: what a second text encoder reads, where it is other; clip_skip: layers at the end of CLIP
    that the prompt is read without. control: networks that see a picture beside it; guess_mode: they answer the prompt
    alone, see `Control`. fit: how the row's pictures become its size."""

    prompt_2: Prompt | None = None
    clip_skip: ClipSkip = 0
    control: tuple[NetUse, ...] = ()
    guess_mode: Switch = False
    fit: Fit = "crop"

    @model_validator(mode="after")
    def _of_a_prompt(self) -> _Prompted:
        for name in ("prompt_2", "clip_skip"):
            if getattr(self, name) and self.prompt is None:
                raise ValueError(f"'{name}' is given, and no 'prompt'")
        return self

    @model_validator(mode="after")
    def _of_networks(self) -> _Prompted:
        if self.control:  # which few rows have, of a million
            check_each_once("control", "control network", [use.net for use in self.control])
        elif self.guess_mode:
            raise ValueError("'guess_mode' is given, and no 'control'")
        return self

    def canonical(self) -> dict[str, Any]:
        row = super().canonical()
        if not self.control:
            return row
        uses = sorted(self.control, key=lambda use: use.net)
        return row | {"control": [plain(use.canonical()) for use in uses]}


class TextToImage(_Prompted):
    task: Literal["text_to_image"] = "text_to_image"

    @model_validator(mode="after")
    def _something_to_fit(self) -> TextToImage:
        if self.fit != "crop" and not self.control:
            raise ValueError("'fit' is given, and no picture")
        return self


class TextToVideo(BaseTask, Asks):
    """frames: of the video, as many as the model's own where it is not said; guidance_2: of the second of two models
    that make a walk together (Wan 2.2), where it is other than the first's."""

    task: Literal["text_to_video"] = "text_to_video"
    frames: Frames | None = None
    guidance_2: Guidance | None = None


class ImageToImage(_Prompted):
    """SDEdit. start: index into the schedule; strength: 1 is the whole schedule, 0 none of it."""

    task: Literal["image_to_image"] = "image_to_image"
    image: Picture
    start: Start | None = None
    strength: Fraction | None = None

    @model_validator(mode="after")
    def _one_start(self) -> ImageToImage:
        if (self.start is None) == (self.strength is None):
            found = "neither is" if self.start is None else "both are"
            raise ValueError(f"wanted one of 'start' and 'strength', {found} given")
        return self


class Inpaint(_Prompted):
    """White parts of the mask are painted. Without start or strength they begin as pure noise.

    mask_value: of a mask of class ids, those that are painted. empty_mask, full_mask: whether a row fails or is flagged
    where its mask selects nothing, or all.
    """

    task: Literal["inpaint"] = "inpaint"
    image: Picture
    mask: Picture
    mask_value: ClassIds | None = None
    empty_mask: Verdict = "fail"
    full_mask: Verdict = "flag"
    resample: Resample | None = None
    start: Start | None = None
    strength: Fraction | None = None

    @model_validator(mode="after")
    def _at_most_one_start(self) -> Inpaint:
        if self.start is not None and self.strength is not None:
            raise ValueError("wanted at most one of 'start' and 'strength', both are given")
        return self


class Anagram(_Chosen):
    task: Literal["anagram"] = "anagram"
    views: Annotated[tuple[ViewBranch, ...], BeforeValidator(not_too_many), AfterValidator(not_empty)]
    reduction: Literal["mean", "alternate"] = "mean"

    @model_validator(mode="after")
    def _reused_by_all(self) -> Anagram:
        if self.reuse > 1 and self.reduction == "alternate":
            raise ValueError("'reuse' is for the reduction 'mean', this row has 'alternate'")
        return self

    def branches(self) -> tuple[Asks, ...]:
        return self.views

    def mended(self) -> list[str]:
        by_interval = self.reduction == "alternate" and self.sampler in TWO_MOVE_SOLVERS
        return ["alternates by interval"] if by_interval else []


class Hybrid(_Chosen):
    """The components sum to the identity; at most one is held to a given image."""

    task: Literal["hybrid"] = "hybrid"
    components: Annotated[tuple[ComponentBranch, ...], BeforeValidator(not_too_many), AfterValidator(not_empty)]
    fit: Fit = "crop"

    @model_validator(mode="after")
    def _whole(self) -> Hybrid:
        given = [index for index, branch in enumerate(self.components) if branch.image is not None]
        if len(given) > 1:
            raise ValueError(f"at most one component may be held to an 'image', {len(given)} are")
        if len(given) == len(self.components):
            raise ValueError("the only component is held to an 'image', so there is nothing to make")
        check_sum([make_component(branch.component, **branch.params) for branch in self.components])
        return self

    def branches(self) -> tuple[Asks, ...]:
        return tuple(branch for branch in self.components if branch.image is None)

    def sources(self) -> list[str]:
        return [branch.image for branch in self.components if branch.image is not None]

    def _silent(self) -> set[str]:
        return super()._silent() | (set() if self.sources() else {"fit"})


class Upscale(_Cascaded, Asks):
    """The model's upper stages alone: the image takes the place of the small picture they begin with."""

    task: Literal["upscale"] = "upscale"
    image: Picture
    fit: Fit = "crop"


class Forward(BaseTask):
    """The image noised to `timestep`, q(x_t | x_0), by no model; thousandths of noise where the process is a flow."""

    task: Literal["forward"] = "forward"
    image: Picture
    fit: Fit = "crop"
    timestep: Timestep

    def branches(self) -> tuple[Asks, ...]:
        return ()

    def _silent(self) -> set[str]:
        return super()._silent() | _SCHEDULE | _GUIDANCE | _ADAPTERS | {"sampler"}


class Denoise(BaseTask, Asks):
    """The image noised to `timestep`, and what can be had of it again.

    blur: by a Gaussian of `sigma` pixels at 64 px, which is no model's work; one_step: by one move to the clean
    picture; iterative: down the schedule, to the clean picture or `until` a time of the schedule.
    """

    task: Literal["denoise"] = "denoise"
    image: Picture
    fit: Fit = "crop"
    timestep: Timestep
    method: Literal["blur", "one_step", "iterative"]
    sigma: Sigma | None = None
    until: Level | None = None

    @model_validator(mode="after")
    def _of_its_method(self) -> Denoise:
        for name, method in (("sigma", "blur"), ("until", "iterative")):
            if getattr(self, name) is not None and self.method != method:
                raise ValueError(f"'{name}' is for the method '{method}', this row has '{self.method}'")
        if self.method == "iterative" and (self.spacing or self.karras):
            raise ValueError(
                "'spacing' and 'karras' are for rows that begin with noise, 'denoise' begins at its 'timestep'"
            )
        return self

    def branches(self) -> tuple[Asks, ...]:
        return () if self.method == "blur" else (self,)

    def canonical(self) -> dict[str, Any]:
        row = super().canonical()
        return {"sigma": BLUR_SIGMA} | row if self.method == "blur" else row

    def _silent(self) -> set[str]:
        """A prompt beside a blur too, so that one sweep can go through all methods."""
        if self.method == "iterative":
            return super()._silent()
        asked = _GUIDANCE | _ADAPTERS | {"sampler", "prompt", "label"} if self.method == "blur" else set()
        return super()._silent() | _SCHEDULE | asked


_SCHEDULE = {"steps", "stride", "timesteps", "eta", "spacing", "karras"}
_GUIDANCE = {"guidance", "true_guidance", "negative_prompt", "guidance_interval", "guidance_rescale", "reuse"}
_ADAPTERS = {"adapters"}

Task = TextToImage | TextToVideo | ImageToImage | Inpaint | Anagram | Hybrid | Upscale | Forward | Denoise
TASKS: dict[str, type[BaseTask]] = {
    "text_to_image": TextToImage,
    "text_to_video": TextToVideo,
    "image_to_image": ImageToImage,
    "inpaint": Inpaint,
    "anagram": Anagram,
    "hybrid": Hybrid,
    "upscale": Upscale,
    "forward": Forward,
    "denoise": Denoise,
}
_adapter: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="task")])


_OF_OTHERS = {key for task in TASKS.values() for key in task.model_fields} - TextToImage.model_fields.keys()


def parse_task(row: dict[str, Any]) -> Task:
    """The task a row asks for: a prompt alone asks for a picture of it, where nothing beside it is of another task.
    Raises pydantic.ValidationError (a ValueError)."""
    if "task" not in row and "prompt" in row and not row.keys() & _OF_OTHERS:
        row = {"task": "text_to_image", **row}
    return _adapter.validate_python(row)


def row_key(task: Task, model_revision: str, sampler_version: str, row: dict[str, Any] | None = None) -> str:
    """32 hex digits: the same for rows that ask for the same picture of the same model, made by the same sampler.

    row: the task's canonical form, where it is at hand.
    """
    depends = [task.canonical() if row is None else row, model_revision, sampler_version, *task.mended()]
    content = _key_json(depends)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


# Made once: json.dumps would make an encoder for every row.
_key_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
