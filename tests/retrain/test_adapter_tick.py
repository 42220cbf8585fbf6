"""A nightly adapter: pictures with captions in, a gated and promoted version of it in the registry out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom.models.registry import RegisteredModel
from darkroom.retrain.pipeline_file import PipelineError
from darkroom.retrain.tick import run_tick
from small_world import World, train_here

FIRST = datetime(2026, 11, 21, 2, tzinfo=UTC)
SETTINGS = {"epochs": 2, "batch": 2, "rank": 2, "learning_rate": 0.02, "targets": "to_q,to_v"}


def arrive(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        pixels = generator.integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    lines = "".join(f"{number}.png,a thing of number {number}\n" for number in range(count))
    (folder / "metadata.csv").write_text(f"file_name,text\n{lines}")


def test_an_adapter_is_trained_gated_and_promoted(tmp_path: Path, toy_sd: str) -> None:
    world = World(str(tmp_path), tmp_path)
    arrive(tmp_path / "style", 3)
    train = {"recipe": "lora", "settings": SETTINGS | {"model": f"{toy_sd}/sd"}}
    own: dict[str, Any] = {"name": "style", "data": {"kind": "captions", "source": str(tmp_path / "style")}}
    pipeline = world.pipeline(**own, train=train)

    def night(number: int) -> Any:
        return run_tick(pipeline, FIRST + timedelta(days=number), lambda line: None, train=train_here)

    first = night(1)
    assert (first.outcome, first.data["reason"]) == ("promoted", "style@1")
    measured = first.steps["evaluate"]["metrics"]
    assert set(measured) == {"validation_loss", "size"} and measured["validation_loss"]["mean"] < 2
    assert night(2).data["reason"] == "no new data"
    arrive(tmp_path / "style", 4)
    second = night(3)
    assert second.outcome in ("promoted", "refused") and second.rounds[0]["champion"] == 1
    assert second.rounds[0]["measured"]["metrics"]["validation_loss"]["mean"] > 0, "held on the new data too"
    registered = RegisteredModel(f"{tmp_path}/registry", "style")
    folder = Path(registered.folder(1))
    assert (folder / "pytorch_lora_weights.safetensors").exists()
    adapters = {"style": f"registry://{tmp_path}/registry/style@1"}
    model = darkroom.open_model(f"{toy_sd}/sd", adapters=adapters)
    row = {"task": "text_to_image", "prompt": "a thing", "steps": 2, "adapters": [{"adapter": "style"}]}
    assert darkroom.sample(model, row)[0].size == (32, 32)
    assert (tmp_path / "out" / "index.html").exists()
    registered.discard(1, "test")
    assert registered.kept() == ([2] if second.outcome == "promoted" else [])
    assert not (folder / "pytorch_lora_weights.safetensors").exists()


def test_captions_are_for_adapters_and_an_adapter_has_no_class_accuracy(tmp_path: Path) -> None:
    world = World(str(tmp_path), tmp_path)
    with pytest.raises(PipelineError, match=r"data.kind: is captions, and mnist-flow-class learns from mnist, cifar10"):
        world.pipeline(data={"kind": "captions", "source": str(tmp_path)})
    with pytest.raises(PipelineError, match="data.kind: is idx, and lora learns from captions"):
        world.pipeline(train={"recipe": "lora"})
    own = {"data": {"kind": "captions", "source": str(tmp_path)}, "train": {"recipe": "lora"}}
    with pytest.raises(PipelineError, match="is not measured of lora; of it there are: validation_loss, size"):
        world.pipeline(**own, gate={"class_accuracy": {"at_least": 0.5}})
