"""What `darkroom train` can train, by name; `--set key=value` changes any field of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar, get_type_hints

import numpy as np

from darkroom.sampling.schedules import unknown
from darkroom.training import classifier
from darkroom.training.data import load_images

Settings = TypeVar("Settings")

STAGE2 = {"steps": 34, "guidance": 1.0, "noise_level": 100, "start": 9}  # stage II follows these, not a row's own


def train(name: str, data: str, out: str, settings: Sequence[str] = (), log: Callable[[str], None] = print) -> None:
    """Trains the recipe `name` on the data set at the uri `data` and leaves a model directory in the folder `out`.

    Run again after an interruption it goes on where it can. Raises ValueError for a wrong recipe, setting or data set,
    and FloatingPointError when the loss is no longer a finite number.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if "://" in out and not out.startswith("file://"):
        raise ValueError(f"--out {out}: training writes to a local folder only, for now; copy the model afterwards")
    RECIPES[name](data, Path(out.removeprefix("file://")).expanduser(), settings, log)


def with_settings(recipe: Settings, settings: Sequence[str]) -> Settings:
    """The recipe with "key=value" settings applied. ValueError names every setting that is wrong."""
    kinds = get_type_hints(type(recipe))
    known, changes, wrong = [field.name for field in fields(recipe)], {}, []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            wrong.append(str(unknown("setting", key, known)))
            continue
        try:
            changes[key] = kinds[key](value)
        except ValueError:
            wrong.append(f"--set {setting}: {key} takes {'a whole number' if kinds[key] is int else 'a number'}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return replace(recipe, **changes)


def _if_xs(data: str, out: Path, settings: Sequence[str], log: Callable[[str], None]) -> None:
    from darkroom.training import if_xs  # diffusers and transformers: seconds that a wrong setting need not wait for

    recipe, images = with_settings(if_xs.Recipe(), settings), load_images(data, "train")
    if images.images.shape[1:] != (28, 28, 1) or images.labels.max() > 9:
        raise ValueError(f"if-xs paints grey 28 x 28 pictures of ten digits; {data} has {images.images.shape[1:]}")
    digits = if_xs.Digits(np.ascontiguousarray(images.images[..., 0]), images.labels.astype(np.uint8))
    if_xs.train(digits, out, recipe, log)
    config = {
        "name": "if-xs",
        "kind": "cascade",
        "stages": [{}, STAGE2],
        "training": {"recipe": if_xs.recipe_record(recipe), "data": {"train": images.digest}},
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")  # last: without it the folder is no model


def _mnist_classifier(data: str, out: Path, settings: Sequence[str], log: Callable[[str], None]) -> None:
    recipe = with_settings(classifier.Recipe(), settings)
    classifier.train_classifier(load_images(data, "train"), load_images(data, "test"), out, recipe, log)


RECIPES: dict[str, Callable[[str, Path, Sequence[str], Callable[[str], None]], None]] = {
    "if-xs": _if_xs,
    "mnist-classifier": _mnist_classifier,
}
