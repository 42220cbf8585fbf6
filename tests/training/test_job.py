"""What `darkroom train` makes of an --out in which something lies already, or where another trains; the workers' part
is played."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.storage import open_store
from darkroom.storage.lease import Held, hold, holder
from darkroom.training.data import load_images, sample_uri, write_dataset
from darkroom.training.job import TrainOptions, train
from darkroom.training.recipes.recipe import Recipe


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recipes that were trained; each leaves a model, and no checkpoints."""
    names: list[str] = []

    def finish(recipe: Recipe, data: str, out: str, *more: object) -> None:
        assert holder(open_store(out))
        open_store(out).write("config.json", b"{}")
        names.append(recipe.name)

    monkeypatch.setattr("darkroom.ray_cluster.connect", lambda *given: None)
    monkeypatch.setattr("darkroom.training.distributed.train_distributed", finish)
    return names


def run(out: Path, *settings: str, recipe: str = "classifier", data: str | None = None, **more: bool) -> list[str]:
    lines: list[str] = []
    train(TrainOptions(recipe, data or sample_uri(), str(out), settings, **more), lines.append)
    return lines


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_classifier_is_no_other_training(tmp_path: Path, trained: list[str], resume: bool) -> None:
    """It keeps no checkpoints: the recipe and the data are held against what was trained all the same."""
    images = load_images(sample_uri(), "train")
    other, out = str(tmp_path / "other"), tmp_path / "judge"
    splits = {"train": (images.images[:40], images.labels[:40]), "test": (images.images[:20], images.labels[:20])}
    write_dataset(other, splits, {"name": "few", "source": "sample", "classes": [str(digit) for digit in range(10)]})
    run(out)
    assert run(out, "keep_last=3", resume=resume) == [f"the training in {out} is finished already"]
    with pytest.raises(ValueError, match=r"another recipe \(steps was 2000, now 50\); choose another --out"):
        run(out, "steps=50", resume=resume)
    with pytest.raises(ValueError, match="another recipe .*name was classifier, now mnist-flow-class"):
        run(out, recipe="mnist-flow-class", resume=resume)
    with pytest.raises(ValueError, match=f"{other} is not the data that {out} was trained on"):
        run(out, data=other, resume=resume)
    assert trained == ["classifier"]


def test_two_do_not_train_into_one_folder(tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.training.job.LEASE_SECONDS", 2)
    store = open_store(str(tmp_path))
    with (
        hold(store, f"the training of mnist-ddpm into {tmp_path}", seconds=2),
        pytest.raises(Held, match=f"the training of mnist-ddpm into {tmp_path} is still running, by .*, process "),
    ):
        run(tmp_path)
    assert trained == [] and not store.exists("run.json")
    run(tmp_path)
    assert trained == ["classifier"] and holder(store) == ""
