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
        lines.append(f"{name:<24}champion: {live(model.champion())}; {plural(len(model.versions()), 'version')}")
    return "\n".join(lines) or f"no models in {root}"


def live(pointer: Pointer | None) -> str:
    """Which version a pointer points to, and since when."""
    if pointer is None:
        return "none yet"
    version = "none, it was withdrawn" if pointer.version is None else f"version {pointer.version}"
    return f"{version}, since {moment(pointer.event['at'])}"


def shown(model: RegisteredModel, at: datetime | None) -> str:
    """The champion, and the history; with `at`, which version was live then."""
    if at is not None:
        version = model.champion_at(at)
        return f"{moment(at.isoformat())}: {'no champion' if version is None else f'version {version}'}"
    pointer = model.champion()
    version = None if pointer is None else pointer.version
    lines = [f"{model.name}: {'no champion' if version is None else f'champion {version}'}"]
    return "\n".join([*lines, *(_event(event) for event in model.history())])


def diff(model: RegisteredModel, a: int, b: int) -> str:
    """A line for everything in which two versions' records differ: measures, gate, data, recipe, code, packages."""
    found = compared(model.version(a), model.version(b))
    lines = [f"{name}: {value_text(left)} -> {value_text(right)}" for name, left, right in found]
    return "\n".join(lines) or f"versions {a} and {b} differ in nothing that is on record"


def compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """`differences` of two versions' records, but for what always differs or says the same twice."""
    return list(differences(_comparable(a), _comparable(b)))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value in a, value in b) wherever they differ; None where one has no such value."""
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from differences(left, right, f"{path}{key}.")
        elif left != right:
            yield f"{path}{key}", left, right


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key not in ("name", "version", "champion", "gate")}
    evaluation = dict(kept.pop("evaluation", {}))
    means = {name: value["mean"] for name, value in evaluation.get("metrics", {}).items()}
    snapshot = {key: value for key, value in kept.pop("snapshot", {}).items() if key in ("id", "rows", "bad")}
    return {**kept, "metrics": means, "evaluator": evaluation.get("evaluator"), "data": snapshot}


def _event(event: Mapping[str, Any]) -> str:
    about = f"version {event['version']}" if event.get("version") is not None else ""
    return f"{moment(event['at'])}  {event['kind']:<12}{about:<12}{about_event(event)}  by {event['actor']}"


def about_event(event: Mapping[str, Any]) -> str:
    """What an event says besides its kind, version, time and actor."""
    by_hand = ["by hand, past every gate"] * bool(event.get("by_hand") and event["kind"] == "promoted")
    said = [f"{key} {value_text(event[key])}" for key in _TOLD if event.get(key) not in (None, "", [])]
    return ", ".join(by_hand + said)


def value_text(value: Any) -> str:
    """As people read it."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def moment(text: str) -> str:
    """A time of ISO 8601 as these lists have it."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")
