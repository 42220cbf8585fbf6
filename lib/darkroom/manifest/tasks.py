"""What can be asked for: one frozen model per task, and the key that says what a picture depends on."""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from darkroom.sampling.components import check_sum, make_component
from darkroom.sampling.schedules import DEFAULT_STRIDE
from darkroom.sampling.views import make_view

MAX_SEED = 2**63 - 1


def nearest(given: object, names: Iterable[str], cutoff: float = 0.6) -> str:
    """ ", did you mean 'prompt'?" where one of the names is near, else ""."""
    near = difflib.get_close_matches(str(given), sorted(names), n=1, cutoff=cutoff)
    return f", did you mean '{near[0]}'?" if near else ""


def _number(value: Any) -> Any:
    # Pydantic's lax mode takes True for 1 and "7" for 7, its strict mode refuses the 7.0 that Parquet makes of a 7.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("number_type", "must be a number")
    return value


def _unicode(value: str) -> str:
    # JSON can escape half a surrogate pair, which neither a tokenizer nor Parquet can hold.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("not_unicode", "must be valid Unicode text")
    return value


def _printable(value: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise PydanticCustomError("control_character", "must not hold control characters")
    return value


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Field(min_length=1) would also complain of a list whose items were all refused.
    if not value:
        raise PydanticCustomError("no_items", "must not be empty")
    return value


_from_number = BeforeValidator(_number)
Text = Annotated[str, AfterValidator(_unicode)]
Id = Annotated[Text, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Path = Annotated[Text, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), _from_number]
Label = Annotated[int, Field(ge=0, le=2**31 - 1), _from_number]
Size = Annotated[int, Field(ge=1, le=2**16), _from_number]
Steps = Annotated[int, Field(ge=1, le=1000), _from_number]
Stride = Annotated[int, Field(ge=1, le=999), _from_number]
Start = Annotated[int, Field(ge=0), _from_number]
Count = Annotated[int, Field(ge=1, le=1000), _from_number]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _from_number]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), _from_number]
Sampler = Literal["ddpm", "ddim", "euler", "heun", "midpoint"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Asks(_Frozen):
    """Anything that asks the model something: by a text, by a class label, or (unconditional models) by neither."""

    prompt: Text | None = None
    label: Label | None = None

    @model_validator(mode="after")
    def _one_question(self) -> _Asks:
        if self.prompt is not None and self.label is not None:
            raise ValueError("'prompt' and 'label' are both given, wanted one of them")
        return self


class ViewBranch(_Asks):
    """One view of an anagram. The view's own parameters (seed, pieces) stand beside its name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    view: str

    @model_validator(mode="after")
    def _makes_a_view(self) -> ViewBranch:
        _make(make_view, self.view, self)
        return self

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def canonical(self) -> dict[str, Any]:
        named = self.model_dump(include={"view", "prompt", "label"}, exclude_none=True)
        return named | dict(make_view(self.view, **self.params).params)


class ComponentBranch(_Asks):
    """One component of a hybrid, with its own parameters (sigma, weight) beside its name.

    view: the component is seen through this view, so a hybrid can be an anagram too.
    image: the component is held to this picture (an inverse hybrid); then nothing is asked for it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    component: str
    view: str | None = None
    image: Path | None = None

    @model_validator(mode="after")
    def _makes_a_component(self) -> ComponentBranch:
        _make(make_component, self.component, self)
        if self.view is not None:
            make_view(self.view)
        if self.image is not None and (self.prompt is not None or self.label is not None):
            raise ValueError("a component held to an 'image' takes no prompt and no label")
        return self

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def canonical(self) -> dict[str, Any]:
        named = self.model_dump(include=set(type(self).model_fields), exclude_none=True)
        return named | dict(make_component(self.component, **self.params).params)


class Resample(_Frozen):
    """RePaint: every `jump` steps go back as many, until each stretch was walked `times` times (arXiv 2201.09865)."""

    jump: Count
    times: Count


class _Task(_Frozen):
    """What all tasks share. At most one of steps, stride and timesteps; none means stride 30."""

    id: Id | None = None
    seed: Seed = 0
    steps: Steps | None = None
    stride: Stride | None = None
    timesteps: Path | None = None
    guidance: Guidance = 7.0
    negative_prompt: Text = ""
    size: Size | None = None
    sampler: Sampler | None = None
    eta: Fraction = 0.0

    @model_validator(mode="after")
    def _one_schedule(self) -> _Task:
        given = [f"'{name}'" for name in ("steps", "stride", "timesteps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, wanted at most one of them")
        if self.eta and self.sampler != "ddim":
            has = f"has '{self.sampler}'" if self.sampler else "names no sampler"
            raise ValueError(f"'eta' is for the sampler 'ddim', this row {has}")
        return self

    def branches(self) -> tuple[_Asks, ...]:
        """What the model is asked, in order. A component held to an image asks nothing and is left out."""
        assert isinstance(self, _Asks), f"{type(self).__name__} says itself what its branches are"
        return (self,)

    def prompts(self) -> list[str]:
        """Prompts in branch order; [] where labels stand instead."""
        return [branch.prompt for branch in self.branches() if branch.prompt is not None]

    def sources(self) -> list[str]:
        """Image and mask paths as written in the manifest."""
        return [path for path in (getattr(self, name, None) for name in ("image", "mask")) if path is not None]

    def canonical(self) -> dict[str, Any]:
        """Every parameter that has a say, defaults filled in; itself a manifest row that asks for the same picture.

        Without the id, which names a picture and does not change it. Paths stay as written, so that a moved folder
        keeps its keys. Whole numbers are ints, so that 7 and 7.0 are the same text.
        """
        row = self.model_dump(exclude={"id", "views", "components"}, exclude_none=True)
        if not {"steps", "stride", "timesteps"} & row.keys():
            row["stride"] = DEFAULT_STRIDE
        if self.sampler != "ddim":
            del row["eta"]
        for name in ("views", "components"):
            if hasattr(self, name):
                row[name] = [branch.canonical() for branch in getattr(self, name)]
        return _plain(row)


class TextToImage(_Task, _Asks):
    task: Literal["text_to_image"] = "text_to_image"


class ImageToImage(_Task, _Asks):
    """SDEdit. start: index into the schedule; strength: 1 is the whole schedule, 0 none of it."""

    task: Literal["image_to_image"] = "image_to_image"
    image: Path
    start: Start | None = None
    strength: Fraction | None = None

    @model_validator(mode="after")
    def _one_start(self) -> ImageToImage:
        if (self.start is None) == (self.strength is None):
            found = "neither is" if self.start is None else "both are"
            raise ValueError(f"wanted one of 'start' and 'strength', {found} given")
        return self


class Inpaint(_Task, _Asks):
    """White parts of the mask are painted. Without start or strength they begin as pure noise."""

    task: Literal["inpaint"] = "inpaint"
    image: Path
    mask: Path
    resample: Resample | None = None
    start: Start | None = None
    strength: Fraction | None = None

    @model_validator(mode="after")
    def _at_most_one_start(self) -> Inpaint:
        if self.start is not None and self.strength is not None:
            raise ValueError("wanted at most one of 'start' and 'strength', both are given")
        return self


class Anagram(_Task):
    task: Literal["anagram"] = "anagram"
    views: Annotated[tuple[ViewBranch, ...], AfterValidator(_not_empty)]
    reduction: Literal["mean", "alternate"] = "mean"

    def branches(self) -> tuple[_Asks, ...]:
        return self.views


class Hybrid(_Task):
    """The components sum to the identity; at most one is held to a given image."""

    task: Literal["hybrid"] = "hybrid"
    components: Annotated[tuple[ComponentBranch, ...], AfterValidator(_not_empty)]

    @model_validator(mode="after")
    def _whole(self) -> Hybrid:
        given = [index for index, branch in enumerate(self.components) if branch.image is not None]
        if len(given) > 1:
            raise ValueError(f"at most one component may be held to an 'image', {len(given)} are")
        if len(given) == len(self.components):
            raise ValueError("the only component is held to an 'image', so there is nothing to make")
        check_sum([make_component(branch.component, **branch.params) for branch in self.components])
        return self

    def branches(self) -> tuple[_Asks, ...]:
        return tuple(branch for branch in self.components if branch.image is None)

    def sources(self) -> list[str]:
        return [branch.image for branch in self.components if branch.image is not None]


class Upscale(_Task, _Asks):
    """The model's upper stages alone: the image takes the place of the small picture they begin with."""

    task: Literal["upscale"] = "upscale"
    image: Path


Task = TextToImage | ImageToImage | Inpaint | Anagram | Hybrid | Upscale
TASKS: dict[str, type[_Task]] = {
    "text_to_image": TextToImage,
    "image_to_image": ImageToImage,
    "inpaint": Inpaint,
    "anagram": Anagram,
    "hybrid": Hybrid,
    "upscale": Upscale,
}
_adapter: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="task")])


def parse_task(row: dict[str, Any]) -> Task:
    """The task a row asks for. Raises pydantic.ValidationError (a ValueError)."""
    return _adapter.validate_python(row)


def row_key(task: Task, model_revision: str, sampler_version: str) -> str:
    """32 hex digits: the same for rows that ask for the same picture of the same model, made by the same sampler."""
    content = json.dumps(
        [task.canonical(), model_revision, sampler_version], sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _make(make: Callable[..., Any], name: str, branch: ViewBranch | ComponentBranch) -> Any:
    """The view or component with its own parameters.

    A misspelt 'prompt' would be taken for one of them, so where they are refused the branch's own keys are looked at.
    """
    try:
        return make(name, **branch.params)
    except ValueError:
        for key in branch.params:
            hint = nearest(key, type(branch).model_fields.keys() - branch.model_fields_set, cutoff=0.75)
            if hint:
                raise ValueError(f"unknown key '{key}'{hint}") from None
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
