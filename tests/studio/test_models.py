"""The page Models: trainings as they stand, and a registry whose champion is moved behind a confirmation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from darkroom.models.registry import RegisteredModel
from darkroom.storage import decode, encode_png, open_store
from darkroom.studio.found_runs import find_runs
from darkroom.studio.registry_moves import history, moves, versions
from darkroom.studio.trainings import POINTS, curve, evaluations, losses, read_training, read_trainings
from darkroom.training.checkpoints import Checkpoint, save_checkpoint
from darkroom.training.network_training import write_curves

RECIPE = {"name": "mnist-flow-class", "epochs": 4, "batch": 8, "show": [1]}
STEPS = 300  # an epoch


def checkpoint(epoch: int) -> Checkpoint:
    """After an epoch; of step n, the loss is 1 / n."""
    curves = {
        "losses": 1 / torch.arange(1, STEPS * epoch + 1, dtype=torch.float64),
        "rates": torch.ones(STEPS * epoch, dtype=torch.float64),
        "validation": torch.tensor([math.nan] * (epoch - 1) + [0.5], dtype=torch.float64),
        "seconds": torch.full((epoch,), 10.0, dtype=torch.float64),
    }
    return Checkpoint(epoch, STEPS * epoch, {"kind": "network"}, {"w": torch.zeros(3)}, None, {}, curves)


def train(uri: str, epochs: int, **recipe: Any) -> None:
    """A training that is so many epochs old, and goes on."""
    store = open_store(uri)
    record = {"kind": "training", "created_at": "2026-11-28T04:00:00+00:00", "recipe": RECIPE | recipe}
    store.write("run.json", json.dumps(record).encode())
    if epochs:
        write_curves(store, checkpoint(epochs), batch=8)


def evaluate(uri: str, folder: str, share: float) -> None:
    store = open_store(uri)
    measured = {"digit_accuracy": share, "count": 80, "worst": {"digit": 3}}
    store.write(f"{folder}/quality.json", json.dumps({"seconds": 1.0, "quality": {"24": measured}}).encode())
    store.write(f"{folder}/sheet-24.png", encode_png(np.zeros((8, 8, 3), np.uint8)))


@pytest.fixture
def registry(tmp_path: Path, toy_network: str) -> RegisteredModel:
    """Three versions of one model; 2 is live, and took over from 1."""
    model = RegisteredModel(str(tmp_path / "registry"), "digits")
    for loss in (0.5, 0.25, 0.125):
        before, number = model.champion(), model.claim()
        metrics = {"validation_loss": {"mean": loss}}
        model.register(number, toy_network, {"tick": "20261121T020000Z", "evaluation": {"metrics": metrics}})
        model.note("gated", f"tick-{number}", passed=number < 3, failed=["validation_loss"] * (number == 3))
        if number < 3:
            model.promote(number, before)
    return model


def models(runs: Path, registry: str = "", show: str = "") -> AppTest:
    """The page, run once."""

    def script(runs: str, registry: str) -> None:
        from darkroom.studio.pages.models import page
        from darkroom.studio.settings import Settings

        page(Settings(runs, registry=registry))

    app = AppTest.from_function(script, kwargs={"runs": str(runs), "registry": registry}, default_timeout=60)
    if show:
        app.query_params["show"] = show
    return app.run()


def test_a_training_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    train(str(tmp_path / "a/flow"), epochs=3)
    train(str(tmp_path / "new"), epochs=0)
    open_store(str(tmp_path)).write("bad/run.json", b'{"kind": "training", "recipe": 7}')
    found = read_trainings([one for one in find_runs(str(tmp_path)) if one.is_training])
    assert [(one.name, one.state, one.progress) for one in found] == [
        ("a/flow", "not finished", "3 of 4 epochs"),
        ("new", "not finished", "0 of 4 epochs"),
        ("bad", "damaged", ""),
    ]
    assert found[0].seconds_left == 10.0 and found[1].seconds_left is None
    assert [epoch.validation_loss for epoch in found[0].epochs] == [None, None, 0.5]
    open_store(str(tmp_path)).write("a/flow/config.json", b"{}")
    again = read_training(str(tmp_path / "a/flow"), "a/flow")
    assert again.state == "finished" and again.seconds_left is None


def test_losses_of_phases_are_read_from_their_checkpoints(tmp_path: Path) -> None:
    train(str(tmp_path), epochs=0, name="if-xs")
    store = open_store(str(tmp_path))
    for phase, epochs in (("base", 2), ("fine", 1)):
        save_checkpoint(store, checkpoint(epochs), f"checkpoints/{phase}")
    assert read_training(str(tmp_path), "").progress == "base 2, fine 1"
    found = losses(str(tmp_path))
    assert {name: len(values) for name, values in found.items()} == {"base": 2 * STEPS, "fine": STEPS}
    assert found["fine"][1] == 0.5


def test_a_long_curve_is_drawn_by_few_points() -> None:
    points = curve(np.arange(100_000.0))
    by_line = {name: [p for p in points if p["line"] == name] for name in ("each step", "mean of 1,000 steps")}
    assert {name: len(line) for name, line in by_line.items()} == dict.fromkeys(by_line, POINTS)
    first, last = by_line["mean of 1,000 steps"][0], by_line["each step"][-1]
    assert (first["step"], first["loss"]) == (501, 499.5) and (last["step"], last["loss"]) == (100_000, 99_999.0)


def test_evaluations_lie_in_the_training_and_beside_a_tick(tmp_path: Path) -> None:
    evaluate(str(tmp_path / "flow"), "evaluation", 0.975)
    evaluate(str(tmp_path / "nightly/ticks/T"), "candidate", 0.5)
    (own,), (ticks,) = evaluations(str(tmp_path / "flow")), evaluations(str(tmp_path / "nightly/ticks/T/training"))
    assert (own.name, own.rows) == ("evaluation", [["24 px: digit accuracy", "97.5%"], ["24 px: count", "80"]])
    assert ticks.name == "candidate" and own.sheet[1:4] == b"PNG"
    open_store(str(tmp_path)).write("flow/evaluation/sheet-48.png", encode_png(np.zeros((16, 16, 3), np.uint8)))
    (own,) = evaluations(str(tmp_path / "flow"))
    assert decode(own.sheet, "the sheet").shape == (16, 16, 3), "of the largest pictures"
    open_store(str(tmp_path)).write("flow/evaluation/quality.json", b'{"quality": [')
    assert evaluations(str(tmp_path / "flow"))[0].head == ["problem"]


def test_what_is_damaged_takes_nothing_else_off_the_page(tmp_path: Path, registry: RegisteredModel) -> None:
    runs, store = tmp_path / "runs", open_store(str(tmp_path / "runs"))
    train(str(runs / "<b>bold</b> *x*"), epochs=1, name="<script>alert(1)</script>" * 100_000)
    train(str(runs / "torn"), epochs=1)
    store.write("torn/losses.parquet", b"PAR1 half")
    store.write("torn/checkpoints/epoch-0001.safetensors", b"half")
    for name, text in {
        "deep": "[" * 100_000,
        "list": "[]",
        "late": '{"kind": "training", "recipe": {"name": 1e999}}',
    }.items():
        store.write(f"{name}/run.json", text.encode())
    app = models(runs)
    assert not app.exception and "<b>bold</b> *x*" in list(app.dataframe[0].value["training"])
    assert max(map(len, app.dataframe[0].value["recipe"])) == 100
    app.selectbox(key="training").select("torn").run()
    assert not app.exception and "This cannot be shown: ArrowInvalid" in app.error[0].value.replace("\\", "")
    registry.store.write("versions/1/version.json", b"[]")
    registry.store.write("events/odd.json", b'{"kind": "gated"}')
    app = models(runs, registry.root, "Registry")
    assert not app.exception and "its record is damaged" in app.dataframe[0].value["from"].iloc[2]
    assert [error.value for error in app.error] == [r"This cannot be shown\: KeyError\: \'at\'"]


def test_what_may_be_done_to_a_champion(registry: RegisteredModel) -> None:
    found = moves(registry)
    assert [(one.kind, one.before, one.after) for one in found] == [("rollback", 2, 1), ("promote", 2, 3)]
    assert found[0].question.startswith("registry://digits is version 2 now. After this it is version 1: every job")
    assert [(one["version"], one["state"], one["validation loss"]) for one in versions(registry)] == [
        (3, "kept", 0.125), (2, "champion", 0.25), (1, "kept", 0.5),
    ]  # fmt: skip
    gates = [(one["what"], one["details"]) for one in history(registry) if one["what"].startswith("gate")]
    assert gates[0] == ("gate refused", "passed False, failed validation_loss") and gates[1][0] == "gate passed"


def test_a_confirmation_is_of_what_was_shown(registry: RegisteredModel) -> None:
    shown = moves(registry)
    registry.rollback()
    for move in shown:
        with pytest.raises(ValueError, match="was moved by another process meanwhile; look and try again"):
            move.carry_out(registry.root, "too late")
    (again,) = [move for move in moves(registry) if move.after == 3]
    assert again.before == 1 and again.carry_out(registry.root, "better").version == 3
    assert registry.history()[-1]["by_hand"] and registry.history()[-1]["reason"] == "better"


def test_the_page_without_anything_says_what_to_type(tmp_path: Path) -> None:
    app = models(tmp_path)
    assert not app.exception and app.code[0].value.startswith("darkroom train ")
    app = models(tmp_path, show="Registry")
    assert not app.exception and "--registry" in app.code[0].value
    app = models(tmp_path, registry=str(tmp_path / "none"), show="Registry")
    assert not app.exception and app.code[0].value.startswith("darkroom registry add ")


def test_the_page_of_a_training(tmp_path: Path) -> None:
    train(str(tmp_path / "flow"), epochs=2)
    evaluate(str(tmp_path / "flow"), "evaluation", 0.9)
    app = models(tmp_path)
    assert not app.exception
    assert {metric.label: metric.value.replace("\\", "") for metric in app.metric} == {
        "state": "not finished", "progress": "2 of 4 epochs", "loss": "0.0023", "validation loss": "0.5000",
        "images a second": "240", "left, by the last epochs": "20 s",
    }  # fmt: skip
    assert [one.value for one in app.subheader] == ["Samples", r"Evaluation\: evaluation"]


def test_a_champion_is_rolled_back_behind_a_confirmation(registry: RegisteredModel, tmp_path: Path) -> None:
    app = models(tmp_path, registry=registry.root, show="Registry")
    assert not app.exception and [button.label for button in app.button] == [
        "Roll back to version 1 …", "Promote version 3 …",
    ]  # fmt: skip
    app.button(key="rollback 1").click().run()
    assert not app.exception and registry.champion().version == 2, "nothing was done yet"
    app.text_input(key="reason").input("sevens look like ones")
    app.button(key="confirm").click().run()
    assert not app.exception and registry.champion().version == 1
    assert registry.history()[-1]["reason"] == "sevens look like ones"
    assert app.success[0].value == r"The champion of digits is version 1 now\."
