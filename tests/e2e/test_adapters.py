"""Rows with adapters, of several files and scales, and rows without, in one run on a small Stable Diffusion model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import darkroom
from darkroom.batch.generate import Options, run
from darkroom.batch.order import Order
from darkroom.manifest import ManifestError
from darkroom.models.adapters import adaptable_layers
from darkroom.models.errors import ModelError
from runs import pictures, results, write_manifest
from toy_sd import unet

TEXT = {"task": "text_to_image", "prompt": "a red one", "steps": 3, "seed": 1}
ROWS: list[dict[str, Any]] = [
    TEXT | {"id": "plain"},
    TEXT | {"id": "style", "adapters": [{"adapter": "style"}]},
    TEXT | {"id": "none of it", "adapters": [{"adapter": "style", "scale": 0}]},
    TEXT | {"id": "both", "adapters": [{"adapter": "style", "scale": 0.5}, {"adapter": "other", "scale": -1}]},
]


def save_adapter(file: Path, rank: int, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (into, out) in adaptable_layers(unet("sd")).items():
        if name.endswith(("to_q", "to_v", "to_out.0")):
            tensors[f"unet.{name}.lora.down.weight"] = torch.randn(rank, into, generator=generator)
            tensors[f"unet.{name}.lora.up.weight"] = torch.randn(out, rank, generator=generator)
    save_file(tensors, file)
    return file


def planned(options: Options) -> set[str]:
    """Keys of the rows that would be made."""
    return {json.loads(line)["key"] for part in Order.open(options).rows for line in part.lines}


def test_rows_of_one_run_have_other_adapters(tmp_path: Path, toy_sd: str, shared_ray: None) -> None:
    style, other = (save_adapter(tmp_path / f"{name}.safetensors", rank, rank) for name, rank in (("a", 2), ("b", 3)))
    model, manifest = f"{toy_sd}/sd", write_manifest(tmp_path, ROWS)
    options: dict[str, Any] = {"model": model, "capacity": 4, "unit_rows": 4}
    hung = (f"style={style}", f"other={other}")
    said: list[str] = []
    outcome = run(Options(manifest, str(tmp_path / "run"), adapter=hung, **options), said.append)
    assert (outcome.made, outcome.failed) == (4, 0)
    made, found = pictures(str(tmp_path / "run")), results(str(tmp_path / "run"))
    assert made["none of it"] == made["plain"] and len(set(made.values())) == 3
    assert found["plain"]["evaluations"] == 6
    run(Options(write_manifest(tmp_path, ROWS[:1], "plain.jsonl"), str(tmp_path / "base"), **options), said.append)
    assert pictures(str(tmp_path / "base")) == {"plain": made["plain"]}, "a run without adapters makes the same bytes"
    assert results(str(tmp_path / "base"))["plain"]["key"] == found["plain"]["key"]
    adapted = darkroom.open_model(model, adapters={"style": str(style), "other": str(other)})
    for row, image in zip(ROWS, darkroom.sample(adapted, ROWS, capacity=4), strict=True):
        assert np.array_equal(np.array(image), np.array(Image.open(io.BytesIO(made[row["id"]]))))
    # By another name it is the same picture, with another content another one.
    renamed = [row | {"adapters": [{"adapter": "s", "scale": 1}]} if row["id"] == "style" else row for row in ROWS[:3]]
    renamed[2] = renamed[2] | {"adapters": [{"adapter": "s", "scale": 0}]}
    for row in renamed:
        row.pop("id")
    keys = {row["key"] for row in found.values()}
    manifest = write_manifest(tmp_path, renamed, "renamed.jsonl")
    assert planned(Options(manifest, str(tmp_path / "other"), adapter=(f"s={style}",), **options)) < keys
    assert len(planned(Options(manifest, str(tmp_path / "other"), adapter=(f"s={other}",), **options)) & keys) == 1


def test_an_adapter_that_is_not_there_or_not_of_this_model_is_refused(tmp_path: Path, toy_sd: str) -> None:
    manifest = write_manifest(tmp_path, ROWS)
    style = save_adapter(tmp_path / "a.safetensors", 2, 1)
    with pytest.raises(ManifestError, match="the adapter 'other' is none that was given: give it with --adapter other"):
        planned(Options(manifest, str(tmp_path / "run"), model=f"{toy_sd}/sd", adapter=(f"style={style}",)))
    with pytest.raises(ModelError, match="the adapter 'style', .*: keys that are no low-rank addition to a layer"):
        save_file({"unet.nowhere.lora.down.weight": torch.zeros(2, 2)}, style)
        planned(Options(manifest, str(tmp_path / "run"), model=f"{toy_sd}/sd", adapter=(f"style={style}",)))
    with pytest.raises(ValueError, match="--adapter is 'style', wanted name=URI"):
        planned(Options(manifest, str(tmp_path / "run"), model=f"{toy_sd}/sd", adapter=("style",)))
