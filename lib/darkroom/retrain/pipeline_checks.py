"""What types alone do not tell of a pipeline file: names nobody knows, gates that cannot be meant, cron nonsense."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from darkroom.manifest.yaml_files import Place
from darkroom.retrain.gate import Rule, rule_problems
from darkroom.retrain.gate_metrics import METRICS, Kind, network_kind
from darkroom.retrain.schema import Data, Train
from darkroom.retrain.times import check_cron, read_zone
from darkroom.sampling.names import unknown
from darkroom.training.recipes import find_recipe
from darkroom.training.recipes.lora import Lora
from darkroom.training.recipes.network import NetworkRecipe
from darkroom.training.recipes.recipe import Recipe, with_settings

Problem = tuple[Place, str]
_DIGITS = {"name": "digits", "classes": [*"0123456789"], "image": {"height": 28, "width": 28, "channels": 1}}
Part = TypeVar("Part", bound=BaseModel)


def kind_of(recipe: Recipe) -> Kind:
    """What kind of network a recipe trains, which decides what can be measured of it."""
    if isinstance(recipe, Lora):
        return "adapter"
    assert isinstance(recipe, NetworkRecipe), "recipes of one network, or of an adapter, are retrained"
    return network_kind(recipe.process(), recipe.network(_DIGITS))


def meant_wrong(document: dict[str, Any]) -> list[Problem]:
    """What types alone do not tell. Each part is looked at if it has its form, however broken the others are."""
    found: list[Problem] = []
    for key, check in (("cron", check_cron), ("time_zone", read_zone)):
        try:
            given = (document.get("schedule") or {}).get(key)
            if isinstance(given, str):
                check(given)
        except ValueError as error:
            found.append((("schedule", key), str(error)))
        except AttributeError:  # schedule is no mapping
            break
    data = _part(document, "data", Data)
    if data is not None and data.source is None and data.kind in ("idx", "folder", "captions"):
        found.append((("data",), f"'source' is missing: where the {data.kind} files lie"))
    train = _part(document, "train", Train)
    recipe, problems = _recipe(train) if train is not None else (None, [])
    if data is not None and recipe is not None and (data.kind == "captions") != (recipe.reads == "captions"):
        wanted = "captions" if recipe.reads == "captions" else "mnist, cifar10, idx or folder"
        found.append((("data", "kind"), f"is {data.kind}, and {recipe.name} learns from {wanted}"))
    return found + problems + _gate_problems(document.get("gate"), recipe)


def _recipe(train: Train) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, without its settings if those are wrong; None if there is none of that name."""
    from darkroom.training.distributed import Workers  # it imports Ray, which takes a second

    found: list[Problem] = []
    try:
        Workers.parse(train.workers_text())
    except ValueError as error:
        found.append((("train", "workers"), str(error).removeprefix("--workers ")))
    try:
        kind = find_recipe(train.recipe)
    except ValueError as error:
        return None, [*found, (("train", "recipe"), str(error))]
    if not issubclass(kind, (NetworkRecipe, Lora)):
        text = f"{train.recipe} trains neither a network of its own nor an adapter, which a pipeline retrains"
        return None, [*found, (("train", "recipe"), text)]
    try:
        return with_settings(kind(), train.texts()), found
    except ValueError as error:
        return kind(), found + [_setting_problem(line, train) for line in str(error).splitlines()]


def _setting_problem(line: str, train: Train) -> Problem:
    text = line.removeprefix("--set ")
    key = next((key for key in train.settings if text.startswith((f"{key}=", f"unknown setting {key!r}"))), None)
    return ("train", "settings", *([key] if key else [])), text


def _gate_problems(gate: Any, recipe: Recipe | None) -> list[Problem]:
    if not isinstance(gate, dict):
        return []
    found: list[Problem] = []
    rules: dict[str, Rule] = {}
    for metric in map(str, gate):
        if metric not in METRICS:
            found.append((("gate", metric), str(unknown("metric", metric, METRICS))))
            continue
        if recipe is not None and kind_of(recipe) not in METRICS[metric].of:
            there = ", ".join(name for name, known in METRICS.items() if kind_of(recipe) in known.of)
            found.append((("gate", metric), f"is not measured of {recipe.name}; of it there are: {there}"))
        if (rule := _part(gate, metric, Rule)) is not None:
            rules[metric] = rule
            found += [(("gate", metric), text) for text in rule_problems(metric, rule)]
    if not found and len(rules) == len(gate) and all(rule.bound is None for rule in rules.values()):
        found.append(
            (("gate",), "no bound: the first model, which has no champion to be held against, would pass unseen")
        )
    return found


def _part(document: Any, key: str, model: type[Part]) -> Part | None:
    """That part of the document, None where it is not there or has not its form, which is told elsewhere."""
    try:
        return model.model_validate(document[key])
    except (ValidationError, KeyError, TypeError):
        return None
