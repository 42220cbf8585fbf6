"""Plans: what a manifest row asks for, as start state, moves, branches and constraint of the one reverse process.

A row arrives as a plain mapping (a task's canonical form). Every task is a few lines here; none has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.components import Component, make_component
from darkroom.sampling.processes import Process
from darkroom.sampling.schedules import Move, flow_moves, flow_times, moves, start_index, timesteps, with_jumps
from darkroom.sampling.views import View, make_view

SAMPLER_VERSION = "1"  # part of every row's key: raise it whenever the same row would give another picture

IDENTITY = make_view("identity")
WHOLE = make_component("whole")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One model of a cascade, as far as a plan must know it.

    `steps`, `guidance` and `noise_level` are the stage's own where it does not follow the row's (stages II and III).
    `start`: it begins from the enlarged low-resolution picture, noised to the time of that index; 0: from pure noise.
    `factor`: pixels of the picture per element of the state, along a side: more than 1 where a VAE decodes the state.
    `sampler`: the stage's own, where it does not take the row's; `noising`: what noises the low-resolution picture, if
    not `process`.
    """

    number: int
    size: int
    channels: int
    process: Process
    steps: int | None = None
    guidance: float | None = None
    noise_level: int | None = None
    start: int = 0
    factor: int = 1
    sampler: str | None = None
    noising: Process | None = None


@dataclass(frozen=True)
class Inputs:
    """A row's tensors, at the stage's size unless said otherwise.

    conditions: what the model takes for each prompt or label, by `condition_keys`
    image, given: [C, H, W] in [-1, 1]; mask: bool [1, H, W], True = paint; low_res: [C, h, w] in [-1, 1], any size
    """

    conditions: Mapping[str, Tensor]
    image: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None
    low_res: Tensor | None = None


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
    """Holds a part of the state to `reference` [C, H, W], noised to the time the state stands at.

    With a mask (bool [1, H, W]) the part is where it is False; else it is the component of the picture.
    """

    reference: Tensor
    mask: Tensor | None = None
    component: Component | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the engine needs to walk one row through one stage.

    reference: the picture noised to the first move's time, or None to start from pure noise
    low_res: [C, H, W], the (noised) low-resolution picture as extra channels; noise_level goes with it
    keep: indices of the moves after which the state is kept for drawing the trajectory
    """

    seed: int
    stage: int
    shape: tuple[int, int, int]
    moves: tuple[Move, ...]
    branches: tuple[Branch, ...]
    conditions: Mapping[str, Tensor]
    guidance: float
    sampler: str
    eta: float = 0.0
    alternate: bool = False
    reference: Tensor | None = None
    constraint: Constraint | None = None
    low_res: Tensor | None = None
    noise_level: int = 0
    keep: frozenset[int] = field(default_factory=frozenset)

    def active(self, move: int) -> tuple[Branch, ...]:
        """The branches that speak at this move: all, or with the alternating reduction one after the other."""
        return (self.branches[move % len(self.branches)],) if self.alternate else self.branches

    def questions(self, move: int) -> tuple[tuple[View, str], ...]:
        """What the model is asked at this move, each distinct question once, in the order of the branches."""
        if not self.moves[move].asks:
            return ()
        asked: dict[tuple[View, str], None] = {}
        for branch in self.active(move):
            asked[branch.view, branch.prompt] = None
            if self.guidance != 1.0:
                asked[branch.view, branch.negative] = None
        return tuple(asked)

    @property
    def evaluations(self) -> int:
        """How often the model is asked, start to end."""
        return sum(len(self.questions(move)) for move in range(len(self.moves)))


def condition_keys(row: Row) -> list[str]:
    """Every prompt (or "label N") the model will be asked about, negatives included, each once, first use first."""
    branches = _branches(row)
    return list(dict.fromkeys(key for branch in branches for key in (branch.prompt, branch.negative)))


def make_plan(row: Row, stage: Stage, inputs: Inputs) -> Plan:
    """The plan of one row at one stage.

    Raises ValueError for what a row can get wrong only now: a start beyond this schedule's end, a mask of another size.
    """
    follows_row = stage.steps is None
    walk = _walk(row, stage) if follows_row else _evenly(stage, stage.steps, row.get("sampler"))
    begin = _BEGINNINGS[row["task"]](row, stage, inputs, len(walk)) if follows_row else _from_low_res(stage, inputs)
    plan_moves = walk[begin.index :]
    if (resample := row.get("resample")) is not None and follows_row:
        plan_moves = with_jumps(plan_moves, resample["jump"], resample["times"])
    sampler = row.get("sampler") or stage.process.default_sampler
    return Plan(
        seed=row["seed"],
        stage=stage.number,
        shape=(stage.channels, stage.size, stage.size),
        moves=plan_moves,
        branches=_branches(row),
        conditions=inputs.conditions,
        guidance=row["guidance"] if stage.guidance is None else stage.guidance,
        sampler=sampler,
        eta=row.get("eta", 0.0),
        alternate=row.get("reduction") == "alternate",
        reference=begin.reference,
        constraint=_constraint(row, inputs),
        low_res=_noised_low_res(row, stage, inputs),
        noise_level=stage.noise_level or 0,
    )


@dataclass(frozen=True, eq=False)
class _Beginning:
    """Where a walk begins: at which interval of the schedule, from which picture (None: pure noise)."""

    index: int = 0
    reference: Tensor | None = None


def _from_noise(row: Row, stage: Stage, inputs: Inputs, length: int) -> _Beginning:
    return _Beginning()


def _from_image(row: Row, stage: Stage, inputs: Inputs, length: int) -> _Beginning:
    """SDEdit (arXiv 2108.01073): the picture noised to the start time."""
    per_interval = {"heun": 2, "midpoint": 2}.get(row.get("sampler") or "", 1)
    intervals = length // per_interval
    if row.get("start") is None and row.get("strength") is None:
        return _Beginning()
    index = start_index(intervals, row["strength"]) if row.get("start") is None else row["start"]
    if index > intervals:
        raise ValueError(f"start {index} lies beyond the schedule, which has {intervals} steps")
    return _Beginning(index * per_interval, inputs.image)


def _from_low_res(stage: Stage, inputs: Inputs) -> _Beginning:
    return _Beginning(stage.start, _enlarged(stage, inputs)) if stage.start else _Beginning()


_BEGINNINGS: dict[str, Callable[[Row, Stage, Inputs, int], _Beginning]] = {
    "text_to_image": _from_noise,
    "image_to_image": _from_image,
    "inpaint": _from_image,
    "anagram": _from_noise,
    "hybrid": _from_noise,
    "upscale": _from_noise,
}


def _walk(row: Row, stage: Stage) -> tuple[Move, ...]:
    if stage.process.kind == "flow":
        return flow_moves(flow_times(_flow_steps(row)), row.get("sampler") or stage.process.default_sampler)
    return moves(
        timesteps(
            stage.process.num_timesteps, steps=row.get("steps"), stride=row.get("stride"), name=row.get("timesteps")
        )
    )


def _flow_steps(row: Row) -> int:
    """Flow matching has no timesteps to stride over; a stride says how many of 1000 make one step."""
    return row.get("steps") or len(timesteps(1000, stride=row.get("stride"), name=row.get("timesteps")))


def _evenly(stage: Stage, steps: int, sampler: str | None) -> tuple[Move, ...]:
    if stage.process.kind == "flow":
        return flow_moves(flow_times(steps), sampler or stage.process.default_sampler)
    return moves(timesteps(stage.process.num_timesteps, steps=steps))


def _branches(row: Row) -> tuple[Branch, ...]:
    negative = row.get("negative_prompt", "")
    if row["task"] == "anagram":
        weight = 1.0 if row.get("reduction") == "alternate" else 1.0 / len(row["views"])
        parts = row["views"]
    elif row["task"] == "hybrid":
        weight, parts = 1.0, row["components"]
    else:
        return (Branch(IDENTITY, WHOLE, _condition_key(row) or negative, negative),)
    fallback = next(key for key in (*map(_condition_key, parts), negative) if key is not None)
    return tuple(
        Branch(_view(part), _component(part), _condition_key(part) or fallback, negative, weight) for part in parts
    )


def _condition_key(part: Row) -> str | None:
    """A component held to a given picture has no prompt of its own; it goes along with the first that has."""
    if part.get("label") is not None:
        return f"label {part['label']}"
    return part.get("prompt")


_OWN_KEYS = {"view", "component", "prompt", "label", "image"}


def _view(part: Row) -> View:
    if part.get("view") is None:
        return IDENTITY
    own = {} if part.get("component") else {key: value for key, value in part.items() if key not in _OWN_KEYS}
    return make_view(part["view"], **own)


def _component(part: Row) -> Component:
    if part.get("component") is None:
        return WHOLE
    return make_component(part["component"], **{key: value for key, value in part.items() if key not in _OWN_KEYS})


def _constraint(row: Row, inputs: Inputs) -> Constraint | None:
    if row["task"] == "inpaint":
        assert inputs.image is not None and inputs.mask is not None
        if inputs.mask.shape[-2:] != inputs.image.shape[-2:]:
            sizes = " and ".join("{} x {}".format(*tensor.shape[-2:]) for tensor in (inputs.mask, inputs.image))
            raise ValueError(f"the mask and the image must have the same size; got {sizes}")
        return Constraint(inputs.image, mask=inputs.mask)
    held = [part for part in row.get("components", ()) if part.get("image") is not None]
    if not held:
        return None
    assert inputs.given is not None
    return Constraint(inputs.given, component=_component(held[0]))


def _noised_low_res(row: Row, stage: Stage, inputs: Inputs) -> Tensor | None:
    """The low-resolution picture enlarged to the stage's size and noised to its noise level, as IF's pipelines do."""
    if stage.noise_level is None:
        return None
    enlarged = _enlarged(stage, inputs)[None]
    drawn = noise.normal(row["seed"], stage.number, noise.LOWRES, 0, tuple(enlarged.shape[1:]))
    level = torch.tensor([stage.noise_level])
    return stage.process.noise(enlarged, level, torch.from_numpy(drawn)[None])[0]


def _enlarged(stage: Stage, inputs: Inputs) -> Tensor:
    assert inputs.low_res is not None
    size = (stage.size, stage.size)
    return F.interpolate(inputs.low_res[None], size=size, mode="bilinear", align_corners=True)[0]
