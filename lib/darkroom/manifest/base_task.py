"""What every task of a manifest has: seed, schedule, guidance, size, sampler, adapters; and its canonical form."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from darkroom.manifest.branches import AdapterUse, Asks
from darkroom.manifest.fields import (
    Fraction,
    Frozen,
    Guidance,
    Id,
    Interval,
    Path,
    Prompt,
    Reuse,
    Sampler,
    Seed,
    Size,
    Spacing,
    Steps,
    Stride,
    Switch,
    plain,
)
from darkroom.models import MOST_ADAPTERS
from darkroom.sampling.levels import DEFAULT_STRIDE


class BaseTask(Frozen):
    """What all tasks share. At most one of steps, stride and timesteps; none means stride 30.

    true_guidance: of models that are told `guidance` as a number (Flux), what others have by it: the prompt's answer
    held against the negative one's.
    negative_prompt: null is no text at all, where a model knows that apart from the empty one (SDXL).
    spacing, karras: where so many `steps` stand; guidance_interval: the shares of the schedule between which guidance
    is asked; of all three None is the model's own. guidance_rescale: phi of arXiv 2305.08891, section 3.4. reuse: the
    negative prompt is asked at the first of so many guided moves, and what guidance adds there is added to the others
    too.
    """

    id: Id | None = None
    seed: Seed = 0
    steps: Steps | None = None
    stride: Stride | None = None
    timesteps: Path | None = None
    guidance: Guidance = 7.0
    true_guidance: Guidance = 1.0
    negative_prompt: Prompt | None = ""
    size: Size | None = None
    width: Size | None = None
    height: Size | None = None
    sampler: Sampler | None = None
    eta: Fraction = 0.0
    spacing: Spacing | None = None
    karras: Switch | None = None
    guidance_interval: Interval | None = None
    guidance_rescale: Fraction = 0.0
    reuse: Reuse = 1
    adapters: tuple[AdapterUse, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _a_square_has_one_size(cls, row: Any) -> Any:
        """One way to ask for a square, so that it has one key."""
        if not isinstance(row, dict) or "size" in row or row.get("width") is None or row["width"] != row.get("height"):
            return row
        return {key: value for key, value in row.items() if key not in ("width", "height")} | {"size": row["width"]}

    @model_validator(mode="after")
    def _one_size(self) -> BaseTask:
        if (self.width is None) != (self.height is None):
            there, missing = ("width", "height") if self.height is None else ("height", "width")
            raise ValueError(f"'{there}' is given, and no '{missing}'")
        if self.width is not None and self.size is not None:
            raise ValueError("'size' is given beside 'width' and 'height', wanted one or the other")
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> BaseTask:
        given = [f"'{name}'" for name in ("steps", "stride", "timesteps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, wanted at most one of them")
        if self.eta and self.sampler != "ddim":
            has = f"has '{self.sampler}'" if self.sampler else "names no sampler"
            raise ValueError(f"'eta' is for the sampler 'ddim', this row {has}")
        if (self.spacing or self.karras) and self.steps is None:
            name = "spacing" if self.spacing else "karras"
            raise ValueError(f"'{name}' says where so many 'steps' stand, this row has {given[0] if given else 'none'}")
        return self

    @model_validator(mode="after")
    def _each_adapter_once(self) -> BaseTask:
        if self.adapters:
            check_each_once("adapters", "adapter", [use.adapter for use in self.adapters])
        return self

    def branches(self) -> tuple[Asks, ...]:
        """What the model is asked, in order. A component held to an image asks nothing and is left out."""
        assert isinstance(self, Asks), f"{type(self).__name__} says itself what its branches are"
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
        silent = self._silent()
        row = self.model_dump(exclude={"id", "views", "components", *silent}, exclude_none=True)
        if self.negative_prompt is None and "negative_prompt" not in silent:
            row["negative_prompt"] = None
        if "stride" not in silent and not {"steps", "stride", "timesteps"} & row.keys():
            row["stride"] = DEFAULT_STRIDE
        if "adapters" in row:
            row["adapters"] = sorted(row["adapters"], key=lambda use: use["adapter"])
        for name in ("views", "components"):
            if hasattr(self, name):
                row[name] = [branch.canonical() for branch in getattr(self, name)]
        return plain(row)

    def mended(self) -> list[str]:
        """What was mended of the sampler for rows of this kind alone, since its version last rose.

        Part of the key: such rows are made anew, and the rows whose pictures stay as they are keep theirs.
        """
        return []

    def _silent(self) -> set[str]:
        """Parameters that have no say in this row's picture, or as much as if they were not given."""
        given = _LATER.keys() & self.model_fields_set
        usual = _LATER.keys() - given | {name for name in given if getattr(self, name) == _LATER[name]}
        return usual if self.sampler == "ddim" else usual | {"eta"}


def check_each_once(field: str, what: str, names: list[str]) -> None:
    """ValueError for more than a row may name, or one that it names twice."""
    if len(names) > MOST_ADAPTERS:
        raise ValueError(f"'{field}' must be at most {MOST_ADAPTERS}, was {len(names)}")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"the {what} '{twice[0]}' is given {names.count(twice[0])} times, wanted once, with a scale")


# Words that came when there were rows already, which keep their keys, and what they say of these.
_LATER: dict[str, Any] = {
    "fit": "crop",
    "empty_mask": "fail",
    "full_mask": "flag",
    "clip_skip": 0,
    "guidance_interval": None,
    "guidance_rescale": 0.0,
    "reuse": 1,
    "true_guidance": 1.0,
    "adapters": (),
    "control": (),
    "guess_mode": False,
}
