"""Where a row's trajectory starts and which moves it makes, task by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from darkroom.sampling.components import Component, make_component
from darkroom.sampling.levels import CLEAN, descent, flow_times, start_index, timesteps
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves, intervals_of, joined, with_jumps
from darkroom.sampling.stage import Inputs, Row, Stage

UNASKING = frozenset({"forward", "blur"})
BLUR_SIGMA = 2  # pixels at 64 px


@dataclass(frozen=True, eq=False)
class Trajectory:
    """reference: the picture that it starts from, noised to `time` (None: to the first move's), or None for pure noise;
    blur: what the state is put through before all."""

    moves: tuple[Move, ...] = ()
    reference: Tensor | None = None
    time: int | float | None = None
    blur: Component | None = None


def asks_nothing(row: Row) -> bool:
    """Whether a row's picture is had without asking the model: `forward`, and `denoise` by a blur."""
    return row.get("method", row["task"]) in UNASKING


def make_trajectory(row: Row, stage: Stage, inputs: Inputs) -> Trajectory:
    """The trajectory of a row at a stage. Raises ValueError for a start beyond the schedule, or an `until` off it."""
    if row["task"] in ("forward", "denoise"):
        return _from_level(row, stage, inputs)
    spacing = _spacing(row) if stage.steps is None else {"steps": stage.steps}
    moves = _schedule(stage, sampler_of(row, stage), spacing)
    if stage.steps is not None or stage.enlarges_latents:  # these have their own start, whatever the row's is
        return Trajectory(moves[stage.start :], enlarged(stage, inputs) if stage.start else None)
    intervals = intervals_of(moves)
    start = _start(row, len(intervals))
    if row["task"] == "inpaint" and row.get("strength") == 1 and stage.factor > 1:
        start = None  # as diffusers has it: all of the strength is no picture at all
    moves = joined(intervals[start or 0 :])
    if (resample := row.get("resample")) is not None:
        moves = with_jumps(moves, resample["jump"], resample["times"])
    return Trajectory(moves, None if start is None else inputs.image)


def sampler_of(row: Row, stage: Stage) -> str:
    """The stage's own sampler, else the row's, else the process's default."""
    return stage.sampler or row.get("sampler") or stage.process.default_sampler


def enlarged(stage: Stage, inputs: Inputs) -> Tensor:
    """The low-resolution picture at the size of the stage's state, as IF's pipelines enlarge it."""
    assert inputs.low_res is not None
    return F.interpolate(inputs.low_res[None], size=stage.shape[1:], mode="bilinear", align_corners=True)[0]


def row_levels(row: Row, kind: str, num_timesteps: int) -> list[float]:
    """The times of a row's schedule, descending: timesteps, or thousandths of noise where `kind` is "flow"."""
    if kind == "flow":
        return [1000 * (1 - time) for time in flow_times(_flow_steps(**_spacing(row)))]
    return [*timesteps(num_timesteps, **_spacing(row))]


def takes_no_step(row: Row, kind: str, num_timesteps: int) -> bool:
    """Whether a row's strength, though not 0, rounds to no step of its schedule."""
    if not (strength := row.get("strength")):
        return False
    # Flow has no timesteps to stride over, so a stride counts thousandths of its time.
    count = len(timesteps(1000 if kind == "flow" else num_timesteps, **_spacing(row)))
    return start_index(count, strength) == count


def _spacing(row: Row) -> dict[str, Any]:
    return {"steps": row.get("steps"), "stride": row.get("stride"), "name": row.get("timesteps")}


def _schedule(stage: Stage, sampler: str, spacing: dict[str, Any]) -> tuple[Move, ...]:
    """Every move from pure noise to the clean picture."""
    if stage.process.kind == "flow":
        return flow_moves(flow_times(_flow_steps(**spacing)), sampler)
    return diffusion_moves(timesteps(stage.process.num_timesteps, **spacing))


def _flow_steps(steps: int | None, stride: int | None = None, name: str | None = None) -> int:
    """Flow matching has no timesteps to stride over; a stride says how many of 1000 make one step."""
    return steps or len(timesteps(1000, stride=stride, name=name))


def _start(row: Row, intervals: int) -> int | None:
    """SDEdit (arXiv 2108.01073): the interval that the noised picture is the state before; None: from pure noise."""
    if row.get("start") is None:
        return None if row.get("strength") is None else start_index(intervals, row["strength"])
    if row["start"] > intervals:
        raise ValueError(f"start {row['start']} lies beyond the schedule, which has {intervals} steps")
    return row["start"]


def _from_level(row: Row, stage: Stage, inputs: Inputs) -> Trajectory:
    """`forward` and `denoise`: the picture noised to `timestep`, then nowhere, one step, or all the way."""
    level, total = row["timestep"], stage.process.num_timesteps
    if stage.process.kind == "diffusion" and level >= total:
        raise ValueError(f"'timestep' must be below {total}, the timesteps of the model; was {level}")
    method, until = row.get("method"), row.get("until")
    blur = make_component("low_pass", sigma=row.get("sigma", BLUR_SIGMA)) if method == "blur" else None
    levels: list[float] = []
    if method == "one_step":
        levels = [level]
    elif method == "iterative":
        levels = descent(row_levels(row, stage.process.kind, total), level, until)
    moves = _moves_through(levels, until is None, row, stage)
    return Trajectory(moves, inputs.image, _time(stage, level), blur)


def _moves_through(levels: list[float], to_the_end: bool, row: Row, stage: Stage) -> tuple[Move, ...]:
    """Moves through the descending levels, and on to the clean picture."""
    if stage.process.kind == "flow":
        times = [_time(stage, level) for level in levels]
        ending = [1.0] if to_the_end and times and times[-1] < 1 else []
        return flow_moves([*times, *ending], sampler_of(row, stage)) if len(times) + len(ending) > 1 else ()
    times = [int(level) for level in levels] + [CLEAN] * (to_the_end and bool(levels))
    return tuple(Move(before, after) for before, after in zip(times, times[1:], strict=False))


def _time(stage: Stage, level: float) -> int | float:
    """Of a flow at t, 1 - t is noise."""
    return 1 - level / 1000 if stage.process.kind == "flow" else int(level)
