"""DeepFloyd IF in the hub's own layout, at toy size, through a real Ray: three stages, their text encoders, embeddings
brought along, marks, and what is refused."""

from __future__ import annotations

import gc
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from darkroom.batch.generate import Options, dry_run, run
from darkroom.batch.placement import DoesNotFit
from darkroom.batch.prompts import EmbedOptions, embed
from darkroom.models.errors import ModelError
from darkroom.ray_cluster.resources import Hardware
from darkroom.runs.audit import audit
from darkroom.storage import open_store
from runs import pictures, png, results, sampled, write_manifest

TEXT = {"task": "text_to_image", "prompt": "a high quality photo", "steps": 2}
UPPER = {"stage2": {"steps": 2}, "stage3": {"steps": 2, "guidance": 3.0}}
VIEWS = [{"view": "identity", "prompt": "an old man"}, {"view": "rotate_180", "prompt": "people around a campfire"}]
ROWS: list[dict[str, Any]] = [
    {**TEXT, "id": "small"},
    {**TEXT, "id": "large", "size": "stage3", **UPPER},
    {"id": "anagram", "task": "anagram", "views": VIEWS, "steps": 2, "size": "stage2", "stage2": {"steps": 2}},
    {**TEXT, "id": "upscale", "task": "upscale", "image": "in/one.png", "size": "stage3", **UPPER},
    {"id": "forward", "task": "forward", "image": "in/one.png", "timestep": 500},
    {**TEXT, "id": "long", "prompt": "a man " * 80},
]


def asked(folder: Path, model: str, rows: list[dict[str, Any]] = ROWS, **more: Any) -> Options:
    open_store(str(folder)).write("in/one.png", png(16))
    given = {"out": str(folder / "run"), "model": model, "capacity": 8, "unit_rows": 8, **more}
    return Options(manifest=write_manifest(folder, rows), **given)


def opened(uri: str) -> dict[str, np.ndarray]:
    return {name: np.array(Image.open(io.BytesIO(data))) for name, data in pictures(uri).items()}


def without_t5(model: str, folder: Path) -> str:
    """A copy of the model that has no weights of its T5."""
    shutil.copytree(model, folder)
    weights = list((folder / "stage1/text_encoder").glob("*.safetensors*"))
    assert weights
    for path in weights:
        path.unlink()
    return str(folder)


def test_three_stages(tmp_path: Path, toy_deepfloyd: str, shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = "bfloat16,float32,float32"
    options, said = asked(tmp_path, toy_deepfloyd, dtype=dtype), []
    outcome = run(options, said.append)
    assert (outcome.rows, outcome.failed) == (6, 0), [row["error"] for row in results(options.out).values()]
    found, made = results(options.out), opened(options.out)
    assert {name: array.shape[0] for name, array in made.items()} == {
        "small": 8, "large": 64, "anagram": 16, "upscale": 64, "forward": 8, "long": 8
    }  # fmt: skip
    first = {"stage": 1, "steps": 2, "guidance": 7, "noise_level": None, "dtype": "bfloat16", "capacity": 8}
    second = {"stage": 2, "steps": 2, "guidance": 4.0, "noise_level": 250, "dtype": "float32", "capacity": 8}
    third = {"stage": 3, "steps": 2, "guidance": 3.0, "noise_level": 20, "dtype": "float32", "capacity": 8}
    stages = {name: json.loads(row["stages"]) for name, row in found.items()}
    assert stages["large"] == [first, second, third] and stages["upscale"] == [second, third]
    assert (found["large"]["evaluations"], found["anagram"]["evaluations"], found["forward"]["evaluations"]) == (
        12,
        16,
        0,
    )
    assert {name for name, row in found.items() if "watermarked" in row["flags"]} == {"large", "upscale"}, "of 64 px"
    assert "prompt_truncated" in found["long"]["flags"] and "prompt_truncated" not in found["large"]["flags"]
    assert [line for line in said if "a man a man" in line and "77" in line], "and said once, by row"
    assert json.loads(open_store(options.out).read("run.json"))["watermark"] == "on"
    keys = {key.split("/")[1] for key in open_store(options.out).list("embeddings/")}
    assert len(keys) == 2, "T5's, and those of the upscaler's own encoder"
    assert audit(options.out).passed
    again = run(options, said.append)
    assert (again.made, again.done_before) == (0, 6)
    monkeypatch.chdir(tmp_path)
    assert sampled(toy_deepfloyd, ROWS, dtype) == pictures(options.out), "as one process makes them"


def test_prompts_that_were_brought_along_need_no_text_encoder(
    tmp_path: Path, toy_deepfloyd: str, shared_ray: None
) -> None:
    model, place = without_t5(toy_deepfloyd, tmp_path / "model"), str(tmp_path / "embeddings")
    torch.save({text: torch.randn(1, 77, 32) for text in ("a high quality photo", "")}, tmp_path / "prompts.pth")
    assert embed(EmbedOptions(place, model, imported=str(tmp_path / "prompts.pth")), pytest.fail) == 2
    options = asked(tmp_path, model, ROWS[:1], embeddings=place, watermark="off")
    said: list[str] = []
    assert run(options, said.append).made == 1
    assert "2 prompts for text_encoder, encoded before" in said
    assert results(options.out)["small"]["flags"] == [] and not list(open_store(options.out).list("embeddings/"))
    more = asked(tmp_path, model, [*ROWS[:1], ROWS[2]], embeddings=place, watermark="off")
    with pytest.raises(ModelError) as caught:
        run(more, said.append)
    text = str(caught.value)
    assert "2 prompts have no embedding by text_encoder" in text and "'an old man', 'people around a campfire'" in text
    assert "darkroom embed --import" in text and "the model has no file" in text


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket_with_prompts_encoded_before(
    tmp_path: Path, toy_deepfloyd: str, s3_env: str, shared_ray: None
) -> None:
    store, root = open_store(f"{s3_env}/model"), Path(toy_deepfloyd)
    for path in root.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(root).as_posix(), path.read_bytes())
    options = asked(tmp_path, f"{s3_env}/model", ROWS[1:2], out=f"{s3_env}/run", embeddings=f"{s3_env}/embeddings")
    asks = EmbedOptions(f"{s3_env}/embeddings", f"{s3_env}/model", manifest=options.manifest)
    assert embed(asks, lambda line: None) == 2
    said: list[str] = []
    assert run(options, said.append).made == 1
    assert [line for line in said if line.endswith("encoded before")] == [
        "2 prompts for text_encoder, encoded before",
        "2 prompts for stage3, encoded before",
    ]
    assert opened(options.out)["large"].shape == (64, 64, 3) and audit(options.out).passed


def test_weights_that_are_cut_short_are_the_users_part(tmp_path: Path, toy_deepfloyd: str, shared_ray: None) -> None:
    shutil.copytree(toy_deepfloyd, tmp_path / "model")
    torn = tmp_path / "model/stage1/unet/diffusion_pytorch_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1000])
    options = asked(tmp_path, str(tmp_path / "model"), ROWS[4:5], watermark="off", dtype="float32")
    gc.disable()  # which frees what lies in cycles, but at some time or other
    try:
        with pytest.raises(ModelError, match=f"{torn} is damaged") as caught:
            run(options, lambda line: None)
        assert "Traceback" not in str(caught.value) and "Ray" not in str(caught.value)
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ray.available_resources().get("CPU") == 2, "an actor of the failed job holds on to its processor"
    finally:
        gc.enable()


def test_a_dry_run_says_what_it_needs_and_starts_nothing(tmp_path: Path, toy_deepfloyd: str) -> None:
    work, estimated, needs = dry_run(asked(tmp_path, toy_deepfloyd, capacity=4))
    assert work.to_make == 6 and estimated.evaluations == {1: 4 + 4 + 8 + 4, 2: 4 + 8 + 4, 3: 4 + 4}
    lines = [line.split() for line in needs.splitlines()]
    assert [line[0] for line in lines[2:4]] == ["text_encoder", "stage3"] and not (tmp_path / "run").exists()
    assert [line[2:4] for line in lines[4:]] == [["bfloat16", "4"]] * 3


def test_what_does_not_fit_is_refused_with_numbers(
    tmp_path: Path, toy_deepfloyd: str, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "darkroom.ray_cluster.resources.read_hardware", lambda asked, say: Hardware(node=10**6, nodes=10**6)
    )
    with pytest.raises(DoesNotFit, match=r"stage 1 wants \d+ MB, the largest node has 1 MB"):
        run(asked(tmp_path, toy_deepfloyd, capacity=512), lambda line: None)


@pytest.mark.parametrize(
    ("asks", "complaint"),
    [
        ({"dtype": "float16,float16"}, "--dtype names 2, the model .* has 3 stages"),
        ({"dtype": "half"}, "--dtype names 'half'"),
        ({"watermark": "on", "model": "if-xs"}, "'if-xs' has no folder 'watermarker'"),
        ({"scorer": "clip"}, "no scorer 'clip'"),
        ({"model": "none"}, "no model 'none'"),
    ],
)
def test_what_is_wrong_is_said_before_ray_starts(
    tmp_path: Path, toy_deepfloyd: str, asks: dict[str, Any], complaint: str
) -> None:
    rows = [{"task": "text_to_image", "prompt": "a seven"}]
    said: list[str] = []
    with pytest.raises(ValueError, match=complaint):
        run(asked(tmp_path, rows=rows, **{"model": toy_deepfloyd, **asks}), said.append)
    assert not any("Ray" in line for line in said)
    assert not (tmp_path / "run").exists()
