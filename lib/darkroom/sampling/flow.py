"""Flow matching, forwards: Euler, Heun and midpoint steps, with a time per sample.

Source: arXiv 2210.02747 (conditional flow matching, straight paths); arXiv 2209.03003 (rectified flow).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from darkroom.sampling.grids import Grid, GridDefaults
from darkroom.sampling.levels import Level, Place, flow_times
from darkroom.sampling.multistep import unipc
from darkroom.sampling.names import unknown
from darkroom.sampling.schedules import SAMPLERS, Move, picture_share
from darkroom.sampling.shifts import Shift
from darkroom.sampling.solvers import Column, Leg, Line, Steps, flow_renoise, flow_step, per_sample, table

KINDS = {
    "euler": ("denoise",),
    "unipc": ("denoise",),
    "heun": ("heun_predict", "heun_correct"),
    "midpoint": ("midpoint_half", "midpoint_full"),
}


class Flow(Steps):
    """x_t = t x1 + (1 - t) noise, for t from 0 (noise) to 1 (picture x1); the model predicts v = x1 - noise.

    num_timesteps: nominal, so that a stride means as many steps as on a discrete model with so many noise levels.
    shift: where the steps of a walk stand, of a model that is told thousandths of noise (SD3, Flux); None: evenly
        spaced, of one that is told t.
    """

    kind = "flow"
    prediction = "velocity"
    learned_variance = False
    grid = GridDefaults()

    def __init__(self, num_timesteps: int = 1000, shift: Shift | None = None) -> None:
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps must be at least 1; got {num_timesteps}")
        self.num_timesteps, self.shift = num_timesteps, shift
        self.samplers = SAMPLERS["multistep flow" if shift is not None and shift.multistep else "flow"]
        self.default_sampler = self.samplers[0]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Flow:
        """The process that `to_config` wrote down. Raises ValueError on a key it does not know."""
        for key in config:
            if key not in (known := ("kind", "num_timesteps", "shift")):
                raise unknown("key of a flow's configuration", key, known)
        shift = config.get("shift")
        return cls(config.get("num_timesteps", 1000), None if shift is None else Shift(**shift))

    def to_config(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_config` makes the same process."""
        shift = {} if self.shift is None else {"shift": asdict(self.shift)}
        return {"kind": self.kind, "num_timesteps": self.num_timesteps, **shift}

    def place(self, thousandths: float) -> Place:
        """Where a state stands that has so many thousandths of noise."""
        return 1 - thousandths / 1000 if self.shift is None else Level.of_share(thousandths / 1000)

    def flow_grid(self, steps: int, tokens: int) -> Grid:
        """The grid of so many steps, of a picture that the model sees as so many tokens."""
        if self.shift is None:
            *times, end = flow_times(steps)
            return Grid(times, end, starts_quiet=False)
        shares = self.shift.shares(steps, tokens, self.num_timesteps)
        places = [Level.of_share(share) for share in shares]
        if self.shift.multistep:
            places = [
                place._replace(time=float(int(1000 * share))) for place, share in zip(places, shares, strict=True)
            ]
        return Grid(places, self.place(0), starts_quiet=False)

    def noised(self, x0: Tensor, place: Place, eps: Tensor) -> Tensor:
        """x0 [C, H, W] noised to where a walk stands; exactly x0 at 1."""
        return self.noise(x0[None], torch.tensor([picture_share(place)], device=x0.device), eps[None])[0]

    def noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The picture x0 noised to t (float32 [B], on x0's device); exactly x0 where t is 1."""
        t = per_sample(t, x0)
        return t * x0 + (1 - t) * eps

    def x0_and_noise(self, prediction: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What a velocity says x [B, C, H, W] at t (float32 [B]) is made of: the picture, and the noise."""
        t = per_sample(t, x)
        return x + (1 - t) * prediction, x - t * prediction

    def target(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What a model that knew the picture x0 and the noise eps would predict, at any time: the velocity."""
        return x0 - eps

    def bounded(self, x0: Tensor) -> Tensor:
        """x0 as it is: a velocity is followed, not corrected."""
        return x0

    def coefficients(self, moves: Sequence[Move], sampler: str | None = None, eta: float = 0.0) -> Tensor:
        """float32 [len(moves), WIDTH], on the host: see `solvers.Column`. Moves are `flow_moves` of the same sampler.

        Raises ValueError on an unknown sampler, or an eta: these solvers draw no noise.
        """
        sampler = self.default_sampler if sampler is None else sampler
        if sampler not in self.samplers:
            raise unknown("flow sampler", sampler, self.samplers)
        if eta:
            raise ValueError(f"eta is for the sampler ddim only; got {eta} with {sampler}")
        for move in moves:
            assert move.kind in (*KINDS[sampler], "renoise"), f"not a move of {sampler}: {move}"
        return table(_unipc_lines(moves) if sampler == "unipc" else [_line(move) for move in moves])


def _unipc_lines(moves: Sequence[Move]) -> list[Line]:
    """UniPC on the estimates x0 = x + noise velocity. Of walks that are never noised anew."""
    lines: list[Line] = []
    legs: list[Leg] = []
    for place, move in enumerate(moves):
        legs.append(leg := Leg(move.t, move.t_next))
        known: Line = {Column.SIGNAL_NEXT: leg.to.signal, Column.NOISE_NEXT: leg.to.noise}
        estimate: Line = {Column.ESTIMATE_STATE: 1.0, Column.ESTIMATE_PREDICTION: leg.at.noise}
        lines.append(known | estimate | unipc(legs, len(moves) - place - 1))
    return lines


def _line(move: Move) -> Line:
    t, t_next = picture_share(move.t), picture_share(move.t_next)
    known: Line = {Column.SIGNAL_NEXT: float(t_next), Column.NOISE_NEXT: 1.0 - t_next}
    return known | (flow_renoise(t, t_next) if move.kind == "renoise" else flow_step(move))
