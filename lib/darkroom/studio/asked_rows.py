"""Manifest rows of what somebody chose in a form, and manifests of these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

# Words around a prompt, and what is to be kept away.
STYLES: dict[str, tuple[str, str]] = {
    "none": ("{}", ""),
    "photograph": ("a photograph of {}, natural light, sharp focus", "drawing, painting, blurry"),
    "oil painting": ("an oil painting of {}, visible brush strokes", "photograph"),
    "watercolour": ("a watercolour of {}, on rough paper", "photograph"),
    "line drawing": ("a line drawing of {}, black ink on white paper", "colour, shading"),
    "pixel art": ("pixel art of {}, 16 colours", "blurry, photograph"),
    "lithograph": ("a lithograph of {}", "photograph"),
}
SWEPT: dict[str, type] = {
    "guidance": float,
    "steps": int,
    "seed": int,
    "strength": float,
    "prompt": str,
    "sampler": str,
}


def styled(row: Mapping[str, Any], style: str) -> dict[str, Any]:
    """The row with a style's words around each of its prompts, and with its own negative prompt, if it has none yet."""
    around, avoided = STYLES[style]
    found = {**row}
    if avoided and not row.get("negative_prompt"):
        found["negative_prompt"] = avoided
    for name in ("views", "components"):
        if name in row:
            found[name] = [_around(part, around) for part in row[name]]
    return _around(found, around)


def _around(part: Mapping[str, Any], around: str) -> dict[str, Any]:
    return {**part, "prompt": around.replace("{}", part["prompt"])} if part.get("prompt") else {**part}


def variants(row: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """So many rows with seeds from the row's own on."""
    return [{**row, "seed": row.get("seed", 0) + number} for number in range(count)]


def as_yaml(row: Mapping[str, Any]) -> str:
    return yaml.safe_dump([dict(row)], allow_unicode=True, sort_keys=False)


def as_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def parse_values(name: str, text: str) -> list[Any]:
    """Values of a parameter of SWEPT, joined by commas; of a prompt a line each. ValueError."""
    marks = "\n" if name == "prompt" else ","
    words = [word.strip() for word in text.split(marks) if word.strip()]
    kind = SWEPT[name]
    try:
        values = [kind(word) for word in words]
    except ValueError:
        raise ValueError(f"{name}: wanted numbers joined by commas, such as 1, 3, 7; was {text[:60]!r}") from None
    if not values:
        raise ValueError(f"{name}: wanted some values")
    return values


def sweep(row: Mapping[str, Any], name: str, values: Sequence[Any]) -> str:
    """A manifest in YAML: the row once for every value of one parameter. Prompts make no ids: they may be too long."""
    others = {key: [value] if isinstance(value, list) else value for key, value in row.items() if key != "id"}
    named = {} if name == "prompt" else {"id": f"{name}/{{{name}}}"}
    swept = {**named, **others, name: list(dict.fromkeys(values))}
    about = f"# One row for each {name}. darkroom generate sweep.yaml --out runs/sweep\n"
    return about + yaml.safe_dump({"matrix": [swept]}, allow_unicode=True, sort_keys=False)
