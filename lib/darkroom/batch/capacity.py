"""How many evaluations a pass may hold: found by trying, once for each kind of GPU, model, stage and dtype."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from darkroom.models.node_cache import cache_folder
from darkroom.sampling.engine import Predictor
from darkroom.sampling.plans import Stage

ON_CPU = 32
LEAST, MOST = 8, 128  # more gains nothing: matrices are large enough by then, and a row waits longer for its steps
MARGIN = 0.9  # of the memory that is there: the step, the pictures and the allocator's gaps want some too


def find_capacity(
    predictor: Predictor, stage: Stage, condition: Tensor, revision: str, dtype: str, share: float = 1.0
) -> int:
    """The largest of 8, 16, 32, ... evaluations whose pass fits the share of this GPU; ON_CPU on a processor.

    condition: what one row's prompt is to the model. What was found is kept in the machine's cache folder.
    """
    if predictor.device.type != "cuda":
        return ON_CPU
    kind = torch.cuda.get_device_name(predictor.device)
    known = _Known(cache_folder() / "capacities", f"{kind} {revision} stage {stage.number} {dtype} {share:.2f}")
    found = known.read()
    if found is None:
        found = largest(lambda capacity: _fits(predictor, stage, condition, capacity, share))
        known.write(found)
    return found


def largest(fits: Callable[[int], bool]) -> int:
    """The largest power of two that fits, from LEAST up to MOST; if LEAST does not, the largest below, at least 1."""
    capacity = LEAST
    if fits(capacity):
        while capacity < MOST and fits(2 * capacity):
            capacity *= 2
        return capacity
    while capacity > 1 and not fits(capacity):
        capacity //= 2
    return capacity


@torch.inference_mode()
def _fits(predictor: Predictor, stage: Stage, condition: Tensor, capacity: int, share: float) -> bool:
    """Tries one pass of zeros, and one picture's decoding where the states are latents."""
    device = predictor.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        predictor(*(part.to(device) for part in empty_pass(stage, condition, capacity)))
        if stage.factor > 1:
            predictor.decode(torch.zeros(stage.shape, device=device))
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= MARGIN * share * total


def empty_pass(stage: Stage, condition: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pass that asks nothing, in the shapes that the stage's model takes: x, times, conditions, noise levels."""
    channels, *side = stage.shape
    levels = torch.zeros(capacity, dtype=torch.int64)
    times = levels.float() if stage.process.kind == "flow" else levels
    low_res = 0 if stage.noise_level is None else 3 if stage.factor > 1 else channels
    x = torch.zeros(capacity, channels + low_res, *side)
    return x, times, condition.expand(capacity, *condition.shape), levels


class _Known:
    """One number in a file of the machine's cache folder; a file that cannot be read or written is no loss."""

    def __init__(self, folder: Path, what: str) -> None:
        self.path, self.what = folder / (re.sub(r"[^A-Za-z0-9.]+", "-", what) + ".json"), what

    def read(self) -> int | None:
        try:
            return int(json.loads(self.path.read_text())["capacity"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, capacity: int) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"for": self.what, "capacity": capacity}))
        except OSError:
            pass
