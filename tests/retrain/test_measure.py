"""Every metric that a gate may ask for is measured, of each kind of network, for three seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.models.network import WEIGHTS
from darkroom.retrain.gate_metrics import METRICS
from darkroom.retrain.measure import measure
from darkroom.retrain.schema import Data, Evaluate
from darkroom.retrain.snapshot import take_snapshot
from darkroom.storage import open_store
from darkroom.training.classifier_training import train_classifier
from darkroom.training.data import load_data_set
from darkroom.training.feeds import Worker
from darkroom.training.recipes.classifier import ClassifierRecipe
from drawings import write_gratings
from small_world import World
from toys import network_config, save_toy_network

DENOISER = network_config(channels=1, conditioning="none", num_classes=0) | {"process": None}
KINDS: dict[str, dict[str, Any]] = {
    "label": network_config(channels=1),
    "unconditional": network_config(channels=1, conditioning="time", num_classes=0),
    "denoiser": DENOISER,
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_metrics_of_a_kind_are_measured(here: World, tmp_path: Path, kind: str) -> None:
    here.arrive("one", 0, 40, tests=30)
    data = take_snapshot(Data(kind="idx", source=f"{here.uri}/source"), f"{here.uri}/out", print)
    model = save_toy_network(str(tmp_path / "model"), KINDS[kind])
    out = str(tmp_path / "page")
    pictures = load_data_set(data.uri)
    found = measure(model, pictures, Evaluate(count=10, steps=1, guidance=2.0), out)
    assert found["metrics"].keys() == {name for name, metric in METRICS.items() if kind in metric.of}
    seeds = {name: len(value["by_seed"]) for name, value in found["metrics"].items()}
    assert seeds.pop("size") == 1 and set(seeds.values()) == {3}
    assert found["metrics"]["size"]["mean"] == open_store(model).size(WEIGHTS)
    assert found["data"]["test"] == data.digests["test"] and open_store(out).exists("index.html")
    name = "psnr_1" if kind == "denoiser" else "validation_loss"
    low, mean, high = sorted(found["metrics"][name]["by_seed"])
    assert low < mean < high, "each seed has noise of its own"
    again = measure(model, pictures, Evaluate(count=10, steps=1, guidance=2.0), out)["metrics"]
    assert again[name] == found["metrics"][name], "and the same noise each time"


def test_models_of_other_pictures_are_measured_by_a_classifier_of_their_own(tmp_path: Path) -> None:
    """16 x 16 in colour, three classes: nothing that the classifier of digits could judge."""
    data = load_data_set(write_gratings(str(tmp_path / "data"), 90, 30, classes=3, side=16, channels=3))
    judge = str(tmp_path / "judge")
    worker = Worker(0, 1, torch.device("cpu"))
    train_classifier(data, open_store(judge), ClassifierRecipe(steps=20, batch=32), worker, lambda line: None)
    model = save_toy_network(str(tmp_path / "model"), network_config(size=16, channels=3, num_classes=3))
    options, out = Evaluate(count=9, steps=1), str(tmp_path / "page")
    found = measure(model, data, options, out, judge)
    assert found["metrics"].keys() == {name for name, metric in METRICS.items() if "label" in metric.of}
    assert found["classifier"]["uri"] == judge and 0 <= found["classifier"]["own_test_accuracy"] <= 1
    without = measure(model, data, options, out)
    assert without["classifier"] is None
    assert found["metrics"].keys() - without["metrics"].keys() == {n for n, metric in METRICS.items() if metric.judged}
