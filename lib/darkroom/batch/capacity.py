"""How many evaluations a pass may hold: found by trying, once for each kind of GPU, model, stage and
dtype."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darkroom.models.node_cache import remember
from darkroom.sampling.engine import Predictor
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.sampling.stage import Stage
from darkroom.storage import NotFound, Store, open_store

ON_CPU = 32
LEAST, MOST = 8, 128  # more gains nothing: matrices are large enough by then, and a row waits longer for its steps
VIDEOS = 2  # evaluations of videos a pass at most: a row's two questions, either of which fills a device
MARGIN = 0.9  # of the memory that is there: the step, the pictures and the allocator's gaps want some too


def find_capacity(
    predictor: Predictor,
    stage: Stage,
    fields: Sequence[Tensor],
    revision: str,
    dtype: str,
    share: float = 1.0,
    run: str | None = None,
) -> int:
    """The largest of 8, 16, 32, ... evaluations whose pass fits the share of this GPU, of videos 1 or 2; `usual` on a
    processor.

    fields: what one question's are, see `empty_pass`. What was found is kept in the machine's cache folder. run: all of
    its workers on such a GPU take what the first of them found, since a picture's bits depend on it.
    """
    if predictor.device.type != "cuda":
        return usual(stage, on_gpu=False)
    what = f"{torch.cuda.get_device_name(predictor.device)} {revision} stage {stage.number} {dtype}"
    agreed = None if run is None else Agreed(open_store(run), what)
    if agreed is not None and (known := agreed.read()) is not None:
        return known
    bounds = (1, VIDEOS) if stage.video is not None else (LEAST, MOST)
    found = remember(
        "capacities",
        f"{what} {share:.2f}",
        lambda: largest(lambda n: _fits(predictor, stage, fields, n, share), *bounds),
    )
    return found if agreed is None else agreed.settle(found)


def usual(stage: Stage, on_gpu: bool) -> int:
    """Evaluations a pass where nobody says how many: on a GPU the fewest that are tried."""
    if stage.video is not None:
        return 1 if on_gpu else VIDEOS
    return LEAST if on_gpu else ON_CPU


class Agreed:
    """A capacity that a run's workers agreed on: RUN/capacities/NAME.json, whoever wrote it first."""

    def __init__(self, store: Store, what: str) -> None:
        self.store, self.what = store, what
        self.key = f"capacities/{re.sub(r'[^A-Za-z0-9.]+', '-', what)}.json"

    def read(self) -> int | None:
        """None as long as nobody has settled it."""
        try:
            return int(json.loads(self.store.read(self.key))["capacity"])
        except NotFound:
            return None

    def settle(self, capacity: int) -> int:
        """This capacity, or the one that another worker was first with."""
        record = {"for": self.what, "capacity": capacity, "by": secrets.token_hex(8)}
        if self.store.create(self.key, json.dumps(record).encode()):
            return capacity
        settled = self.read()
        assert settled is not None, f"{self.key} was there and is gone"
        return settled


def largest(fits: Callable[[int], bool], least: int = LEAST, most: int = MOST) -> int:
    """The largest power of two that fits, from `least` up to `most`; if `least` does not, the largest below, at least
    1."""
    capacity = least
    if fits(capacity):
        while capacity < most and fits(2 * capacity):
            capacity *= 2
        return capacity
    while capacity > 1 and not fits(capacity):
        capacity //= 2
    return capacity


@torch.inference_mode()
def _fits(predictor: Predictor, stage: Stage, fields: Sequence[Tensor], capacity: int, share: float) -> bool:
    """Tries one pass of zeros, and pictures' decoding where the states are latents: the two go on side by side."""
    device = predictor.device
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(device)
    try:
        with naming_out_of_memory():
            peak = _peak(device, lambda: predictor(*(part.to(device) for part in empty_pass(stage, fields, capacity))))
            if stage.decodes:
                states = torch.zeros(predictor.latents.at_once, *stage.shape)
                peak += _peak(device, lambda: predictor.latents.decode(states)) - held
    except torch.OutOfMemoryError:
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return peak <= MARGIN * share * total


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that are held at most while it is done, by all that is there."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def empty_pass(stage: Stage, fields: Sequence[Tensor], capacity: int) -> tuple[Tensor, ...]:
    """A pass that asks nothing, in the shapes that the stage's model takes: x, times, and its fields in their order.

    fields: of one question, as the model's `empty_fields` has them; which makes no difference to time and memory.
    """
    channels, *side = stage.shape
    x = torch.zeros(capacity, channels + stage.extra_channels, *side)
    return x, torch.zeros(capacity), *(field.expand(capacity, *field.shape) for field in fields)
