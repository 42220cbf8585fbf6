"""Parts of a row: the views of an anagram, the components of a hybrid, and what a row says of one stage alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from darkroom.manifest.fields import (
    AdapterScale,
    Count,
    Fraction,
    Frozen,
    Guidance,
    Id,
    Label,
    NetScale,
    Picture,
    Preprocess,
    Prompt,
    Steps,
    Threshold,
    Timestep,
)
from darkroom.models.edges import THRESHOLDS
from darkroom.sampling.components import make_component
from darkroom.sampling.names import nearest
from darkroom.sampling.views import make_view


class Asks(Frozen):
    """Anything that asks the model something: by a text, by a class label, or (unconditional models) by neither."""

    prompt: Prompt | None = None
    label: Label | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Asks:
        if self.prompt is not None and self.label is not None:
            raise ValueError("'prompt' and 'label' are both given, wanted one of them")
        return self


class ViewBranch(Asks):
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


class SeenThrough(Frozen):
    """A view by its name, with its own parameters beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")
    view: str

    @model_validator(mode="after")
    def _makes_a_view(self) -> SeenThrough:
        make_view(self.view, **(self.model_extra or {}))
        return self

    def canonical(self) -> str | dict[str, Any]:
        """The name alone where every parameter is the usual one."""
        seen = make_view(self.view, **(self.model_extra or {}))
        return self.view if seen == make_view(self.view) else {"view": self.view, **dict(seen.params)}


def _named_view(value: Any) -> Any:
    if value is None or isinstance(value, (dict, SeenThrough)):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("view_type", "must be a view's name, or a view and its parameters")
    return {"view": value}


class ComponentBranch(Asks):
    """One component of a hybrid, with its own parameters (sigma, weight) beside its name.

    view: the component is seen through this view, so a hybrid can be an anagram too: a name, or where the view has
        parameters {"view": name, ...}.
    image: the component is held to this picture (an inverse hybrid); then nothing is asked for it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    component: str
    view: Annotated[SeenThrough | None, BeforeValidator(_named_view)] = None
    image: Picture | None = None

    @model_validator(mode="after")
    def _makes_a_component(self) -> ComponentBranch:
        _make(make_component, self.component, self)
        if self.image is not None and (self.prompt is not None or self.label is not None):
            raise ValueError("a component held to an 'image' takes no prompt and no label")
        return self

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def canonical(self) -> dict[str, Any]:
        named = self.model_dump(include=set(type(self).model_fields) - {"view"}, exclude_none=True)
        if self.view is not None:
            named["view"] = self.view.canonical()
        return named | dict(make_component(self.component, **self.params).params)


class Resample(Frozen):
    """RePaint: every `jump` steps go back as many, until each stretch was walked `times` times (arXiv 2201.09865)."""

    jump: Count
    times: Count


class AdapterUse(Frozen):
    """An adapter by the name that the job gave it, and how much of it."""

    adapter: Id
    scale: AdapterScale = 1.0


class NetUse(Frozen):
    """A control network by the name that the job gave it, and the picture that it sees.

    preprocess: what is made of the picture first; low, high: canny's thresholds. scale: how much its answers count;
    start, end: the shares of the schedule between which they do.
    """

    net: Id
    image: Picture
    preprocess: Preprocess = "none"
    low: Threshold | None = None
    high: Threshold | None = None
    scale: NetScale = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> NetUse:
        if self.preprocess != "canny":
            for name in ("low", "high"):
                if getattr(self, name) is not None:
                    raise ValueError(f"'{name}' is a threshold of canny, and 'preprocess' is '{self.preprocess}'")
        low, high = self.thresholds
        if low > high:
            raise ValueError(f"'low' must not be above 'high', was {low:g} and {high:g}")
        if self.start >= self.end:
            raise ValueError(f"'start' must be below 'end', was {self.start:g} and {self.end:g}")
        return self

    @property
    def thresholds(self) -> tuple[float, float]:
        low, high = THRESHOLDS if self.preprocess == "canny" else (0.0, 0.0)
        return low if self.low is None else self.low, high if self.high is None else self.high

    def canonical(self) -> dict[str, Any]:
        low, high = self.thresholds
        edges = {"low": low, "high": high} if self.preprocess == "canny" else {}
        return self.model_dump(exclude={"low", "high"}) | edges


class UpperStage(Frozen):
    """What a row asks of an upper stage: each overrides the stage's own."""

    steps: Steps | None = None
    guidance: Guidance | None = None
    noise_level: Timestep | None = None


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
