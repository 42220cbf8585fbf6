"""Candidate against champion: measured alike, held against the gate, promoted if nobody else was promoted meanwhile."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from darkroom import __version__
from darkroom.models.registry import RegisteredModel
from darkroom.retrain.gate import judge
from darkroom.retrain.schema import Pipeline
from darkroom.retrain.tick_record import TickRecord
from darkroom.storage.lease import Lease
from darkroom.training import job

ROUNDS = 5  # races that a tick may lose before it gives up


@dataclass(frozen=True)
class Contest:
    """One tick's candidate, whose run is done and measured. measure: (model directory, name) -> what `measure` returns.

    A round of the record: champion, move (the pointer it was held against), measured (the champion), table, passed,
    version (the number it gets), won (whether the pointer was moved to it).
    """

    pipeline: Pipeline
    model: RegisteredModel
    record: TickRecord
    lease: Lease
    measure: Callable[[str, str], dict[str, Any]]

    def decide(self) -> tuple[bool, str]:
        """Whether the candidate became the champion, and why not. After a lost race it is held against the winner."""
        for number in range(ROUNDS):
            if number == len(self.record.rounds):
                self._begin_round()
            now = self.record.rounds[number]
            if "won" in now and not now["won"]:
                continue
            self._judge(now, number)
            if not now["passed"]:
                return False, "; ".join(f"{c['metric']}: {c['reason']}" for c in now["table"] if not c["passed"])
            if self._take_over(now):
                return True, ""
        raise ValueError(
            f"{ROUNDS} times another process promoted a model of {self.model.name} meanwhile; is it meant?"
        )

    def _begin_round(self) -> None:
        champion = self.model.champion()
        self.record.rounds.append({"champion": champion and champion.version, "move": champion.move if champion else 0})
        self.record.save()

    def _judge(self, now: dict[str, Any], number: int) -> None:
        """Measures the champion, and holds the candidate against it."""
        about = f"tick-{self.record.id}-{number}"
        candidate = self.record.steps["evaluate"]
        if "measured" not in now:
            self.lease.check()
            version = now["champion"]
            its_own = None if version is None else self.measure(self.model.folder(version), f"champion-{version}")
            now["measured"] = its_own
            self.record.save()
        means = {name: value["mean"] for name, value in candidate["metrics"].items()}
        seen = {"tick": self.record.id, "against": now["champion"]}
        self.model.note("evaluated", about, **seen, revision=candidate["revision"], metrics=means)
        if "table" not in now:
            its = now["measured"] and now["measured"]["metrics"]
            now["table"] = [asdict(check) for check in judge(self.pipeline.gate, candidate["metrics"], its)]
            now["passed"] = all(check["passed"] for check in now["table"])
            self.record.save()
        failed = [check["metric"] for check in now["table"] if not check["passed"]]
        self.model.note("gated", about, **seen, passed=now["passed"], failed=failed)

    def _take_over(self, now: dict[str, Any]) -> bool:
        """Registers the candidate and points to it; False if the champion is no longer the one it was held against."""
        self.lease.check()
        if "version" not in now:
            now["version"] = self.model.claim()
            self.record.save()
        if "won" not in now:
            self.model.register(now["version"], self.record.steps["train"]["run"], self._version_record(now))
            now["won"] = self._moved(now["version"]) or self._point(now)
            self.record.save()
        if not now["won"]:
            self.model.discard(now["version"], "another model was promoted while this one was judged")
        return now["won"]

    def _moved(self, version: int) -> bool:
        """Whether the pointer was moved to the version before this process began."""
        return any(event["kind"] == "promoted" and event["version"] == version for event in self.model.moves())

    def _point(self, now: dict[str, Any]) -> bool:
        champion = self.model.champion()
        if (champion.move if champion else 0) != now["move"]:
            return False
        return self.model.promote(now["version"], champion, tick=self.record.id) is not None

    def _version_record(self, now: dict[str, Any]) -> dict[str, Any]:
        steps = self.record.steps
        recipe = self.pipeline.recipe().record()
        return {
            "parent": now["champion"],
            "tick": self.record.id,
            "recipe": recipe,
            "snapshot": steps["snapshot"],
            "training": {"workers": steps["train"]["workers"], "seconds": steps["train"]["seconds"]},
            "evaluation": steps["evaluate"],
            "champion": now["measured"],
            "gate": now["table"],
            "code": __version__,
            "packages": {name: importlib.metadata.version(name) for name in job.PACKAGES},
        }
