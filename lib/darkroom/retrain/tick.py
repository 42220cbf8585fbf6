"""One tick of a pipeline: snapshot, train, evaluate, gate, promote, smoke, generate; each step once, whatever dies.

OUT/ticks/ID.json            the tick's record
OUT/ticks/ID/training/       the training run, without its checkpoints once the tick is over
OUT/ticks/ID/candidate/, champion-N/     the evaluations' pages
OUT/ticks/ID/smoke/, generated/          runs of `darkroom generate`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from darkroom.models.classifier import Classifier
from darkroom.models.registry import Pointer, RegisteredModel
from darkroom.ray_cluster import errors_of_ray
from darkroom.report.ticks import write_ticks_page
from darkroom.retrain import tick_record
from darkroom.retrain.challenge import Contest
from darkroom.retrain.gate_metrics import METRICS
from darkroom.retrain.measure import measure_adapter, measure_where_fast
from darkroom.retrain.preflight import check_fit
from darkroom.retrain.rollout import generate_step, smoke_step
from darkroom.retrain.schema import Pipeline
from darkroom.retrain.snapshot import take_snapshot
from darkroom.retrain.tick_record import TickRecord
from darkroom.retrain.times import tick_id
from darkroom.storage import Store, open_store
from darkroom.storage.lease import Held, Lease, hold
from darkroom.training import job
from darkroom.training.data import load_data_set

Say = Callable[[str], None]
Train = Callable[[job.TrainOptions, Say], None]
_DECIDED = {"promoted", "refused"}


def run_tick(
    pipeline: Pipeline, moment: datetime, say: Say, address: str | None = None, train: Train = job.train
) -> TickRecord:
    """Runs a tick, or what is left of it; one that is over is left as it is. Returns its record.

    train: the training job. Raises ValueError for the user's part and FloatingPointError for a training that diverged,
    which both are in the record as `failed`; StorageError, ClusterError, Stalled and Ray's own errors leave the tick to
    go on later.
    """
    store, tick = open_store(pipeline.out), tick_id(moment)
    before = tick_record.load(store, tick)
    if before is not None and before.is_over:
        say(f"tick {tick} is over already")
        return before
    try:
        with hold(store, _purpose(tick), pipeline.lease_seconds) as lease:
            record = tick_record.load(store, tick) or tick_record.fresh(store, tick, pipeline=pipeline.name)
            if not record.is_over:
                _Tick(pipeline, record, lease, say, address, train).run()
            return record
    except Held as held:
        say(f"tick {tick}: skipped: previous still running ({held})")
        return _refused(store, tick, held, before)


def _purpose(tick: str) -> str:
    return f"tick {tick}"


def _refused(store: Store, tick: str, held: Held, before: TickRecord | None) -> TickRecord:
    """Recorded, unless the tick has a record: then it began once, and it is for its own next run to end it."""
    record = before or tick_record.fresh(store, tick)
    if held.purpose != _purpose(tick) and before is None:
        previous = held.purpose.removeprefix(_purpose(""))
        record.data |= {"outcome": "skipped", "reason": "previous still running", "previous": previous}
        store.create(f"{tick_record.FOLDER}/{tick}.json", tick_record.as_json(record.data))
    return record


class _Tick:
    """A tick under its lease."""

    def __init__(
        self, pipeline: Pipeline, record: TickRecord, lease: Lease, say: Say, address: str | None, train: Train
    ) -> None:
        self.pipeline, self.record, self.lease, self.say = pipeline, record, lease, say
        self.address, self.train = address, train
        self.store, self.recipe = record.store, pipeline.recipe()
        self.model = RegisteredModel(pipeline.registry, pipeline.name)
        self.folder = self.store.uri(f"{tick_record.FOLDER}/{record.id}")
        self.load = lru_cache(maxsize=1)(load_data_set)  # decoded once for preflight, candidate and champion

    def run(self) -> None:
        """To the end. What the user caused, or the numbers, is written down and raised."""
        if self.record.outcome == "failed" and not self._has_won():
            self.record.data |= {"steps": {}, "rounds": []}  # what was wrong may have been mended, in data or file
        self.record.data |= {"outcome": "", "reason": ""}
        self.record.save()
        self._abandon_older()
        try:
            outcome, reason = self._decide()
        except errors_of_ray():
            raise  # a worker was lost: the tick goes on later
        except (ValueError, FloatingPointError) as error:
            self._end("failed", str(error))
            raise
        self._sweep()
        self._end(outcome, reason)

    def _end(self, outcome: str, reason: str) -> None:
        self.record.end(outcome, reason)
        write_ticks_page(self.pipeline.out, {name: metric.title for name, metric in METRICS.items()})

    def _decide(self) -> tuple[str, str]:
        """(outcome, reason)"""
        snapshot = self._step(
            "snapshot", lambda: take_snapshot(self.pipeline.data, self.pipeline.out, self.say).record()
        )
        fingerprint = self._fingerprint(snapshot)
        if self.record.steps.keys() == {"snapshot"} and fingerprint == self._last_fingerprint():
            return "skipped", "no new data"
        self._begin_anew_if_not(fingerprint)
        self._step("preflight", lambda: check_fit(self.pipeline, self.recipe, snapshot["uri"], self.load))
        self._step("train", lambda: self._train(snapshot["uri"]))
        self._step("evaluate", lambda: self._measure(f"{self.folder}/training", "candidate"))
        passed, reason = Contest(self.pipeline, self.model, self.record, self.lease, self._measure).decide()
        if not passed:
            return "refused", reason
        if problem := self._step("smoke", self._smoke).get("problem"):
            return "rolled_back", problem
        self._step("generate", self._generate)
        self.model.retire(self.pipeline.keep)
        return "promoted", f"{self.pipeline.name}@{self.record.rounds[-1]['version']}"

    def _step(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.lease.check()
        if name not in self.record.steps:
            self.say(f"{self.record.id}: {name}")
        return self.record.step(name, do)

    def _fingerprint(self, snapshot: dict[str, Any]) -> str:
        """Of all that the decision hangs on: data, recipe, evaluation, gate and classifier."""
        recipe = {key: value for key, value in self.recipe.record().items() if key not in job.FREE}
        gate = {metric: rule.model_dump() for metric, rule in self.pipeline.gate.items()}
        parts = [snapshot["id"], recipe, self.pipeline.evaluate.model_dump(), gate]
        if self.pipeline.classifier is not None:
            parts.append(Classifier.open(self.pipeline.classifier).revision)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _begin_anew_if_not(self, fingerprint: str) -> None:
        """A tick that is run again after its data or file changed trains anew, unless its model is promoted already."""
        if self.record.data.setdefault("fingerprint", fingerprint) != fingerprint and not self._has_won():
            self.store.delete(*self.store.list(f"{tick_record.FOLDER}/{self.record.id}/training/"))
            self.record.data |= {"steps": {"snapshot": self.record.steps["snapshot"]}, "rounds": []}
            self.record.data["fingerprint"] = fingerprint

    def _has_won(self) -> bool:
        return any(one.get("won") for one in self.record.rounds)

    def _last_fingerprint(self) -> str | None:
        latest = max(self.record.id, tick_id(datetime.now(UTC)))  # one of a time to come would be the last for good
        others = (r for r in tick_record.records(self.store) if r.id <= latest and r.id != self.record.id)
        decided = [record for record in others if record.outcome in _DECIDED]
        return decided[-1].data["fingerprint"] if decided else None

    def _train(self, data: str) -> dict[str, Any]:
        options = job.TrainOptions(
            recipe=self.pipeline.train.recipe,
            data=data,
            out=f"{self.folder}/training",
            settings=self.pipeline.train.texts(),
            workers=self.pipeline.train.workers_text(),
            resume=True,
            address=self.address,
        )
        self.train(options, self.say)
        return {"run": options.out, "recipe": self.recipe.record(), "workers": options.workers}

    def _measure(self, model: str, name: str) -> dict[str, Any]:
        uri = self.record.steps["snapshot"]["uri"]
        if self.recipe.reads == "captions":
            return measure_adapter(model, uri)
        data = self.load(uri)
        out, judge = f"{self.folder}/{name}", self.pipeline.classifier
        return measure_where_fast(model, data, self.pipeline.evaluate, out, self.say, judge)

    def _pointer(self) -> Pointer | None:
        """The registry's pointer, if it still is the one that this tick set."""
        champion = self.model.champion()
        return champion if champion is not None and champion.version == self.record.rounds[-1]["version"] else None

    def _smoke(self) -> dict[str, Any]:
        if self.pipeline.smoke is None:
            return {"manifest": None}
        version = self.record.rounds[-1]["version"]
        for event in self.model.moves():
            if event["kind"] == "rolled_back" and event.get("tick") == self.record.id:
                return {"manifest": self.pipeline.smoke, "problem": event["reason"]}  # it died before it said so
        result = smoke_step(self.pipeline, version, f"{self.folder}/smoke", self.address, self.say)
        if (problem := result.get("problem")) and (pointer := self._pointer()) is not None:
            self.model.withdraw(pointer, tick=self.record.id, reason=problem)
        return result

    def _generate(self) -> dict[str, Any]:
        if self.pipeline.generate is None:
            return {"manifest": None}
        version = self.record.rounds[-1]["version"]
        return generate_step(self.pipeline, version, f"{self.folder}/generated", self.address, self.say)

    def _abandon_older(self) -> None:
        for record in tick_record.records(self.store):
            if record.id < self.record.id and not record.outcome:  # one that failed says why, and may be run again
                record.end("abandoned", f"tick {self.record.id} began before it was over")

    def _sweep(self) -> None:
        """Deletes what the next ticks do not need: checkpoints, and data that no snapshot in use is made of."""
        run = open_store(f"{self.folder}/training")
        run.delete(*run.list("checkpoints/"))
        self.lease.check()  # whoever took over may be about to train on what is not in use here
        snapshots = list(self._snapshots_in_use())
        kept = {
            "snapshots": {snapshot["id"] for snapshot in snapshots},
            "parts": {part["digest"] for snapshot in snapshots for part in snapshot.get("parts", ())},
        }
        for folder, names in kept.items():
            keys = self.store.list(f"data/{folder}/")
            self.store.delete(*(key for key in keys if key.split("/")[2] not in names))

    def _snapshots_in_use(self) -> Iterator[dict[str, Any]]:
        """Of the versions that are kept, of this tick, and of those under way: one that failed takes another."""
        for number in self.model.kept():
            if (snapshot := self.model.version(number).get("snapshot")) is not None:
                yield snapshot
        for record in tick_record.records(self.store):
            if "snapshot" in record.steps and (record.id == self.record.id or not record.outcome):
                yield record.steps["snapshot"]
