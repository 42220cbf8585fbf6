"""Ticks without Ray: the training runs in this process; storage is a folder, or a real S3 server."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from darkroom.batch import generate
from darkroom.models.catalog import open_model
from darkroom.models.classifier import EMBEDDED, mnist_classifier, save_classifier
from darkroom.models.registry import RegisteredModel
from darkroom.ray_cluster import ClusterError
from darkroom.retrain import challenge, tick_record
from darkroom.retrain import tick as tick_module
from darkroom.retrain.rollout import generate_step
from darkroom.retrain.schema import Pipeline
from darkroom.retrain.tick import run_tick
from darkroom.retrain.tick_record import TickRecord
from darkroom.retrain.times import tick_id
from darkroom.storage import LocalStore, StorageError, encode_png, open_store
from darkroom.storage.lease import LEASE, _record, hold
from darkroom.training import data, job
from darkroom.training.data import load_images
from small_world import ENDED, QUICK, World, train_here

FIRST = datetime(2026, 11, 21, 2, tzinfo=UTC)


def night(number: int) -> datetime:
    return FIRST + timedelta(days=number - 1)


def run(pipeline: Pipeline, number: int, train: Any = train_here) -> TickRecord:
    return run_tick(pipeline, night(number), lambda line: None, train=train)


def champion(world: World) -> int | None:
    pointer = RegisteredModel(f"{world.uri}/registry", "digits").champion()
    return pointer and pointer.version


def test_promoted_then_skipped_then_refused_and_a_tick_runs_once(world: World) -> None:
    world.arrive("one", 0, 64)
    pipeline = world.pipeline()
    first = run(pipeline, 1)
    assert (first.outcome, first.data["reason"], champion(world)) == ("promoted", "digits@1", 1)
    assert run(pipeline, 1).data == first.data, "run twice, a tick is left as it was"
    assert (run(pipeline, 2).outcome, run(pipeline, 3).data["reason"]) == ("skipped", "no new data")
    slow = world.pipeline(train={"recipe": "mnist-flow-class", "settings": QUICK | {"learning_rate": 1e-9}})
    refused = run(slow, 4)
    assert refused.outcome == "refused" and champion(world) == 1
    (check,) = [check for check in refused.rounds[0]["table"] if not check["passed"]]
    assert check["metric"] == "validation_loss" and check["champion"] < check["value"] and check["margin"] == 0.1
    assert refused.data["reason"].startswith("validation_loss: ") and "the margin is 0.1" in refused.data["reason"]
    assert run(slow, 5).data["reason"] == "no new data", "what was refused is not trained again every night"
    model = RegisteredModel(pipeline.registry, "digits")
    kinds = [event["kind"] for event in model.history()]
    assert kinds == ["evaluated", "gated", "registered", "promoted", "evaluated", "gated"]
    record = model.version(1)
    assert record["snapshot"]["rows"] == {"train": 64, "test": 20} and record["packages"]["torch"]
    assert record["parent"] is None and record["gate"][0]["metric"] == "validation_loss"
    assert len(record["evaluation"]["metrics"]["validation_loss"]["by_seed"]) == 3
    assert not list(open_store(pipeline.out).list("ticks/20261121T020000Z/training/checkpoints/"))


def test_a_tick_of_a_time_to_come_is_not_the_last(here: World) -> None:
    """It was decided by a clock that was wrong: what came since is trained on once, and not every night."""
    here.arrive("one", 0, 64)
    run_tick(here.pipeline(), datetime(2999, 1, 1, tzinfo=UTC), lambda line: None, train=train_here)
    here.arrive("two", 64, 32)
    assert run(here.pipeline(), 1).outcome in ("promoted", "refused")
    assert run(here.pipeline(), 2).data["reason"] == "no new data"


def test_new_data_is_read_once_and_joined(here: World) -> None:
    here.arrive("one", 0, 64)
    run(here.pipeline(), 1)
    here.arrive("two", 64, 32)
    second = run(here.pipeline(), 2)
    snapshot = second.steps["snapshot"]
    assert second.outcome == "promoted" and snapshot["rows"] == {"train": 96, "test": 40}
    assert [part["reused"] for part in snapshot["parts"]] == [True, False]
    model = RegisteredModel(here.pipeline().registry, "digits")
    assert (model.version(2)["parent"], model.champion().version) == (1, 2)


def test_a_change_of_gate_or_recipe_is_work(here: World) -> None:
    here.arrive("one", 0, 64)
    run(here.pipeline(), 1)
    assert run(here.pipeline(gate={"size": {"at_most": 1_000_000}}), 2).outcome == "promoted"
    other = here.pipeline(gate={"size": {"at_most": 1_000_000}}, train={"recipe": "mnist-flow-class", "settings": {
        **QUICK, "epochs": 1}})  # fmt: skip
    assert run(other, 3).outcome == "promoted" and champion(here) == 3


def test_a_tick_is_refused_while_another_runs_and_that_is_recorded(here: World) -> None:
    here.arrive("one", 0, 64)
    pipeline, store = here.pipeline(), open_store(f"{here.uri}/out")
    with hold(store, f"tick {tick_id(night(1))}", pipeline.lease_seconds):
        assert run(pipeline, 1).outcome == "", "the same tick is left to who runs it"
        second = run(pipeline, 2)
    assert (second.outcome, second.data["reason"]) == ("skipped", "previous still running")
    assert run(pipeline, 2).outcome == "skipped" and champion(here) is None
    assert tick_record.load(store, tick_id(night(2))).data["previous"] == tick_id(night(1))
    store.write(LEASE, _record(f"tick {tick_id(night(1))}", 1))  # a holder that is dead
    assert run(pipeline, 3).outcome == "promoted"


class Died(BaseException):
    """A process that is killed: nothing catches it."""


def test_killed_at_any_write_a_promotion_goes_on(here: World, monkeypatch: Any) -> None:
    """From the verdict to the end of the tick: killed before each of its writes, the tick is then run once more."""
    here.arrive("one", 0, 64)
    run(here.pipeline(), 1)
    here.arrive("two", 64, 32)
    pipeline, verbs = here.pipeline(), {name: getattr(LocalStore, name) for name in ("write", "create", "replace")}
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(challenge, "judge", lambda *given: (_ for _ in ()).throw(Died))
        run(pipeline, 2)
    monkeypatch.setattr(tick_module, "write_ticks_page", lambda *given: None)  # a second each, and last of all
    before = here.folder / "before"
    shutil.copytree(here.uri, before)
    left = deaths = 0

    def dying(verb: str) -> Any:
        def act(store: LocalStore, key: str, *given: Any) -> Any:
            nonlocal left
            left -= key != LEASE
            if left == 0 and key != LEASE:
                raise Died
            return verbs[verb](store, key, *given)

        return act

    while deaths < 100:
        shutil.rmtree(here.uri)
        shutil.copytree(before, here.uri)
        with monkeypatch.context() as patch:
            for verb in verbs:
                patch.setattr(LocalStore, verb, dying(verb))
            left = deaths + 1
            try:
                run(pipeline, 2)
                break
            except Died:
                deaths += 1
        assert open_model(f"registry://{here.uri}/registry/digits").load(), "a whole model at every moment"
        assert run(pipeline, 2).outcome == "promoted"
        model = RegisteredModel(pipeline.registry, "digits")
        (first, second) = (event["version"] for event in model.moves())
        assert first == 1 and second in (2, 3), "a number that was claimed when it died is not given again"
        assert model.versions() == [1, second] and model.champion().version == second
        kinds = [event["kind"] for event in model.history()]
        assert kinds == [*("evaluated", "gated", "registered", "promoted") * 2]
    assert deaths > 12


def test_a_hiccup_of_the_cluster_in_the_smoke_run_is_not_the_models_fault(here: World, monkeypatch: Any) -> None:
    here.arrive("one", 0, 64)
    manifest = here.folder / "smoke.yaml"
    manifest.write_text("rows: [{task: text_to_image, label: 7, steps: 2}]")
    pipeline, lost = here.pipeline(smoke=str(manifest)), RayTaskError("make", "a traceback", ValueError("a worker's"))
    hiccups = [ClusterError("no node left"), StorageError("no bucket"), lost.as_instanceof_cause()]
    assert isinstance(hiccups[2], ValueError), "Ray's wrapper is what it wraps"
    waiting = iter(hiccups)

    def generated(*given: Any) -> SimpleNamespace:
        if (error := next(waiting, None)) is not None:
            raise error
        return SimpleNamespace(rows=1, failed=0)

    monkeypatch.setattr(generate, "run", generated)
    for error in hiccups:
        with pytest.raises(type(error)):
            run(pipeline, 1)
        record = tick_record.load(open_store(pipeline.out), tick_id(night(1)))
        assert (record.outcome, champion(here)) == ("", 1) and "smoke" not in record.steps
    record = run(pipeline, 1, train=None)  # its training is done
    assert record.outcome == "promoted" and record.steps["smoke"]["rows"] == 1
    assert [event["kind"] for event in RegisteredModel(pipeline.registry, "digits").moves()] == ["promoted"]


def test_a_run_that_the_file_names_is_every_champions(here: World, monkeypatch: Any) -> None:
    """Else the second champion would be refused there: another model would replace the first one's rows."""
    asked: list[generate.Options] = []
    monkeypatch.setattr(
        generate, "run", lambda options, say: (asked.append(options), SimpleNamespace(rows=1, failed=0))[1]
    )
    manifest = here.folder / "digits.yaml"
    manifest.write_text("rows: [{task: text_to_image, label: 7, steps: 2}]")
    for out in (f"{here.uri}/digits", None):
        pipeline = here.pipeline(generate={"manifest": str(manifest), "out": out})
        generate_step(pipeline, 2, f"{here.uri}/tick", None, print)
    assert [(options.out, options.replace) for options in asked] == [
        (f"{here.uri}/digits", True),
        (f"{here.uri}/tick", False),
    ]


def test_what_the_model_cannot_do_still_rolls_it_back(here: World, monkeypatch: Any) -> None:
    here.arrive("one", 0, 64)
    manifest = here.folder / "smoke.yaml"
    manifest.write_text("rows: [{task: text_to_image, label: 7, steps: 2}]")
    monkeypatch.setattr(generate, "run", lambda *given: SimpleNamespace(rows=2, failed=1))
    record = run(here.pipeline(smoke=str(manifest)), 1)
    assert record.outcome == "rolled_back" and champion(here) is None
    assert record.data["reason"].startswith("1 of 2 rows of the smoke manifest failed")


def test_data_that_no_snapshot_in_use_is_made_of_goes(here: World) -> None:
    """Of a folder of pictures each night with a new one is another part."""
    source, out = open_store(f"{here.uri}/source"), open_store(f"{here.uri}/out")
    settings = {"recipe": "mnist-flow-class", "settings": QUICK | {"epochs": 1}}
    pipeline = here.pipeline(
        data={"kind": "folder", "source": f"{here.uri}/source"}, train=settings, gate={"size": {"at_most": 1_000_000}}
    )

    def arrive(picture: int) -> None:
        for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
            grey = np.random.default_rng(picture).integers(0, 256, (28, 28), np.uint8)
            source.write(f"{folder}/{picture}.png", encode_png(np.stack([grey] * 3, 2)))

    def parts() -> set[str]:
        return {key.split("/")[2] for key in out.list("data/parts/")}

    def part(record: TickRecord) -> str:
        (found,) = record.steps["snapshot"]["parts"]
        return found["digest"]

    for picture in range(20):
        arrive(picture)
    record = run(pipeline, 1)
    made = [part(record)]
    for number in (2, 3):
        arrive(100 + number)
        if number == 2:  # a tick that is not over, of a later night
            waiting = tick_record.fresh(out, tick_id(night(9)))
            waiting.steps["snapshot"] = record.steps["snapshot"]
            waiting.save()
        record = run(pipeline, number)
        assert record.outcome == "promoted"
        made.append(part(record))
    kept = RegisteredModel(pipeline.registry, "digits").kept()
    assert kept == [2, 3], "the champion and the one before"
    assert len(parts()) == 3 and parts() == {*made}, "the first night's is that of the tick that is not over"
    waiting.end("abandoned")
    assert run(pipeline, 4).outcome == "skipped" and parts() == {*made[1:]}
    assert load_images(record.steps["snapshot"]["uri"], "train").labels.size == 2 * 22


def test_killed_in_training_it_goes_on_from_the_checkpoint(here: World) -> None:
    here.arrive("one", 0, 64)
    lines: list[str] = []

    def killed(options: job.TrainOptions, say: Any) -> None:
        def until_the_first_epoch(line: str) -> None:
            if ENDED.match(line):
                raise Died

        train_here(options, until_the_first_epoch)

    with pytest.raises(Died):
        run(here.pipeline(), 1, killed)
    assert champion(here) is None
    record = run_tick(here.pipeline(), night(1), lines.append, train=train_here)
    assert record.outcome == "promoted"
    assert [line[:9] for line in lines if ENDED.match(line)] == ["epoch 2/2"]


def test_who_loses_a_race_is_held_against_the_winner(here: World, monkeypatch: Any) -> None:
    here.arrive("one", 0, 64)
    run(here.pipeline(), 1)
    here.arrive("two", 64, 32)
    model, claim = RegisteredModel(f"{here.uri}/registry", "digits"), RegisteredModel.claim

    def while_another_promotes(mine: RegisteredModel) -> int:
        monkeypatch.setattr(RegisteredModel, "claim", claim)
        rival = model.claim()
        model.register(rival, model.folder(1), {"parent": 1, "snapshot": {"id": "rival"}})
        assert model.promote(rival, model.champion())
        return claim(mine)

    monkeypatch.setattr(RegisteredModel, "claim", while_another_promotes)
    record = run(here.pipeline(), 2)
    assert record.outcome == "promoted" and champion(here) == 4
    assert [(r["champion"], r["won"]) for r in record.rounds] == [(1, False), (2, True)]
    moves = [(event["version"], event["previous"]) for event in model.moves()]
    assert moves == [(1, None), (2, 1), (4, 2)]
    retired = {event["version"]: event["reason"] for event in model.history() if event["kind"] == "retired"}
    assert retired[3] == "another model was promoted while this one was judged"


def test_bad_records_are_counted_and_too_many_stop_the_tick(here: World) -> None:
    here.arrive("one", 0, 64)
    store = open_store(f"{here.uri}/source/one")
    labels = bytearray(store.read("train-labels-idx1-ubyte"))
    labels[8 + 3] = 77
    store.write("train-labels-idx1-ubyte", bytes(labels))
    allowing = {"kind": "idx", "source": f"{here.uri}/source", "bad_records": 0.05}
    with pytest.raises(
        ValueError, match=r"1 of 84 records .* more than the 1.00% .*\n  .*one: train record 3: the lab"
    ):
        run(here.pipeline(), 1)
    failed = tick_record.load(open_store(f"{here.uri}/out"), tick_id(night(1)))
    assert failed.outcome == "failed" and not failed.is_over
    record = run(here.pipeline(data=allowing), 1)
    assert record.outcome == "promoted" and record.steps["snapshot"]["bad"] == 1
    assert record.steps["snapshot"]["rows"] == {"train": 63, "test": 20}
    part = record.steps["snapshot"]["parts"][0]["uri"]
    assert json.loads(open_store(part).read("part.json"))["quarantine"] == ["train record 3: the label is 77"]


def test_a_part_that_is_still_being_uploaded_waits(here: World) -> None:
    here.arrive("one", 0, 64)
    here.arrive("two", 64, 32)
    store = open_store(f"{here.uri}/source/two")
    whole = store.read("train-images-idx3-ubyte")
    store.write("train-images-idx3-ubyte", whole[:-100])
    allowing = {"kind": "idx", "source": f"{here.uri}/source", "bad_records": 0.6}
    assert run(here.pipeline(data=allowing), 1).steps["snapshot"]["rows"]["train"] == 64
    store.write("train-images-idx3-ubyte", whole)
    assert run(here.pipeline(data=allowing), 2).steps["snapshot"]["rows"]["train"] == 96


def test_a_gate_that_cannot_be_measured_is_told_before_the_training(here: World) -> None:
    here.arrive("one", 0, 64)
    labels = open_store(f"{here.uri}/source/one").read("t10k-labels-idx1-ubyte")
    turned = bytes([*labels[:8], *((label + 1) % 10 for label in labels[8:])])
    open_store(f"{here.uri}/source/one").write("t10k-labels-idx1-ubyte", turned)

    def never(options: job.TrainOptions, say: Any) -> None:
        pytest.fail("it was trained")

    with pytest.raises(ValueError, match="the gate asks for class_accuracy, which cannot be measured: the classifier"):
        run(here.pipeline(gate={"class_accuracy": {"at_least": 0.1}}), 1, never)


@pytest.mark.parametrize(
    ("recipe", "gate"),
    [
        ("mnist-flow-class", {"class_accuracy": {"at_least": 0.1}}),
        ("mnist-denoiser", {"size": {"at_most": 1_000_000}, "psnr_0.4": {"at_least": 1.0}}),
    ],
)
def test_a_champion_that_has_no_such_measure_is_told_before_the_training(here: World, recipe: str, gate: dict) -> None:
    here.arrive("one", 0, 64)
    train = {"recipe": "mnist-flow-time", "settings": QUICK}
    assert run(here.pipeline(train=train, gate={"size": {"at_most": 1_000_000}}), 1).outcome == "promoted"

    def never(options: job.TrainOptions, say: Any) -> None:
        pytest.fail("it was trained")

    *_, metric = gate
    with pytest.raises(ValueError, match=rf"digits@1 is another kind of model than {recipe} .* has no {metric} to be"):
        run(here.pipeline(train={"recipe": recipe, "settings": QUICK}, gate=gate), 2, never)


def turned_judge(folder: str) -> str:
    """The classifier of digits, which takes each for the next one."""
    judge = mnist_classifier()
    network = judge.load()
    for parameter in network.head.parameters():
        parameter.copy_(parameter.roll(1, 0))
    save_classifier(open_store(folder), network, judge.config | {"name": "turned"})
    return folder


def test_pictures_of_ones_own_are_judged_by_a_classifier_of_ones_own(here: World) -> None:
    """Digits under the next digit's label, which the classifier of MNIST does not know."""
    here.arrive("one", 0, 64)
    store = open_store(f"{here.uri}/source/one")
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        labels = store.read(name)
        store.write(name, bytes([*labels[:8], *((label + 1) % 10 for label in labels[8:])]))
    gate = {"class_accuracy": {"at_least": 0.0}, "frechet_distance": {"at_most": 1e6}}
    judge = turned_judge(f"{here.uri}/judge")
    found = run(here.pipeline(gate=gate, classifier=judge), 1)
    assert found.outcome == "promoted"
    judged = found.steps["evaluate"]["classifier"]
    assert judged["uri"] == judge and judged["test_accuracy"] >= 0.9
    assert run(here.pipeline(gate=gate, classifier=judge), 2).data["reason"] == "no new data"
    with pytest.raises(ValueError, match="the pipeline's classifier cannot judge its data: the classifier 'mnist"):
        run(here.pipeline(gate=gate, classifier=str(EMBEDDED)), 3)


def test_a_tick_decodes_its_pictures_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For preflight, candidate and champion together; the training reads its own."""
    gate = {"class_accuracy": {"at_least": 0.0}}
    here.arrive("one", 0, 64)
    run(here.pipeline(gate=gate), 1)
    here.arrive("two", 64, 32)
    decoded, whole = [0], data.decode

    def counted(*given: Any) -> Any:
        decoded[-1] += 1
        return whole(*given)

    def train(options: job.TrainOptions, say: Any) -> None:
        decoded.append(0)
        train_here(options, say)
        decoded.append(0)

    monkeypatch.setattr(data, "decode", counted)
    second = run(here.pipeline(gate=gate), 2, train)
    assert second.rounds[0]["champion"] == 1 and second.rounds[0]["measured"], "the champion was measured too"
    rows = sum(second.steps["snapshot"]["rows"].values())
    snapshot_and_preflight, _, after = decoded
    assert snapshot_and_preflight <= 2 * rows and after == 0


def test_a_training_that_diverges_is_recorded_and_tried_again(here: World) -> None:
    here.arrive("one", 0, 64)
    wild = {"recipe": "mnist-flow-class", "settings": QUICK | {"learning_rate": 1e30}}
    with pytest.raises(FloatingPointError, match="the loss is"):
        run(here.pipeline(train=wild), 1)
    record = tick_record.load(open_store(f"{here.uri}/out"), tick_id(night(1)))
    assert record.outcome == "failed" and "the loss is" in record.data["reason"]


def test_a_tick_that_failed_takes_what_was_mended(here: World) -> None:
    here.arrive("one", 0, 64)
    huge = {"size": {"at_most": 1_000_000}, "class_accuracy": {"at_least": 0.0}}
    labels = open_store(f"{here.uri}/source/one").read("t10k-labels-idx1-ubyte")
    turned = bytes([*labels[:8], *((label + 1) % 10 for label in labels[8:])])
    open_store(f"{here.uri}/source/one").write("t10k-labels-idx1-ubyte", turned)
    with pytest.raises(ValueError, match="which cannot be measured"):
        run(here.pipeline(gate=huge), 1)
    open_store(f"{here.uri}/source/one").write("t10k-labels-idx1-ubyte", labels)
    assert run(here.pipeline(gate=huge), 1).outcome == "promoted"


def test_a_tick_whose_file_changed_before_it_went_on_trains_anew(here: World) -> None:
    here.arrive("one", 0, 64)

    def dying(options: job.TrainOptions, say: Any) -> None:
        train_here(options, say)
        raise Died

    with pytest.raises(Died):
        run(here.pipeline(), 1, dying)
    wider = here.pipeline(train={"recipe": "mnist-flow-class", "settings": QUICK | {"hidden": 6}})
    record = run(wider, 1)
    assert record.outcome == "promoted"
    assert open_model(f"registry://{here.uri}/registry/digits").config["network"]["hidden"] == 6


def test_a_tick_that_died_and_is_overtaken_is_abandoned(here: World) -> None:
    here.arrive("one", 0, 64)

    def killed(options: job.TrainOptions, say: Any) -> None:
        raise Died

    with pytest.raises(Died):
        run(here.pipeline(), 1, killed)
    assert run(here.pipeline(), 2).outcome == "promoted"
    assert run(here.pipeline(), 1).data["reason"] == f"tick {tick_id(night(2))} began before it was over"


def test_a_tick_that_failed_and_is_overtaken_still_says_why_and_keeps_no_data(here: World) -> None:
    here.arrive("one", 0, 64)
    out = open_store(f"{here.uri}/out")

    def diverges(options: job.TrainOptions, say: Any) -> None:
        raise FloatingPointError("epoch 3: the loss is nan")

    with pytest.raises(FloatingPointError):
        run(here.pipeline(), 1, diverges)
    here.arrive("two", 64, 32)
    second = run(here.pipeline(), 2)
    failed = tick_record.load(out, tick_id(night(1)))
    assert (failed.outcome, failed.data["reason"]) == ("failed", "epoch 3: the loss is nan")
    assert {key.split("/")[2] for key in out.list("data/snapshots/")} == {second.steps["snapshot"]["id"]}
    assert run(here.pipeline(), 1).data["reason"] == "no new data", "run again, it takes what is there now"


def test_two_schedulers_at_once_promote_once(here: World) -> None:
    here.arrive("one", 0, 64)
    pipeline, found = here.pipeline(), []
    both = [threading.Thread(target=lambda: found.append(run(pipeline, 1).outcome)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert "promoted" in found and set(found) <= {"promoted", ""}
    assert [event["version"] for event in RegisteredModel(pipeline.registry, "digits").moves()] == [1]
    again = run(pipeline, 1)
    assert (again.outcome, again.data["reason"]) == ("promoted", "digits@1")
