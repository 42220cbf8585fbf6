"""A registry's models as the studio shows them, and a change of a champion, which somebody has to confirm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from darkroom.models import registration
from darkroom.models.registry import Pointer, RegisteredModel
from darkroom.models.registry_words import about_event, compared, moment, value_text
from darkroom.studio.found_runs import DAMAGED


@dataclass(frozen=True)
class Move:
    """Makes version `after` the champion in place of `before`, None: of none. seen: the number of the registry's last
    move when it was offered, so that nobody confirms the replacement of something else."""

    kind: Literal["promote", "rollback"]
    name: str
    before: int | None
    after: int
    seen: int

    @property
    def question(self) -> str:
        """What is replaced by what."""
        now = "has no champion" if self.before is None else f"is version {self.before} now"
        return (
            f"registry://{self.name} {now}. After this it is version {self.after}: every job that begins then and asks "
            f"for it gets version {self.after}; jobs under way keep what they began with."
        )

    @property
    def label(self) -> str:
        """Of the button that does it."""
        return f"Replace {self.before} by {self.after}" if self.before else f"Promote {self.after}"

    def carry_out(self, root: str, reason: str) -> Pointer:
        """ModelError where the pointer is no longer what it was when this was offered; StorageError."""
        if self.kind == "promote":
            return registration.promote(root, self.name, self.after, reason, self.seen)
        return RegisteredModel(root, self.name).rollback(self.after, self.seen, reason=reason)


def moves(model: RegisteredModel) -> list[Move]:
    """What may be done to the champion: the rollback to the one before it, if there is one, then promotions of the
    other versions that are kept, the newest first."""
    champion, kept = model.champion(), model.kept()
    before, seen = (champion.version, champion.move) if champion else (None, 0)
    back = model.champion_before() if before is not None else None
    found = [Move("rollback", model.name, before, back, seen)] if back in kept else []
    others = [number for number in reversed(kept) if number not in (before, back)]
    return [*found, *(Move("promote", model.name, before, number, seen) for number in others)]


def versions(model: RegisteredModel) -> list[dict[str, Any]]:
    """A line for each version, the newest first: its state, where it is from, its measures."""
    champion, kept = model.champion(), set(model.kept())
    lines = []
    for number in reversed(model.versions()):
        live = champion is not None and champion.version == number
        state = "champion" if live else "kept" if number in kept else "retired"
        lines.append({"version": number, "state": state, **_about(model, number)})
    return lines


def _about(model: RegisteredModel, number: int) -> dict[str, Any]:
    try:
        record = model.version(number)
        return {"made": moment(record["created_at"]), "from": _origin(record), **_measures(record)}
    except DAMAGED as error:
        return {"made": "", "from": f"its record is damaged: {error}"[:300]}


def differences(model: RegisteredModel, move: Move) -> list[dict[str, str]]:
    """In what the two versions of a move differ, by their records."""
    if move.before is None:
        return []
    found = compared(model.version(move.before), model.version(move.after))
    return [
        {"": name, f"version {move.before}": value_text(old), f"version {move.after}": value_text(new)}
        for name, old, new in found
    ]


def history(model: RegisteredModel) -> list[dict[str, str]]:
    """A line for each event, the newest first."""
    return [
        {
            "when": moment(event["at"]),
            "what": _DECISIONS.get((event["kind"], event.get("passed")), event["kind"].replace("_", " ")),
            "version": str(event.get("version") or ""),
            "details": about_event(event),
            "by": str(event.get("actor", "")),
        }
        for event in reversed(model.history())
    ]


_DECISIONS = {("gated", True): "gate passed", ("gated", False): "gate refused"}


def _origin(record: Mapping[str, Any]) -> str:
    if added := record.get("added"):
        return f"by hand from {added.get('from', '')}"
    return f"tick {record['tick']}" if record.get("tick") else ""


def _measures(record: Mapping[str, Any]) -> dict[str, float]:
    metrics = record.get("evaluation", {}).get("metrics", {})
    return {name.replace("_", " "): value["mean"] for name, value in metrics.items() if "mean" in value}
