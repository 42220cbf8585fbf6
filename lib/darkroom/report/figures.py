"""What is drawn of a row: for each task the pictures that show what the row is about, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.report.captions import drawn_label, noised_labels, prompt_of, seen_by_networks, start_of
from darkroom.report.comparisons import varying
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Shown
from darkroom.sampling.plans import component_of
from darkroom.sampling.views import view_of
from darkroom.storage import to_uint8


@dataclass(frozen=True)
class Panel:
    """One picture, uint8 [S, S, 3], of any S.

    label: what it is; detail: its parameters; text: the prompt that it answers to, if it has one of its own; shown: the
    row whose very picture it is, None for what was made of it or given to it.
    """

    label: str
    picture: np.ndarray
    text: str = ""
    detail: str = ""
    shown: Shown | None = field(default=None, compare=False)


def panels(task: str, group: list[Shown], pictures: Pictures) -> list[Panel]:
    """The panels of rows that are drawn together, from left to right, and then what their control networks saw.
    ValueError if they cannot be shown."""
    seen = {one["key"]: one["net"] for shown in group for one in seen_by_networks(shown)}
    maps = [(f"seen by {net}", pictures.map(key)) for key, net in seen.items()]
    return [*_PANELS[task](group, pictures), *(Panel(label, drawn) for label, drawn in maps if drawn is not None)]


def _text_to_image(group: list[Shown], pictures: Pictures) -> list[Panel]:
    differ = varying(group)
    return [Panel(drawn_label(shown, differ), pictures.made(shown), shown=shown) for shown in group]


def _image_to_image(group: list[Shown], pictures: Pictures) -> list[Panel]:
    """From the most noise to the least, so that the picture it began with comes last."""
    swept = sorted(group, key=lambda shown: start_of(shown)[0])
    drawn = [Panel(start_of(shown)[1], pictures.made(shown), shown=shown) for shown in swept]
    return drawn + _source_panels("source", group[0], pictures, drawn[0])


def _noised(group: list[Shown], pictures: Pictures) -> list[Panel]:
    """The picture noised, and what came of it, in the manifest's order; then the picture itself."""
    labels = noised_labels(group)
    drawn = [Panel(label, pictures.made(shown), shown=shown) for label, shown in zip(labels, group, strict=True)]
    return drawn + _source_panels("source", group[0], pictures, drawn[0])


def _inpaint(group: list[Shown], pictures: Pictures) -> list[Panel]:
    (shown,) = group
    result = Panel("result", pictures.made(shown), shown=shown)
    mask = pictures.mask(shown, result.picture)
    masks = [] if mask is None else [Panel("mask", mask)]
    return [*_source_panels("source", shown, pictures, result), *masks, result]


def _upscale(group: list[Shown], pictures: Pictures) -> list[Panel]:
    (shown,) = group
    result = Panel("result", pictures.made(shown), shown=shown)
    return [*_source_panels("source", shown, pictures, result), result]


def _source_panels(label: str, shown: Shown, pictures: Pictures, beside: Panel) -> list[Panel]:
    source = pictures.source(shown, beside.picture)
    return [] if source is None else [Panel(label, source)]


def _anagram(group: list[Shown], pictures: Pictures) -> list[Panel]:
    """The picture as the model saw it in each view."""
    (shown,) = group
    # Views want a type with a sign, and integers come back from them as they were.
    signed = torch.from_numpy(pictures.made(shown).astype(np.int16)).permute(2, 0, 1)[None] * 2 - 255
    drawn = []
    for branch in shown.parameters["views"]:
        view = view_of(branch)
        seen = (view.apply(signed) + 255) // 2
        detail = ", ".join(f"{name} {value}" for name, value in view.params)
        drawn.append(Panel(view.name.replace("_", " "), _array(seen), prompt_of(branch), detail))
    return drawn


_SEEN = {
    "low_pass": "from far",
    "high_pass": "detail alone",
    "low_band": "from far",
    "middle_band": "middle band",
    "high_band": "detail alone",
    "grayscale": "without colour",
    "color": "colour alone",
    "motion": "in motion",
    "motion_residual": "the rest alone",
}
_WHOLE = {"low_pass": "near", "low_band": "near", "grayscale": "in colour", "motion": "at rest"}


def _hybrid(group: list[Shown], pictures: Pictures) -> list[Panel]:
    """The picture, then each component's part of it; parts that have no white of their own lie on grey."""
    (shown,) = group
    branches = shown.parameters["components"]
    made = pictures.made(shown)
    names = [branch["component"] for branch in branches]
    label = next((_WHOLE[name] for name in names if name in _WHOLE), "the picture")
    if not set(names) & _SEEN.keys():
        return [Panel(label, made, " + ".join(_weighted(branch) for branch in branches), shown=shown)]
    picture = torch.from_numpy(made).float().permute(2, 0, 1)[None] / 127.5 - 1
    return [Panel(label, made, shown=shown), *(_part(branch, picture) for branch in branches)]


def _part(branch: dict[str, Any], picture: Tensor) -> Panel:
    component = component_of(branch)
    seen = component(picture)
    label = _SEEN.get(component.name, str(component))
    if branch.get("view"):
        seen = view_of(branch).apply(seen)
        label += f", {view_of(branch).name.replace('_', ' ')}"
    asked = f"held to {branch['image']}" if branch.get("image") else prompt_of(branch)
    return Panel(label, _array(to_uint8(seen)), asked)


def _weighted(branch: dict[str, Any]) -> str:
    return f"{branch['weight']:g} x {prompt_of(branch)}" if "weight" in branch else prompt_of(branch)


def _array(planes: Tensor) -> np.ndarray:
    """[1, 3, S, S] of whole numbers in 0..255 -> uint8 [S, S, 3]."""
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy().astype(np.uint8))


_PANELS: dict[str, Callable[[list[Shown], Pictures], list[Panel]]] = {
    "text_to_image": _text_to_image,
    "text_to_video": _text_to_image,  # the first frame stands for it
    "image_to_image": _image_to_image,
    "inpaint": _inpaint,
    "anagram": _anagram,
    "hybrid": _hybrid,
    "upscale": _upscale,
    "forward": _noised,
    "denoise": _noised,
}
