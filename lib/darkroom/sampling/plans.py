"""Plans: what a manifest row asks for, as start state, moves, branches and constraint of the one reverse process.

A row arrives as a plain mapping (a task's canonical form). Every task is a few lines here; none has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.components import Component, make_component
from darkroom.sampling.control import HINTS, UNCONTROLLED, Control, make_control
from darkroom.sampling.levels import Place
from darkroom.sampling.processes import Process
from darkroom.sampling.prompt_keys import PromptKey, prompt_key
from darkroom.sampling.schedules import Move, outside
from darkroom.sampling.stage import (
    CONDITION,
    GUIDANCE,
    NOISE_LEVEL,
    SIZES,
    Fields,
    Handed,
    Inputs,
    Row,
    Shape,
    Stage,
    at_size,
)
from darkroom.sampling.trajectories import asks_nothing, enlarged, make_trajectory, sampler_of
from darkroom.sampling.views import IDENTITY, View, own_parameters, view_of

SAMPLER_VERSION = "1"  # part of every row's key: raise it when rows of every kind would give another picture

Kind = tuple[Shape, tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]

WHOLE = make_component("whole")


@dataclass(frozen=True)
class Branch:
    """One term of the sum: the model sees view(x) with these prompts, and answers for its component."""

    view: View
    component: Component
    prompt: str
    negative: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Constraint:
    """Holds a part of the state to `reference` [C, H, W], noised to the time of the state.

    With a mask (bool [1, H, W]) the part is where it is False; else it is the component of the picture.
    noise: the same for all times, as diffusers holds latents; None: drawn anew at each (RePaint).
    """

    reference: Tensor
    mask: Tensor | None = None
    component: Component | None = None
    noise: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the engine needs to take one row through one stage.

    reference: the picture to start from, noised to `reference_place` (None: to the first move's time, and where there
        is no move not at all), or None to start from pure noise of deviation `start_scale`; blur: what the start state
        is put through
    conditions: what the model is told for a prompt or label, the field CONDITION or several; fields: the row's own,
        with any question
    extra: [C, H, W], channels beside the state, seen through the view too: the (noised) low-resolution picture, with
        which goes noise_level
    variance_asked: the step takes a learned variance, which is the conditional answer's
    unguided: indices of the moves outside the interval in which guidance is asked; guidance_rescale: share of a guided
        prediction that is brought back to the deviation of the prompt's own
    reused: indices of the moves at which guidance adds what it added last, and the negative prompt is not asked
    keep: indices of the moves after which the state is kept for drawing the trajectory
    control: networks that have a say beside the model
    part: of the moves, the first that is made and the first that is not, where others make the rest; handed: where it
        begins then, unless that is the start
    """

    seed: int
    stage: int
    shape: Shape
    moves: tuple[Move, ...]
    branches: tuple[Branch, ...]
    conditions: Mapping[str, Tensor | Fields]
    guidance: float
    sampler: str
    eta: float = 0.0
    alternate: bool = False
    reference: Tensor | None = None
    constraint: Constraint | None = None
    extra: Tensor | None = None
    noise_level: int = 0
    keep: frozenset[int] = field(default_factory=frozenset)
    reference_place: Place | None = None
    blur: Component | None = None
    variance_asked: bool = False
    start_scale: float = 1.0
    unguided: frozenset[int] = frozenset()
    guidance_rescale: float = 0.0
    reused: frozenset[int] = frozenset()
    fields: Fields = field(default_factory=dict)
    control: Control | None = None
    part: tuple[int, int] | None = None
    handed: Handed | None = None

    @property
    def span(self) -> range:
        """Indices of the moves that are made."""
        return range(*self.part) if self.part is not None else range(len(self.moves))

    @property
    def hands_over(self) -> bool:
        """Whether moves are left to others."""
        return self.span.stop < len(self.moves)

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the control networks that its passes ask."""
        return () if self.control is None else self.control.nets

    @property
    def kind(self) -> Kind:
        """Rows of one kind can share a pass: their states, what is beside these and the row's own fields have the same
        shapes, and they ask the same control networks."""
        told = {"extra": self.extra, **self.fields} if self.extra is not None else self.fields
        return self.shape, self.nets, tuple((name, tuple(values.shape)) for name, values in told.items())

    def told(self, key: str) -> Fields:
        """All that the model is told beside state and time when it is asked with this prompt or label. KeyError."""
        own = self.conditions[key]
        named = own if isinstance(own, Mapping) else {CONDITION: own}
        return {NOISE_LEVEL: torch.tensor(self.noise_level), **self.fields, **named}

    def active(self, move: int) -> tuple[Branch, ...]:
        """The branches that speak at this move: all, or with the alternating reduction one an interval in turn.

        Not one a move: what midpoint's first move answers is only where to ask again, so a view that always had the
        first would have no say in the picture.
        """
        if not self.alternate:
            return self.branches
        interval = sum(earlier.opens_interval for earlier in self.moves[: move + 1]) - 1
        return (self.branches[interval % len(self.branches)],)

    def questions(self, move: int) -> tuple[tuple[View, str], ...]:
        """What the model is asked at this move, each distinct question once, in the order of the branches.

        Not what would have no say: at guidance 1 the unconditional answer, at 0 the conditional one; nor the
        unconditional one where what guidance added last is added again.
        """
        if not self.moves[move].asks:
            return ()
        guidance, asked = self.guidance_at(move), dict[tuple[View, str], None]()
        for branch in self.active(move):
            if guidance != 0.0 or self.variance_asked:
                asked[branch.view, branch.prompt] = None
            if guidance != 1.0 and move not in self.reused:
                asked[branch.view, branch.negative] = None
        return tuple(asked)

    def guidance_at(self, move: int) -> float:
        """1, the prompt alone, outside the interval in which guidance is asked."""
        return 1.0 if move in self.unguided else self.guidance

    @property
    def evaluations(self) -> int:
        """How often the model is asked, start to end."""
        return sum(len(self.questions(move)) for move in self.span)


def condition_keys(row: Row, stage: Stage | None = None) -> list[str]:
    """Every prompt (or "label N") the model will be asked about, negatives included, each once, first use first.

    With a stage, only those that it asks about.
    """
    branches = _branches(row) if stage is None else _branches_at(row, stage)
    return list(dict.fromkeys(key for branch in branches for key in (branch.prompt, branch.negative)))


def goes_through(row: Row, stage: Stage, default_size: int) -> bool:
    """Whether a row is worked on by a stage. `forward` and `denoise` are made by the first alone, whatever the model's
    own size; `upscale` by all but the first."""
    if row["task"] in ("forward", "denoise"):
        return stage.number == 1
    if stage.step:
        return row["task"] != "upscale"
    return stage.size <= row.get("size", default_size) and (row["task"] != "upscale" or stage.number > 1)


def make_plan(row: Row, stage: Stage, inputs: Inputs) -> Plan:
    """The plan of one row at one stage.

    Raises ValueError for what a row can get wrong only now: a start beyond this schedule's end, a mask of another size,
    a noise level for a stage that takes none.
    """
    stage = as_asked(row, stage)
    trajectory = make_trajectory(row, stage, inputs)
    sampler, follows = sampler_of(row, stage), stage.guidance is None
    control = make_control(row, inputs, trajectory.moves)
    branches, conditions = _branches_at(row, stage), inputs.conditions
    if control is not None and control.guess:
        conditions = {**conditions, UNCONTROLLED: conditions[branches[0].negative]}
        branches = tuple(replace(branch, negative=UNCONTROLLED) for branch in branches)
    guidance = _guidance(row, stage) if follows else stage.guidance
    interval = row.get("guidance_interval", stage.guidance_interval) if follows else (0.0, 1.0)
    unguided = outside(trajectory.moves, *interval)
    part = _part(trajectory.moves, stage)
    return Plan(
        seed=row["seed"],
        stage=stage.number,
        shape=stage.shape,
        moves=trajectory.moves,
        branches=branches,
        conditions=conditions,
        guidance=guidance,
        sampler=sampler,
        eta=row.get("eta", 0.0) if stage.sampler is None else 0.0,
        alternate=row.get("reduction") == "alternate" and not stage.enlarges_latents,
        reference=trajectory.reference,
        constraint=_constraint(row, stage, inputs),
        extra=inputs.beside if stage.inpaints or stage.edits else _noised_low_res(row, stage, inputs),
        noise_level=stage.noise_level or 0,
        reference_place=trajectory.place,
        blur=trajectory.blur,
        variance_asked=stage.process.learned_variance and sampler == "ddpm",
        start_scale=trajectory.start_scale,
        unguided=unguided,
        guidance_rescale=row.get("guidance_rescale", 0.0) if follows else 0.0,
        reused=_reused(trajectory.moves, part, unguided, guidance, row.get("reuse", 1) if follows else 1),
        fields={**_row_fields(row, stage), **inputs.fields, **({} if control is None else {HINTS: control.hints})},
        control=control,
        part=part,
        handed=inputs.handed,
    )


def _part(moves: tuple[Move, ...], stage: Stage) -> tuple[int, int] | None:
    """Of the moves, those that the stage is to make, where it shares them with another."""
    if stage.expert is None:
        return None
    noisy = sum(move.model_time >= stage.expert.boundary for move in moves)
    return (0, noisy) if stage.expert.is_first else (noisy, len(moves))


def _reused(
    moves: tuple[Move, ...], part: tuple[int, int] | None, unguided: frozenset[int], guidance: float, reuse: int
) -> frozenset[int]:
    """Of every `reuse` moves that are guided, all but the first; counted anew where others have made those before."""
    if reuse == 1 or guidance in (0.0, 1.0):
        return frozenset()
    guided = [index for index in range(*(part or (len(moves),))) if moves[index].asks and index not in unguided]
    return frozenset(index for number, index in enumerate(guided) if number % reuse)


def as_asked(row: Row, stage: Stage) -> Stage:
    """The stage at the row's size, with what its `stage2` or `stage3` says of steps, guidance and noise level.
    ValueError."""
    stage = at_size(row, stage)
    settings = row.get(f"stage{stage.number}") or {}
    if (level := settings.get("noise_level")) is not None:
        if stage.noise_level is None:
            raise ValueError(f"'noise_level' is given for stage {stage.number}, which takes none")
        most = (stage.noising or stage.process).num_timesteps
        if level >= most:
            raise ValueError(f"'noise_level' of stage {stage.number} must be below {most}; was {level}")
    return replace(stage, **settings)


def start_state(plan: Plan, process: Process) -> Tensor:
    """The state a plan starts with, [C, H, W] on the host."""
    drawn = start_noise(plan.seed, plan.stage, plan.shape)
    first = plan.moves[0].t if plan.moves else None
    place = first if plan.reference_place is None else plan.reference_place
    if plan.reference is None:
        x = drawn if plan.start_scale == 1.0 else drawn * plan.start_scale
    elif place is None:
        x = plan.reference.clone()
    else:
        x = process.noised(plan.reference, place, drawn)
    return x if plan.blur is None else plan.blur(x[None])[0]


def start_noise(seed: int, stage: int, shape: Shape) -> Tensor:
    """The noise that a row's state begins with at a stage, [C, H, W] on the host."""
    return torch.from_numpy(noise.normal(seed, stage, noise.START, 0, shape))


def _branches_at(row: Row, stage: Stage) -> tuple[Branch, ...]:
    branches = _branches(row)
    return (replace(branches[0], view=IDENTITY, component=WHOLE, weight=1.0),) if stage.enlarges_latents else branches


def _branches(row: Row) -> tuple[Branch, ...]:
    if asks_nothing(row):
        return ()
    negative = negative_key(row)
    if row["task"] == "anagram":
        weight = 1.0 if row.get("reduction") == "alternate" else 1.0 / len(row["views"])
        parts = row["views"]
    elif row["task"] == "hybrid":
        weight, parts = 1.0, row["components"]
    else:
        return (Branch(IDENTITY, WHOLE, _condition_key(row) or negative, negative),)
    fallback = next(key for key in (*map(_condition_key, parts), negative) if key is not None)
    return tuple(
        Branch(view_of(part), component_of(part), _condition_key(part) or fallback, negative, weight) for part in parts
    )


def negative_key(row: Row) -> str:
    """The condition key of a row's negative prompt; of no text at all where it says null."""
    negative = row.get("negative_prompt", "")
    return PromptKey("", nothing=True).write() if negative is None else prompt_key(negative)


def _condition_key(part: Row) -> str | None:
    """A component held to a given picture has no prompt of its own; it goes along with the first that has."""
    if part.get("label") is not None:
        return f"label {part['label']}"
    prompt = part.get("prompt")
    return None if prompt is None else prompt_key(prompt, part.get("prompt_2"), part.get("clip_skip", 0))


def component_of(part: Row) -> Component:
    """The component of a hybrid's part; the whole picture for an anagram's view."""
    return WHOLE if part.get("component") is None else make_component(part["component"], **own_parameters(part))


def _constraint(row: Row, stage: Stage, inputs: Inputs) -> Constraint | None:
    if stage.enlarges_latents or stage.inpaints:
        return None
    if row["task"] == "inpaint":
        assert inputs.image is not None and inputs.mask is not None
        if inputs.mask.shape[-2:] != inputs.image.shape[-2:]:
            sizes = " and ".join("{} x {}".format(*tensor.shape[-2:]) for tensor in (inputs.mask, inputs.image))
            raise ValueError(f"the mask and the image must have the same size; got {sizes}")
        held = start_noise(row["seed"], stage.number, stage.shape) if stage.factor > 1 else None
        return Constraint(inputs.image, mask=inputs.mask, noise=held)
    held = [part for part in row.get("components", ()) if part.get("image") is not None]
    if not held:
        return None
    assert inputs.given is not None
    return Constraint(inputs.given, component=component_of(held[0]))


def _guidance(row: Row, stage: Stage) -> float:
    """Of the two questions, with and without the prompt."""
    if stage.expert is not None and not stage.expert.is_first and "guidance_2" in row:
        return row["guidance_2"]
    return row.get("true_guidance", 1.0) if stage.distilled else row.get("guidance", 1.0)


def _row_fields(row: Row, stage: Stage) -> Fields:
    """What the model is told of a row with every question. SDXL: the size that the picture was trained at, what was cut
    off it and the size that is wanted, here those of a picture that is neither scaled nor cut (arXiv 2307.01952, 2.2).
    """
    if stage.embeds_guidance:
        return {GUIDANCE: torch.tensor(float(row.get("guidance", 1.0)))}
    width, height = stage.pixels
    return {SIZES: torch.tensor([height, width, 0, 0, height, width]).float()} if stage.sized else {}


def _noised_low_res(row: Row, stage: Stage, inputs: Inputs) -> Tensor | None:
    """The low-resolution picture enlarged to the stage's size and noised to its noise level, as IF's pipelines do."""
    if stage.noise_level is None:
        return None
    picture = enlarged(stage, inputs)[None]
    drawn = noise.normal(row["seed"], stage.number, noise.LOWRES, 0, tuple(picture.shape[1:]))
    level = torch.tensor([stage.noise_level])
    return (stage.noising or stage.process).noise(picture, level, torch.from_numpy(drawn)[None])[0]
