"""What is on record of a row besides its picture: the stages it went through, its flags and scores."""

from __future__ import annotations

import json
from typing import Any

from darkroom.report.rows import Shown


def details(shown: Shown) -> list[str]:
    """A line on each stage, then on the scores: what the caption has no room for."""
    lines = [_stage(stage) for stage in json.loads(shown.row.get("stages") or "[]")]
    scores = json.loads(shown.row.get("scores") or "{}")
    if scores:
        lines.append(f"scored by {scores['scorer']} ({scores['revision']})")
        lines += [f"view {number}: {_numbers(values)}" for number, values in enumerate(scores.get("matrix", ()), 1)]
        lines += [_candidate(one, scores.get("chosen_seed")) for one in scores.get("candidates", ())]
    return lines


def flags(shown: Shown) -> list[str]:
    return [flag.replace("_", " ") for flag in shown.row.get("flags") or ()]


def score(shown: Shown) -> dict[str, str]:
    """Alignment and concealment, where the row was scored."""
    values = {name: shown.row.get(name) for name in ("alignment", "concealment")}
    return {name: f"{value:.3f}" for name, value in values.items() if value is not None}


def _stage(stage: dict[str, Any]) -> str:
    said = {"steps": stage["steps"], "guidance": stage["guidance"], "noise level": stage.get("noise_level")}
    words = [f"{name} {value:g}" for name, value in said.items() if value is not None]
    return f"stage {stage['stage']}: {', '.join([*words, str(stage['dtype'])])}"


def _candidate(one: dict[str, Any], chosen: int | None) -> str:
    kept = ", kept" if one["seed"] == chosen else ""
    return f"seed {one['seed']}: alignment {one['alignment']:.3f}{kept}"


def _numbers(values: list[float]) -> str:
    return "  ".join(f"{value:.3f}" for value in values)
