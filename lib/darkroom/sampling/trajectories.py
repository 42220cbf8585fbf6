"""Where a row's trajectory starts and which moves it makes, task by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.sampling.components import Component, make_component
from darkroom.sampling.grids import Grid
from darkroom.sampling.levels import CLEAN, Place, descent, flow_times, start_index, timesteps
from darkroom.sampling.schedules import Move, diffusion_moves, flow_moves, picture_share, with_jumps

if TYPE_CHECKING:
    from torch import Tensor

    from darkroom.sampling.stage import Inputs, Row, Stage

UNASKING = frozenset({"forward", "blur"})
BLUR_SIGMA = 2  # pixels at 64 px


@dataclass(frozen=True, eq=False)
class Trajectory:
    """reference: the picture that it starts from, noised to `place` (None: to the first move's), or None for pure noise
    of deviation `start_scale`; blur: what the state is put through before all."""

    moves: tuple[Move, ...] = ()
    reference: Tensor | None = None
    place: Place | None = None
    blur: Component | None = None
    start_scale: float = 1.0


def asks_nothing(row: Row) -> bool:
    """Whether a row's picture is had without asking the model: `forward`, and `denoise` by a blur."""
    return row.get("method", row["task"]) in UNASKING


def make_trajectory(row: Row, stage: Stage, inputs: Inputs) -> Trajectory:
    """The trajectory of a row at a stage. Raises ValueError for a start beyond the schedule, or an `until` off it."""
    if row["task"] in ("forward", "denoise"):
        return _from_level(row, stage, inputs)
    grid = _grid(row, stage)
    if stage.steps is not None or stage.enlarges_latents:  # these have their own start, whatever the row's is
        reference = enlarged(stage, inputs) if stage.start else None
        return Trajectory(_moves(grid, row, stage, stage.start), reference, start_scale=_start_scale(grid, stage))
    start = _start(row, len(grid.places), begun=stage.process.shift is not None)
    if row["task"] == "inpaint" and row.get("strength") == 1 and stage.factor > 1:
        start = None  # as diffusers has it: all of the strength is no picture at all
    moves = _moves(grid, row, stage, start or 0)
    if (resample := row.get("resample")) is not None:
        moves = with_jumps(moves, resample["jump"], resample["times"])
    return Trajectory(moves, None if start is None else inputs.image, start_scale=_start_scale(grid, stage))


def sampler_of(row: Row, stage: Stage) -> str:
    """The stage's own sampler, else the row's, else the process's default."""
    return stage.sampler or row.get("sampler") or stage.process.default_sampler


def enlarged(stage: Stage, inputs: Inputs) -> Tensor:
    """The low-resolution picture at the size of the stage's state, as IF's pipelines enlarge it."""
    from torch.nn import functional as F

    assert inputs.low_res is not None
    return F.interpolate(inputs.low_res[None], size=stage.shape[1:], mode="bilinear", align_corners=True)[0]


def row_levels(row: Row, kind: str, num_timesteps: int) -> list[float]:
    """The times of a row's schedule, descending: timesteps, or thousandths of noise where `kind` is "flow"."""
    if kind == "flow":
        return [1000 * (1 - time) for time in flow_times(_flow_steps(**_spacing(row)))]
    return [*timesteps(num_timesteps, **_spacing(row))]


def takes_no_step(row: Row, kind: str, num_timesteps: int, begun: bool = False) -> bool:
    """Whether a row's strength, though not 0, rounds to no step of its schedule. begun: see `start_index`."""
    if begun or not (strength := row.get("strength")):
        return False
    # Flow has no timesteps to stride over, so a stride counts thousandths of its time.
    count = len(timesteps(1000 if kind == "flow" else num_timesteps, **_spacing(row)))
    return start_index(count, strength) == count


def _spacing(row: Row) -> dict[str, Any]:
    return {"steps": row.get("steps"), "stride": row.get("stride"), "name": row.get("timesteps")}


def _grid(row: Row, stage: Stage) -> Grid:
    """Every place from pure noise to the clean picture. A row's or a stage's steps are spaced as the sampler has it,
    other schedules say their times themselves."""
    spacing = _spacing(row) if stage.steps is None else {"steps": stage.steps}
    if stage.process.kind == "flow":
        return stage.process.flow_grid(_flow_steps(**spacing), stage.tokens)
    if spacing["steps"] is None:
        return Grid(timesteps(stage.process.num_timesteps, **spacing), CLEAN, starts_quiet=False)
    own = {} if stage.sampler else {"spacing": row.get("spacing"), "karras": row.get("karras")}
    return stage.process.find_grid(sampler_of(row, stage), spacing["steps"], **own)


def _moves(grid: Grid, row: Row, stage: Stage, start: int) -> tuple[Move, ...]:
    """The moves through a grid, from places[start] on."""
    sampler = sampler_of(row, stage)
    if stage.process.kind == "flow":
        return flow_moves([*grid.places, grid.end], sampler, start)
    return diffusion_moves(grid.places, start, end=grid.end, twice=sampler == "pndm")


def _start_scale(grid: Grid, stage: Stage) -> float:
    return stage.process.level(grid.places[0]).noise if grid.starts_quiet else 1.0


def _flow_steps(steps: int | None, stride: int | None = None, name: str | None = None) -> int:
    """Flow matching has no timesteps to stride over; a stride says how many of 1000 make one step."""
    return steps or len(timesteps(1000, stride=stride, name=name))


def _start(row: Row, intervals: int, begun: bool) -> int | None:
    """SDEdit (arXiv 2108.01073): the interval that the noised picture is the state before; None: from pure noise."""
    if row.get("start") is None:
        return None if row.get("strength") is None else start_index(intervals, row["strength"], begun)
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
    return Trajectory(moves, inputs.image, _place(stage, level), blur)


def _moves_through(levels: list[float], to_the_end: bool, row: Row, stage: Stage) -> tuple[Move, ...]:
    """Moves through the descending levels, and on to the clean picture."""
    flow = stage.process.kind == "flow"
    places = [_place(stage, level) for level in levels]
    if to_the_end and places and not (flow and picture_share(places[-1]) == 1):
        places.append(stage.process.place(0) if flow else CLEAN)
    if len(places) < 2:
        return ()
    return _moves(Grid(places[:-1], places[-1], starts_quiet=False), row, stage, 0)


def _place(stage: Stage, level: float) -> Place:
    return stage.process.place(level) if stage.process.kind == "flow" else int(level)
