"""The product's commands as a user gives them, timed, and what they leave: rows, pictures, drift between two runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[1]
VISIBLE, SHARE = 16, 0.01  # a row is visibly another where so large a share of its values differs by more than that
POLL = 0.05
CLOSING = 10.0  # seconds for a job's output to end after the job: what outlives it may hold the pipe


class Failed(Exception):
    """Why a step failed, in a line."""


@dataclass(frozen=True)
class Check:
    """How a step is run. out: the check's folder; mnist: a folder of the four IDX files."""

    out: Path
    tiny: bool = False
    quick: bool = False
    mnist: str | None = None

    @property
    def on_gpu(self) -> bool:
        import torch

        return torch.cuda.is_available()

    def pick(self, full: Any, quick: Any, tiny: Any) -> Any:
        """By how much is to be run."""
        return tiny if self.tiny else quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """What a step found. goal: in words; met: whether it is reached, None without one; detail: too long for a table."""

    name: str
    value: Any
    unit: str = ""
    goal: str = ""
    met: bool | None = None
    detail: bool = False

    def text(self) -> str:
        value = f"{self.value:,.4g}" if isinstance(self.value, float) else f"{self.value}"
        goal = "" if not self.goal else f" (goal {self.goal}{'' if self.met else ': missed'})"
        return f"{self.name}: {value}{' ' if self.unit else ''}{self.unit}{goal}"


class Found:
    """A step's figures, kept in a file from the moment they are known. goals: whether they are held against any."""

    def __init__(self, path: Path, goals: bool = True) -> None:
        self.path, self.goals, self.figures = path, goals, list[Figure]()

    def add(
        self, name: str, value: Any, unit: str = "", at_least: float | None = None, at_most: float | None = None
    ) -> None:
        goal, met = "", None
        if self.goals and at_least is not None:
            goal, met = f">= {at_least:g}", value >= at_least
        if self.goals and at_most is not None:
            goal, met = f"<= {at_most:g}", value <= at_most
        self._keep(Figure(name, value, unit, goal, met))

    def detail(self, name: str, text: str) -> None:
        """What is written below the table."""
        self._keep(Figure(name, text, detail=True))

    def _keep(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(f"== {self.figures[-1].text()}", flush=True)
        self.path.write_text(json.dumps([asdict(figure) for figure in self.figures], indent=1))


@dataclass(frozen=True)
class Ran:
    """A job that ended well. first, first_at: seconds to its first commit, and the moment; None where none was seen."""

    seconds: float
    lines: list[str]
    first: float | None
    first_at: datetime | None


def run_job(
    name: str, *arguments: str | Path, env: dict[str, str] | None = None, run: Path | None = None, expect: int = 0
) -> Ran:
    """`darkroom NAME ARGUMENTS` in a process of its own; each line it says is printed with its second. run: the folder
    whose first commit is waited for. Failed where it ends with another exit code than expected."""
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]
    print(f"$ darkroom {name} {' '.join(command[2:])}", flush=True)
    began, lines, first = time.monotonic(), [], list[tuple[float, datetime]]()
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    reader = threading.Thread(target=_read, args=(process, began, lines), daemon=True)
    reader.start()
    while process.poll() is None:
        if run is not None and not first and _has_commit(run):
            first.append((time.monotonic() - began, datetime.now(UTC)))
        time.sleep(POLL)
    seconds = time.monotonic() - began
    reader.join(CLOSING)
    if process.returncode != expect:
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        raise Failed(f"darkroom {name} ended with exit code {process.returncode}: {last.strip()}")
    return Ran(seconds, lines, *(first[0] if first else (None, None)))


def _read(process: subprocess.Popen[str], began: float, lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        print(f"[{time.monotonic() - began:6.1f} s] {lines[-1]}", flush=True)


def _has_commit(run: Path) -> bool:
    """Whether rows count: every start adds a record, so what is published tells."""
    return any((run / "metadata").glob("*.parquet"))


def generate(manifest: Path, out: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> Ran:
    """The main job into a fresh run, audited."""
    ran = run_job("generate", manifest, "--out", out, *arguments, env=env, run=out)
    # An audit of a run that was limited misses the rows beyond, which it may say of any run.
    if "--limit" not in arguments:
        run_job("audit", out, env=env)
    return ran


def on_processor() -> dict[str, str]:
    """The environment of a job that sees no GPU, and whose Ray is told of none."""
    hidden = {name: value for name, value in os.environ.items() if name != "RAY_OVERRIDE_RESOURCES"}
    return hidden | {"CUDA_VISIBLE_DEVICES": ""}


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The run's rows by id, `stages` parsed, without their bytes. Failed where one is not ok."""
    rows = []
    for path in sorted((run / "metadata").glob("*.parquet")):
        rows += pq.read_table(path).drop_columns(["image"]).to_pylist()
    for row in rows:
        row["stages"] = json.loads(row["stages"])
        if row["status"] != "ok":
            raise Failed(f"the row {row['id']} in {run} is {row['status']}: {row['error']}")
    return sorted(rows, key=lambda row: row["id"])


def picture_of(row: dict[str, Any]) -> np.ndarray:
    """uint8 [S, S, 3] of a row's object."""
    with Image.open(row["image_uri"]) as image:
        return np.asarray(image.convert("RGB"))


def of_stages(rows: list[dict[str, Any]], name: str) -> dict[int, set[Any]]:
    """What the rows say of each stage, by its number: e.g. their capacities."""
    found: dict[int, set[Any]] = {}
    for row in rows:
        for stage in row["stages"]:
            found.setdefault(stage["stage"], set()).add(stage.get(name))
    return dict(sorted(found.items()))


def told_stages(found: dict[int, set[Any]]) -> str:
    """`stage 1 32, stage 2 8 and 16`."""
    return ", ".join(
        f"stage {number} {' and '.join(map(str, sorted(values, key=str)))}" for number, values in found.items()
    )


def add_drift(found: Found, run: Path, other: Path, what: str, mean: float | None = None) -> None:
    """How far the pictures of two runs are apart, in values of 0..255, over the rows that both have. mean: a goal."""
    theirs = {row["id"]: row for row in read_rows(other)}
    pairs = [(row, theirs[row["id"]]) for row in read_rows(run) if row["id"] in theirs]
    if not pairs:
        raise Failed(f"{run} and {other} have no row in common")
    apart = [np.abs(picture_of(one).astype(int) - picture_of(two)) for one, two in pairs]
    visible = sum(float((one > VISIBLE).mean()) > SHARE for one in apart)
    same = sum(not one.any() for one in apart)
    found.add(f"{what}, rows compared", len(pairs))
    found.add(f"{what}, the same to the byte", same)
    found.add(f"{what}, largest difference", int(max(one.max() for one in apart)), "of 255")
    found.add(f"{what}, mean difference", float(np.mean([one.mean() for one in apart])), "of 255", at_most=mean)
    found.add(f"{what}, rows that differ visibly", visible)
