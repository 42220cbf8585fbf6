"""A registry as text: what `darkroom registry` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from darkroom.models.errors import ModelError
from darkroom.models.registry import Pointer, RegisteredModel, names_of_all
from darkroom.phases import plural

_TOLD = ("tick", "from", "reason", "against", "passed", "failed")


def known(root: str) -> str:
    """The names of a registry's models."""
    return ", ".join(names_of_all(root)) or "none"


def find(root: str, name: str) -> RegisteredModel:
    """The model of that name. ModelError if the registry has none."""
    model = RegisteredModel(root, name)
    if model.champion() is None and not model.versions():
        raise ModelError(f"there is no model {name!r} in {root}; there are: {known(root)}")
    return model


def listed(root: str) -> str:
    """A line for each model: its champion, when it was moved there, how many versions there are."""
    lines = []
    for name in names_of_all(root):
        model = RegisteredModel(root, name)
        lines.append(f"{name:<24}champion: {_live(model.champion())}; {plural(len(model.versions()), 'version')}")
    return "\n".join(lines) or f"no models in {root}"


def _live(pointer: Pointer | None) -> str:
    if pointer is None:
        return "none yet"
    live = "none, it was withdrawn" if pointer.version is None else f"version {pointer.version}"
    return f"{live}, since {_moment(pointer.event['at'])}"


def shown(model: RegisteredModel, at: datetime | None) -> str:
    """The champion, and the history; with `at`, which version was live then."""
    if at is not None:
        version = model.champion_at(at)
        return f"{_moment(at.isoformat())}: {'no champion' if version is None else f'version {version}'}"
    pointer = model.champion()
    live = None if pointer is None else pointer.version
    lines = [f"{model.name}: {'no champion' if live is None else f'champion {live}'}"]
    return "\n".join([*lines, *(_event(event) for event in model.history())])


def diff(model: RegisteredModel, a: int, b: int) -> str:
    """A line for everything in which two versions' records differ: measures, gate, data, recipe, code, packages."""
    lines = [
        f"{name}: {_value(left)} -> {_value(right)}"
        for name, left, right in differences(_comparable(model.version(a)), _comparable(model.version(b)))
    ]
    return "\n".join(lines) or f"versions {a} and {b} differ in nothing that is on record"


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value in a, value in b) wherever they differ; None where one has no such value."""
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from differences(left, right, f"{path}{key}.")
        elif left != right:
            yield f"{path}{key}", left, right


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Without what always differs, or says the same twice."""
    kept = {key: value for key, value in record.items() if key not in ("name", "version", "champion", "gate")}
    evaluation = dict(kept.pop("evaluation", {}))
    means = {name: value["mean"] for name, value in evaluation.get("metrics", {}).items()}
    snapshot = {key: value for key, value in kept.pop("snapshot", {}).items() if key in ("id", "rows", "bad")}
    return {**kept, "metrics": means, "evaluator": evaluation.get("evaluator"), "data": snapshot}


def _event(event: Mapping[str, Any]) -> str:
    about = f"version {event['version']}" if event.get("version") is not None else ""
    said = [f"{key} {_value(event[key])}" for key in _TOLD if event.get(key) not in (None, "", [])]
    told = ", ".join(["by hand, past every gate"] * bool(event.get("by_hand") and event["kind"] == "promoted") + said)
    return f"{_moment(event['at'])}  {event['kind']:<12}{about:<12}{told}  by {event['actor']}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")
