"""What is said of a row: its prompt, its parameters in the manifest's own words, and what is on record of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from darkroom.report.comparisons import NOISED, SWEPT, varying
from darkroom.report.rows import Shown
from darkroom.sampling.components import is_usual
from darkroom.sampling.trajectories import asks_nothing

NEARLY_ALL = 0.75
_ELSEWHERE = {"task", "prompt", "label", "views", "components", "seed"}  # said in a place of their own


def prompt_of(branch: Mapping[str, Any]) -> str:
    """What a row, a view or a component asked for."""
    if branch.get("label") is not None:
        return f"label {branch['label']}"
    return branch.get("prompt") or "no prompt"


def prompt_of_strip(group: list[Shown]) -> str:
    """What the rows of a strip asked for; "" where none asked anything, and for parts with prompts of their own."""
    asked = [shown.parameters for shown in group if "prompt" in shown.parameters or "label" in shown.parameters]
    task = group[0].parameters["task"]
    return prompt_of(asked[0]) if asked else ("" if task in ("anagram", "hybrid", *NOISED) else "no prompt")


def start_of(shown: Shown) -> tuple[float, str]:
    """Where an image_to_image row begins, as a number that grows as the noise shrinks, and in words."""
    start, strength = (shown.parameters.get(name) for name in SWEPT)
    return (start, f"start {start}") if start is not None else (-strength, f"strength {strength:g}")


def noised_labels(group: list[Shown]) -> list[str]:
    """What was made of a noised picture, by what the strip's rows differ in."""
    rows = [shown.parameters for shown in group]
    ways = [_way(row, stopped=any("until" in other for other in rows)) for row in rows]
    if len({row["timestep"] for row in rows}) == 1:
        return ways
    return [
        way if row["task"] == "forward" else f"{way} from {row['timestep']}"
        for way, row in zip(ways, rows, strict=True)
    ]


def _way(row: Mapping[str, Any], stopped: bool) -> str:
    if row["task"] == "forward":
        return f"noised to {row['timestep']}"
    if row["method"] == "iterative" and stopped:
        return f"down to {row['until']:g}" if "until" in row else "to the end"
    return {"blur": "blurred", "one_step": "one step", "iterative": "iterative"}[row["method"]]


def drawn_label(shown: Shown, differ: set[str]) -> str:
    """A picture of a strip that was made from noise, by what it differs in."""
    row, words = shown.parameters, []
    for name in ("steps", "stride", "timesteps", "seed"):
        if name in differ and row.get(name) is not None:
            words.append(f"{row[name]} steps" if name == "steps" else f"{name} {row[name]}")
    return ", ".join(words)


def settings(group: list[Shown]) -> dict[str, str]:
    """The parameters of rows that are drawn together, in words. Not their prompts and seeds, nor, in a strip, what its
    pictures differ in: that stands below each."""
    first = group[0]
    width, height = first.row["width"], first.row["height"]
    said = {"size": f"{width} px" if width == height else f"{width} x {height} px"}
    if asking := [shown for shown in group if not asks_nothing(shown.parameters)]:
        said["sampler"] = asking[0].row["sampler"]
    if first.row["frames"]:
        said["frames"] = f"{first.row['frames']}, {first.row['fps']} a second"
    elsewhere = {*_ELSEWHERE, "sampler", "size", "width", "height", "frames", *varying(group)}
    elsewhere |= {*SWEPT} if first.row["task"] == "image_to_image" else set()
    elsewhere |= {"method", "until"} if first.row["task"] in NOISED else set()
    for shown in group:
        for name, value in shown.parameters.items():
            if name not in elsewhere and value != "":
                said[name.replace("_", " ")] = in_words(value)
    return dict(sorted((said | _component_settings(first.parameters.get("components", ()))).items()))


def usual(captions: list[dict[str, str]]) -> dict[str, str]:
    """What nearly all captions say, to be said once for all. Only of parameters that every caption has a word on, so
    that a caption without one never seems to mean the usual."""
    found = {}
    for name in captions[0] if captions else ():
        (value, count), *_ = Counter(caption.get(name, "") for caption in captions).most_common(1)
        if count >= NEARLY_ALL * len(captions) and all(name in caption for caption in captions):
            found[name] = value
    return found


def sentence(said: Mapping[str, str], between: str = " · ") -> str:
    return between.join(f"{name} {value}" for name, value in said.items())


def _component_settings(components: list[dict[str, Any]]) -> dict[str, str]:
    """Components of a family have the same parameters, which are said once, unless they are the usual ones."""
    names = ("sigma", "fine", "coarse", "nested", "kernel", "angle", "length", "edges")
    found = {(branch["component"], name): branch[name] for branch in components for name in names if name in branch}
    return {name: in_words(value) for (part, name), value in found.items() if not is_usual(part, name, value)}


def in_words(value: Any) -> str:
    """A parameter's value."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(item)}" for name, item in value.items())
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "; ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def clipped(text: str, most: int = 300) -> str:
    """At most so many characters: a page must open whatever a row holds, and its large view has the rest."""
    return text if len(text) <= most else text[: most - 1] + "…"


def details(shown: Shown) -> list[str]:
    """A line on each stage, then on the scores: what the caption has no room for."""
    lines = [_stage(stage) for stage in json.loads(shown.row.get("stages") or "[]")]
    lines += [f"{one['net']} ({one['digest'][:12]}) saw {one['key']}" for one in seen_by_networks(shown)]
    scores = json.loads(shown.row.get("scores") or "{}")
    if scores:
        lines.append(f"scored by {scores['scorer']} ({scores['revision']})")
        lines += [f"view {number}: {_numbers(values)}" for number, values in enumerate(scores.get("matrix", ()), 1)]
        lines += [_candidate(one, scores.get("chosen_seed")) for one in scores.get("candidates", ())]
    return lines


def seen_by_networks(shown: Shown) -> list[dict[str, str]]:
    """What each control network of a row saw, see `ControlMap`."""
    return json.loads(shown.row.get("controls") or "[]")


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
