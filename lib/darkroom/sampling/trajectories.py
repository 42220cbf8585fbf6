"""Where a row's walk begins and which moves it makes, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from darkroom.sampling.components import Component, make_component
from darkroom.sampling.schedules import (
    CLEAN,
    Move,
    descent,
    flow_moves,
    flow_times,
    moves,
    start_index,
    timesteps,
    with_jumps,
)

if TYPE_CHECKING:
    from darkroom.sampling.plans import Inputs, Stage

Row = Mapping[str, Any]
UNASKING = frozenset({"forward", "blur"})
BLUR_SIGMA = 2  # pixels at 64 px


@dataclass(frozen=True, eq=False)
class Walk:
    """reference: the picture that the walk begins with, noised to `time` (None: to the first move's), or None for pure
    noise; blur: what the state is put through before all."""

    moves: tuple[Move, ...] = ()
    reference: Tensor | None = None
    time: int | float | None = None
    blur: Component | None = None


def asks_nothing(row: Row) -> bool:
    """Whether a row is made without asking the model: `forward`, and `denoise` by a blur."""
    return row.get("method", row["task"]) in UNASKING


def make_walk(row: Row, stage: Stage, inputs: Inputs) -> Walk:
    """The walk of a row at a stage. Raises ValueError for a start beyond the schedule, or an `until` off it."""
    if row["task"] in ("forward", "denoise"):
        return _from_level(row, stage, inputs)
    spacing = _spacing(row) if stage.steps is None else {"steps": stage.steps}
    way = _way(stage, sampler_of(row, stage), spacing)
    if stage.steps is not None or stage.factor > 1:  # these have their own beginning, whatever the row's is
        return Walk(way[stage.start :], enlarged(stage, inputs) if stage.start else None)
    begin = _start(row, stage, len(way))
    way = way[begin or 0 :]
    if (resample := row.get("resample")) is not None:
        way = with_jumps(way, resample["jump"], resample["times"])
    return Walk(way, None if begin is None else inputs.image)


def sampler_of(row: Row, stage: Stage) -> str:
    return stage.sampler or row.get("sampler") or stage.process.default_sampler


def enlarged(stage: Stage, inputs: Inputs) -> Tensor:
    """The low-resolution picture at the size of the stage's state, as IF's pipelines enlarge it."""
    assert inputs.low_res is not None
    return F.interpolate(inputs.low_res[None], size=stage.shape[1:], mode="bilinear", align_corners=True)[0]


def levels(row: Row, kind: str, num_timesteps: int) -> list[float]:
    """The times a row's schedule stands at, descending: timesteps, or thousandths of noise where `kind` is "flow"."""
    if kind == "flow":
        return [1000 * (1 - time) for time in flow_times(_flow_steps(**_spacing(row)))]
    return [*timesteps(num_timesteps, **_spacing(row))]


def _spacing(row: Row) -> dict[str, Any]:
    return {"steps": row.get("steps"), "stride": row.get("stride"), "name": row.get("timesteps")}


def _way(stage: Stage, sampler: str, spacing: dict[str, Any]) -> tuple[Move, ...]:
    if stage.process.kind == "flow":
        return flow_moves(flow_times(_flow_steps(**spacing)), sampler)
    return moves(timesteps(stage.process.num_timesteps, **spacing))


def _flow_steps(steps: int | None, stride: int | None = None, name: str | None = None) -> int:
    """Flow matching has no timesteps to stride over; a stride says how many of 1000 make one step."""
    return steps or len(timesteps(1000, stride=stride, name=name))


def _start(row: Row, stage: Stage, length: int) -> int | None:
    """SDEdit (arXiv 2108.01073): which move the noised picture is the state before; None where there is no start."""
    if row.get("start") is None and row.get("strength") is None:
        return None
    per_interval = {"heun": 2, "midpoint": 2}.get(sampler_of(row, stage), 1)
    intervals = length // per_interval
    index = start_index(intervals, row["strength"]) if row.get("start") is None else row["start"]
    if index > intervals:
        raise ValueError(f"start {index} lies beyond the schedule, which has {intervals} steps")
    return index * per_interval


def _from_level(row: Row, stage: Stage, inputs: Inputs) -> Walk:
    """`forward` and `denoise`: the picture noised to `timestep`, then nowhere, one step, or all the way."""
    level, total = row["timestep"], stage.process.num_timesteps
    if stage.process.kind == "diffusion" and level >= total:
        raise ValueError(f"'timestep' must be below {total}, the timesteps of the model; was {level}")
    method, until = row.get("method"), row.get("until")
    blur = make_component("low_pass", sigma=row.get("sigma", BLUR_SIGMA)) if method == "blur" else None
    down: list[float] = []
    if method == "one_step":
        down = [level]
    elif method == "iterative":
        down = descent(levels(row, stage.process.kind, total), level, until)
    return Walk(_down(down, until is None, row, stage), inputs.image, _time(stage, level), blur)


def _down(down: list[float], to_the_end: bool, row: Row, stage: Stage) -> tuple[Move, ...]:
    """Moves through the levels, and on to the clean picture."""
    if stage.process.kind == "flow":
        times = [_time(stage, level) for level in down]
        ending = [1.0] if to_the_end and times and times[-1] < 1 else []
        return flow_moves([*times, *ending], sampler_of(row, stage)) if len(times) + len(ending) > 1 else ()
    places = [int(level) for level in down] + [CLEAN] * (to_the_end and bool(down))
    return tuple(Move(before, after) for before, after in zip(places, places[1:], strict=False))


def _time(stage: Stage, level: float) -> int | float:
    """A flow has as much noise at t as there is left of the way: 1 - t."""
    return 1 - level / 1000 if stage.process.kind == "flow" else int(level)
