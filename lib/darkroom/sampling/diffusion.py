"""Discrete diffusion, backwards: steps of any solver, with a time per sample.

Sources: DDPM arXiv 2006.11239, learned variance and cosine schedule arXiv 2102.09672, dynamic thresholding arXiv
2205.11487, v prediction arXiv 2202.00512; the solvers' stand where they are. Agrees with diffusers' schedulers, see the
tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from darkroom.sampling import bitwise, multistep, solvers
from darkroom.sampling.grids import Grid, GridDefaults, find_grid
from darkroom.sampling.levels import CLEAN, Level, Place
from darkroom.sampling.names import unknown
from darkroom.sampling.schedules import SAMPLERS, Move
from darkroom.sampling.solvers import Leg, Line, Steps, table

Prediction = Literal["epsilon", "x0", "v"]
PREDICTIONS = ("epsilon", "x0", "v")
MAX_BETA = 0.999


class Diffusion(Steps):
    """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise, for t = 0 .. T-1; CLEAN has alpha_bar 1.

    alphas_cumprod: alpha_bar, float64 [T], falling, strictly between 0 and 1; the last may be 0, a level without any
        picture (arXiv 2305.08891), where the model does not predict epsilon, which says nothing of a picture there, and
        of the samplers those are left that do not divide by the signal.
    prediction: what the model predicts. v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0.
    learned_variance: the model also gives, per pixel, a value in about [-1, 1] that places the step's log variance
        between its two bounds ("learned_range"). Otherwise the lower bound is used ("fixed_small").
    threshold: (ratio, max) of dynamic thresholding; clip: a bound on |x0|. At most one of them.
    grid: what the model says of the times of a walk; sampler: its own, of a row that names none.
    Raises ValueError.
    """

    kind = "diffusion"

    def __init__(
        self,
        alphas_cumprod: Tensor,
        prediction: Prediction = "epsilon",
        *,
        learned_variance: bool = False,
        threshold: tuple[float, float] | None = None,
        clip: float | None = None,
        grid: GridDefaults | Mapping[str, Any] | None = None,
        sampler: str = "ddpm",
        schedule: Mapping[str, Any] | None = None,
    ) -> None:
        self.alphas_cumprod = alphas_cumprod.to("cpu", torch.float64)
        self.prediction = prediction
        self.learned_variance = learned_variance
        self.threshold = None if threshold is None else (float(threshold[0]), float(threshold[1]))
        self.clip = clip
        self.grid = grid if isinstance(grid, GridDefaults) else GridDefaults(**(grid or {}))
        self.default_sampler = sampler
        self.schedule = dict(schedule or {"schedule": "explicit", "alphas_cumprod": self.alphas_cumprod.tolist()})
        zero = bool(self.alphas_cumprod.numel()) and self.alphas_cumprod[-1].item() == 0
        self.samplers = FROM_ZERO if zero else SAMPLERS["diffusion"]
        self._check()
        alphas = [*self.alphas_cumprod.tolist(), 1.0]  # so that index CLEAN = -1 is the picture without noise
        self._clock = [Level.preserving(alpha, time) for time, alpha in enumerate(alphas)]
        self._clock[CLEAN] = Level.preserving(1.0, CLEAN)
        self._levels: dict[torch.device, Tensor] = {}

    @classmethod
    def linear(
        cls,
        num_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        terminal: float | None = None,
        **options: Any,
    ) -> Diffusion:
        """Betas evenly spaced from beta_start to beta_end, as in DDPM. terminal: as of `scaled_linear`; `options`: what
        follows alphas_cumprod."""
        alphas = torch.cumprod(1 - torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64), 0)
        given = {"num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}
        if terminal is not None:
            given["terminal"] = terminal
            alphas = _brought_to(alphas, terminal)
        return cls(alphas, schedule={"schedule": "linear", **given}, **options)

    @classmethod
    def scaled_linear(
        cls,
        num_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        snr_shift: float = 1.0,
        terminal: float | None = None,
        **options: Any,
    ) -> Diffusion:
        """Betas whose roots are evenly spaced, as in latent diffusion. `options`: what follows alphas_cumprod.

        snr_shift: what the ratio of signal to noise, squared, is divided by at every timestep (CogVideoX,
        arXiv 2408.06072, section 3.1); terminal: what alpha_bar of the last timestep is then brought to, 0 for no
        signal at all (arXiv 2305.08891, algorithm 1).
        """
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64)
        given: dict[str, Any] = {"num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}
        alphas = torch.cumprod(1 - roots**2, 0)
        if snr_shift != 1.0:
            given["snr_shift"] = snr_shift
            alphas = alphas / (snr_shift + (1 - snr_shift) * alphas)
        if terminal is not None:
            given["terminal"] = terminal
            alphas = _brought_to(alphas, terminal)
        return cls(alphas, schedule={"schedule": "scaled_linear", **given}, **options)

    @classmethod
    def cosine(cls, num_timesteps: int = 1000, **options: Any) -> Diffusion:
        """The cosine schedule, diffusers' squaredcos_cap_v2; IF's. `options`: what follows alphas_cumprod."""
        levels = [math.cos((i / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num_timesteps + 1)]
        pairs = zip(levels, levels[1:], strict=False)
        betas = torch.tensor([min(1 - after / before, MAX_BETA) for before, after in pairs], dtype=torch.float64)
        schedule = {"schedule": "cosine", "num_timesteps": num_timesteps}
        return cls(torch.cumprod(1 - betas, 0), schedule=schedule, **options)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Diffusion:
        """The process that `to_config` wrote down. Raises ValueError on a key or schedule it does not know."""
        options = {key: value for key, value in config.items() if key not in ("kind", "schedule")}
        makers = {
            "linear": cls.linear,
            "scaled_linear": cls.scaled_linear,
            "cosine": cls.cosine,
            "explicit": _explicit,
        }
        name = config.get("schedule", "explicit")
        if name not in makers:
            raise unknown("noise schedule", name, makers)
        try:
            return makers[name](**options)
        except TypeError as error:
            raise ValueError(f"process configuration with schedule {name!r}: {error}") from error

    def to_config(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_config` makes the same process."""
        return {
            "kind": self.kind,
            **self.schedule,
            "prediction": self.prediction,
            "learned_variance": self.learned_variance,
            "threshold": None if self.threshold is None else list(self.threshold),
            "clip": self.clip,
            **({} if self.grid == GridDefaults() else {"grid": asdict(self.grid)}),
            **({} if self.default_sampler == "ddpm" else {"sampler": self.default_sampler}),
        }

    @property
    def num_timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alphas_cumprod)

    def level(self, place: Place) -> Level:
        """The level of a place; between two timesteps sigma = noise / signal is interpolated, as diffusers does."""
        if isinstance(place, Level):
            return place
        if place == int(place):
            return self._clock[int(place)]
        below, above = self._clock[math.floor(place)], self._clock[math.ceil(place)]
        low, high = below.noise / below.signal, above.noise / above.signal
        return Level.of_sigma(low + (high - low) * (place - math.floor(place)), place)

    def find_grid(self, sampler: str, steps: int, spacing: str | None = None, karras: bool | None = None) -> Grid:
        """Where so many steps of a sampler stand; spacing and karras None for the model's own. Raises ValueError."""
        return find_grid(self.alphas_cumprod.numpy(), sampler, steps, self.grid, spacing, karras)

    def noised(self, x0: Tensor, place: Place, eps: Tensor) -> Tensor:
        """x0 [C, H, W] noised to where a walk stands; exactly x0 at CLEAN."""
        level = self.level(place)
        signal, noise = torch.tensor([level.signal, level.noise], dtype=torch.float32, device=x0.device)
        return signal * x0 + noise * eps

    def noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x0 noised to t (int64 [B], on x0's device); exactly x0 where t is CLEAN."""
        signal, noise = self._signal_and_noise(t, x0)
        return signal * x0 + noise * eps

    def x0_and_noise(self, prediction: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What a prediction says x [B, C, H, W] at t (int64 [B], never CLEAN) is made of; x0 is not bounded."""
        signal, noise = self._signal_and_noise(t, x)
        if self.prediction == "epsilon":
            return (x - noise * prediction) / signal, prediction
        if self.prediction == "x0":
            return prediction, (x - signal * prediction) / noise
        return signal * x - noise * prediction, signal * prediction + noise * x

    def target(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What a model that knew x0 and eps [B, C, H, W] would predict at t (int64 [B]): one of them, or v."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "x0":
            return x0
        signal, noise = self._signal_and_noise(t, x0)
        return signal * eps - noise * x0

    def bounded(self, x0: Tensor) -> Tensor:
        """x0 [B, C, H, W], thresholded or clipped as this process is told to."""
        if self.threshold is not None:
            return bitwise.threshold(x0, *self.threshold)
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def coefficients(self, moves: Sequence[Move], sampler: str | None = None, eta: float = 0.0) -> Tensor:
        """float32 [len(moves), WIDTH], on the host: the table of `lines`. Raises ValueError."""
        return table(self.lines(moves, sampler, eta))

    def lines(self, moves: Sequence[Move], sampler: str | None = None, eta: float = 0.0) -> list[Line]:
        """A line for each move, in float64: see `solvers.Column`.

        eta: of ddim, 0 (deterministic) .. 1; the others have none. Noise is drawn unless a move ends CLEAN. (diffusers
        draws it unless t is 0. For schedules that end at 0, all of `timesteps`, that is the same; for one that ends
        earlier, diffusers puts noise with a meaningless learned variance on the finished picture.) A learned variance
        is ddpm's alone: the others have no use for it.
        Raises ValueError.
        """
        sampler = self.default_sampler if sampler is None else sampler
        if sampler not in self.samplers:
            raise unknown("diffusion sampler", sampler, self.samplers)
        if not 0.0 <= eta <= 1.0 or (eta and sampler != "ddim"):
            raise ValueError(f"eta must lie between 0 and 1, for ddim only; got {eta} with {sampler}")
        return solvers.diffusion_lines(moves, self.level, self.prediction, self._solver(sampler, eta))

    def _check(self) -> None:
        alphas = self.alphas_cumprod
        if alphas.ndim != 1 or not len(alphas) or not bool(((alphas >= 0) & (alphas < 1)).all()):
            raise ValueError(f"alphas_cumprod must be a list of values between 0 and 1; got {alphas}")
        if alphas[-1] == 0 and self.prediction == "epsilon":
            raise ValueError("the last of alphas_cumprod is 0, where predicting epsilon says nothing: give v")
        if not bool((alphas[1:] < alphas[:-1]).all()):
            raise ValueError("alphas_cumprod must fall from one timestep to the next")
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        if self.default_sampler not in self.samplers:
            raise unknown("diffusion sampler", self.default_sampler, self.samplers)
        if self.threshold is not None and self.clip is not None:
            raise ValueError("x0 is bounded by threshold or by clip, not by both")
        if self.threshold is not None and not (0.0 < self.threshold[0] <= 1.0 <= self.threshold[1]):
            raise ValueError(f"threshold must be (ratio in 0 .. 1, max of at least 1); got {self.threshold}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive; got {self.clip}")

    def _signal_and_noise(self, t: Tensor, x: Tensor) -> Tensor:
        """float32 [2, B, 1, 1, 1], to spread over x; the table stays on x's device, a copy per call would make the host
        wait."""
        device = x.device
        if device not in self._levels:
            alphas = torch.tensor([level.alpha_bar for level in self._clock], dtype=torch.float64)
            self._levels[device] = torch.stack([alphas.sqrt(), (1 - alphas).sqrt()]).float().to(device)
        return solvers.per_sample(self._levels[device][:, t], x)

    def _solver(self, sampler: str, eta: float) -> Callable[[list[Leg], int], Line]:
        if sampler in _MULTISTEP:
            return _MULTISTEP[sampler]
        if sampler == "ddpm":
            return lambda legs, left: solvers.ddpm(*_alphas(legs[-1]), self.learned_variance)
        eta = {"ddim": eta, "euler": 0.0, "euler_ancestral": 1.0}[sampler]
        return lambda legs, left: solvers.ddim(*_alphas(legs[-1]), eta)


FROM_ZERO = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde")  # from a level without any picture
_MULTISTEP = {
    "dpmpp_2m": multistep.dpmpp_2m,
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde,
    "unipc": multistep.unipc,
    "pndm": multistep.pndm,
}


def _brought_to(alphas: Tensor, terminal: float) -> Tensor:
    """alphas_cumprod whose roots are moved and stretched, so that the first stays and the last is 0; that one is then
    `terminal`."""
    roots = alphas.sqrt()
    brought = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    brought[-1] = terminal
    return brought


def _alphas(leg: Leg) -> tuple[float, float]:
    return leg.at.alpha_bar, leg.to.alpha_bar


def _explicit(alphas_cumprod: Sequence[float], **options: Any) -> Diffusion:
    return Diffusion(torch.tensor(alphas_cumprod, dtype=torch.float64), **options)
