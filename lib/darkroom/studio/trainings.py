"""Trainings as the studio shows them, finished or under way: how far they are, their curves, what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.models.weights import read_header, read_tensor
from darkroom.report.curves import moving_mean, smoothing_window
from darkroom.report.trained import Epoch, TrainingRun
from darkroom.storage import NotFound, StorageError, Store, open_store
from darkroom.studio.found_runs import DAMAGED, Found
from darkroom.training.checkpoints import epochs_kept

POINTS = 1_000  # of a curve that is drawn
_AT_ONCE = 16


@dataclass(frozen=True)
class Training:
    """How a training stands. epochs: those that ended, of `wanted`; phases: of one that is trained in several, each
    with the epochs it is through; problem: why it cannot be read, "" where it can."""

    uri: str
    name: str
    recipe: str = ""
    created_at: str = ""
    finished: bool = False
    wanted: int = 0
    epochs: tuple[Epoch, ...] = ()
    phases: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def state(self) -> str:
        if self.problem:
            return "damaged"
        return "finished" if self.finished else "not finished"

    @property
    def progress(self) -> str:
        """E.g. `epoch 3 of 10`; of phases `base 2, fine 1`."""
        if self.phases:
            return ", ".join(f"{name} {epoch}" for name, epoch in self.phases.items())
        return f"{len(self.epochs)} of {self.wanted} epochs" if self.wanted else ""

    @property
    def seconds_left(self) -> float | None:
        """By the mean of the last epochs; None where that is not known."""
        if self.finished or not self.epochs or not self.wanted:
            return None
        last = [epoch.seconds for epoch in self.epochs[-5:]]
        return (self.wanted - len(self.epochs)) * sum(last) / len(last)


def read_trainings(found: list[Found]) -> list[Training]:
    """How those that were found stand, the newest first; those that cannot be read last."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="trainings") as pool:
        read = list(pool.map(lambda one: read_training(one.uri, one.name), found))
    return sorted(read, key=lambda one: (not one.problem, one.created_at), reverse=True)


def read_training(uri: str, name: str) -> Training:
    """How a training stands now. Whatever is wrong with it is its `problem`."""
    try:
        run = TrainingRun(uri)
        recipe = run.recipe
        return Training(
            uri,
            name,
            str(recipe["name"])[:100],
            str(run.record.get("created_at", "")),
            run.finished,
            int(recipe.get("epochs") or 0),
            tuple(run.epochs),
            {phase: max(epochs_kept(run.store, f"checkpoints/{phase}"), default=0) for phase in _phases(run.store)},
        )
    except DAMAGED as error:
        return Training(uri, name, problem=f"{type(error).__name__}: {error}")


def losses(uri: str) -> dict[str, np.ndarray]:
    """The loss of each step so far, by phase, "" where there is one alone. Those of phases are read from their newest
    checkpoints. Raises one of DAMAGED."""
    run = TrainingRun(uri)
    if phases := _phases(run.store):
        read = {phase: _of_checkpoint(run.store, f"checkpoints/{phase}") for phase in phases}
    else:
        read = {"": run.losses.get("loss", np.empty(0))}
    return {name: values[np.isfinite(values)].astype(float) for name, values in read.items()}


def curve(values: np.ndarray) -> list[dict[str, Any]]:
    """Points to draw of losses [N] by step: `POINTS` of each step's at most, and of their moving mean."""
    window, steps = smoothing_window(len(values)), np.arange(1, len(values) + 1)
    lines = {"each step": (steps, values)}
    if window > 1:
        middle = steps[window // 2 : window // 2 + len(values) - window + 1]
        lines[f"mean of {window:,} steps"] = (middle, moving_mean(values, window))
    return [
        {"step": int(step), "loss": float(loss), "line": name}
        for name, (places, heights) in lines.items()
        for step, loss in zip(*_thinned(places, heights), strict=True)
    ]


def reported_samples(uri: str) -> list[tuple[str, bytes]]:
    """(words, PNG) of the sheets of samples that the training's report has drawn, by epoch; [] where there is none."""
    store = open_store(uri)
    found = [(key, match) for key in store.list("report/") if (match := _SHEET.fullmatch(key))]
    found.sort(key=lambda one: int(one[1][2] or 0))
    return [(f"after epoch {match[2]}" if match[2] else "", store.read(key)) for key, match in found]


_SHEET = re.compile(r"report/(samples(?:-epoch-(\d+))?|denoised)\.png")


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model. name: its folder's; head and rows: a table of words; sheet: a PNG, b"" for none."""

    name: str
    head: list[str]
    rows: list[list[str]]
    sheet: bytes = b""


def evaluations(uri: str) -> list[Evaluation]:
    """Those in folders of the training; of a pipeline's tick those beside it. What is damaged says so in its table."""
    store = open_store(uri)
    if tick := re.fullmatch(r"(.*/ticks/[^/]+)/training", store.root):
        store = open_store(tick[1])
    found = [_evaluation(store, folder) for folder in store.folders()]
    return [one for one in found if one is not None]


def _evaluation(store: Store, folder: str) -> Evaluation | None:
    for name, table, sheet in _KINDS:
        try:
            record = json.loads(store.read(f"{folder}/{name}"))
            head, rows = table(record)
        except NotFound:
            continue
        except DAMAGED as error:
            return Evaluation(folder, ["problem"], [[f"{name}: {type(error).__name__}: {error}"]])
        return Evaluation(folder, head, rows, _sheet(store, folder, sheet))
    return None


def _measured(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    from darkroom.report.evaluation import measure_table

    table = measure_table(record)
    return table.head, table.rows


def _quality(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each share, of each size of picture where there are several."""
    quality = record["quality"]
    several = all(isinstance(value, Mapping) for value in quality.values())
    sizes = {f"{size} px: ": value for size, value in quality.items()} if several else {"": quality}
    return ["measure", "value"], [
        [f"{size}{name.replace('_', ' ')}", f"{value:.1%}" if isinstance(value, float) else f"{value:,}"]
        for size, values in sizes.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    ]


_Table = Callable[[Mapping[str, Any]], tuple[list[str], list[list[str]]]]
_KINDS: tuple[tuple[str, _Table, str], ...] = (
    ("evaluation.json", _measured, r"samples\.png"),
    ("quality.json", _quality, r"sheet(-\d+)?\.png"),
)


def _sheet(store: Store, folder: str, pattern: str) -> bytes:
    """The last of the sheets, which is of the largest pictures."""
    names = [key for key in store.list(f"{folder}/s") if re.fullmatch(pattern, key.removeprefix(f"{folder}/"))]
    try:
        return store.read(max(names, key=lambda name: (len(name), name))) if names else b""
    except StorageError:
        return b""


def _phases(store: Store) -> list[str]:
    return store.folders("checkpoints")


def _of_checkpoint(store: Store, folder: str) -> np.ndarray:
    """The losses in the newest checkpoint of a folder, without its weights."""
    kept = epochs_kept(store, folder)
    if not kept:
        return np.empty(0)
    key = f"{folder}/epoch-{kept[-1]:04d}.safetensors"

    def read(start: int, count: int) -> bytes:
        return store.read_part(key, start, count)

    return read_tensor(read, read_header(read), "losses").numpy()


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS of them, evenly drawn, with the first and the last."""
    if len(steps) <= POINTS:
        return steps, values
    places = np.linspace(0, len(steps) - 1, POINTS).round().astype(int)
    return steps[places], values[places]
