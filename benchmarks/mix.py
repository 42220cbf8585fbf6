"""The mixed manifest that all benchmarks share, the same rows for the same seed.

40% text-to-image, 25% SDEdit over the starts 1, 3, 5, 7, 10, 20, 15% inpainting, 10% anagrams of two views, 10% hybrids
of two components; 34 steps (stride 30), guidance 7, in random order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from darkroom.sampling.engine import Predictor
from darkroom.sampling.plans import Plan, condition_keys, make_plan
from darkroom.sampling.stage import Inputs, Stage

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

Row = dict[str, Any]

SHARES = {"text_to_image": 0.4, "image_to_image": 0.25, "inpaint": 0.15, "anagram": 0.1, "hybrid": 0.1}
STARTS = (1, 3, 5, 7, 10, 20)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
INKS = ("red", "orange", "green", "cyan", "blue", "purple")
VIEWS = ("rotate_180", "flip_vertical", "flip_horizontal", "rotate_90")
PICTURES = 8
MASK = "inputs/mask.png"


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """`count` manifest rows, ids in manifest order, every task in its share."""
    random = np.random.default_rng(seed)
    ends = np.round(np.cumsum([0.0, *SHARES.values()]) * count).astype(int)
    rows = [
        _make(task, number - begin, random)
        for task, begin, end in zip(SHARES, ends, ends[1:], strict=False)
        for number in range(begin, end)
    ]
    return [{"id": f"row-{at:05d}", **rows[chosen]} for at, chosen in enumerate(random.permutation(count))]


def canonical(row: Row) -> Row:
    """The row as plans take it, defaults filled in."""
    from darkroom.manifest import parse_task  # here, as benchmarks/if_gpu.py must do without what this wants

    return parse_task(row).canonical()


def sample(rows: list[Row], count: int, random: np.random.Generator) -> list[Row]:
    """`count` of the rows in manifest order, every task and start in its share: each n-th of the sorted rows."""
    count = min(count, len(rows))
    ordered = sorted(range(len(rows)), key=lambda at: (rows[at]["task"], rows[at].get("start", 0), at))
    places = ((np.arange(count) + random.random()) * len(rows) / count).astype(int)
    return [rows[at] for at in sorted(ordered[place] for place in places)]


def picture(number: int, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: a disc of one colour on another."""
    random = np.random.default_rng([7, number])
    ground, ink = random.integers(0, 256, (2, 3))
    middle, radius = random.uniform(0.3, 0.7, 2) * size, random.uniform(0.15, 0.35) * size
    down, right = np.mgrid[:size, :size]
    inside = (down - middle[0]) ** 2 + (right - middle[1]) ** 2 < radius**2
    return np.where(inside[:, :, None], ink, ground).astype(np.uint8)


def mask(size: int) -> np.ndarray:
    """uint8 [size, size]: the right half is painted."""
    return np.repeat(np.where(np.arange(size) >= size // 2, 255, 0).astype(np.uint8)[None], size, axis=0)


def write(folder: Path, rows: list[Row], size: int) -> Path:
    """The manifest as JSON lines, with the pictures it names beside it; its path."""
    from darkroom.storage import encode_png

    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        (folder / _picture_name(number)).write_bytes(encode_png(picture(number, size)))
    (folder / MASK).write_bytes(encode_png(np.repeat(mask(size)[:, :, None], 3, axis=2)))
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Studio:
    """A first stage with all that the rows need: prompts embedded, pictures as tensors.

    scheduler: the scheduler_config.json that diffusers' pipelines take. stride: of all rows' schedules.
    """

    stride = 30

    def __init__(
        self, predictor: Predictor, stage: Stage, scheduler: dict[str, Any], conditions: dict[str, torch.Tensor]
    ) -> None:
        self.predictor, self.stage, self.scheduler, self.conditions = predictor, stage, scheduler, conditions
        self.pictures = {_picture_name(number): self._tensor(number) for number in range(PICTURES)}
        self.mask = torch.from_numpy(mask(self.stage.size))[None] >= 128

    @classmethod
    def of(cls, cascade: Cascade, rows: list[Row]) -> Studio:
        """A cascade's, its prompts encoded by its own text encoder."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        asked = prompts(rows)
        embeddings = dict(zip(asked, cascade.text_encoder(device).encode(asked), strict=True))
        return cls(cascade.predictor(1, device), cascade.stages[0], cascade.scheduler_config(1), embeddings)

    def plan(self, row: Row) -> Plan:
        """The plan of a canonical row at stage I."""
        image = self.pictures.get(row.get("image", ""))
        paint = self.mask if row["task"] == "inpaint" else None
        return make_plan(row, self.stage, Inputs(self.conditions, image=image, mask=paint))

    def _tensor(self, number: int) -> torch.Tensor:
        return torch.from_numpy(picture(number, self.stage.size)).permute(2, 0, 1).float() / 127.5 - 1


def prompts(rows: list[Row]) -> list[str]:
    """All that a model is asked about, sorted."""
    return sorted({key for row in rows for key in condition_keys(row)} | {""})


def _make(task: str, number: int, random: np.random.Generator) -> Row:
    row: Row = {"task": task, "seed": int(random.integers(2**31))}
    prompts = [f"a {random.choice(INKS)} {random.choice(DIGITS)}" for _ in range(2)]
    if task == "anagram":
        views = ("identity", VIEWS[number % len(VIEWS)])
        return row | {"views": [{"view": v, "prompt": p} for v, p in zip(views, prompts, strict=True)]}
    if task == "hybrid":
        names = ("low_pass", "high_pass")
        return row | {"components": [{"component": c, "prompt": p} for c, p in zip(names, prompts, strict=True)]}
    row["prompt"] = prompts[0]
    if task != "text_to_image":
        row["image"] = _picture_name(int(random.integers(PICTURES)))
    if task == "inpaint":
        row["mask"] = MASK
    if task == "image_to_image":
        row["start"] = STARTS[number % len(STARTS)]
    return row


def _picture_name(number: int) -> str:
    return f"inputs/disc-{number}.png"
