"""Rows to pictures in this process; tests/e2e/test_python.py holds them against a real job's, to the byte."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.batch import sample as module
from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.latents import Latents
from darkroom.sampling import run as walking
from runs import RED, png
from toys import SHORTAGES

EDIT = {"task": "image_to_image", "prompt": "a blue one", "start": 1, "steps": 3}


def arrays(pictures: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(picture) for picture in pictures]


def same(one: list[Image.Image], other: list[Image.Image]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(arrays(one), arrays(other), strict=True))


def test_pictures_come_in_the_order_of_the_rows_each_as_if_alone(toy_model: str) -> None:
    model = open_model(toy_model)
    rows = [RED | {"seed": 1, "size": 16}, RED | {"seed": 2}, RED | {"seed": 3, "steps": 4, "size": 16}]
    together = sample(model, rows, capacity=4)
    assert [picture.size for picture in together] == [(16, 16), (8, 8), (16, 16)]
    assert same(together, [sample(model, row, capacity=4)[0] for row in rows])
    assert same(together[1:2], sample(toy_model, rows[1], capacity=4))


def test_a_picture_may_be_a_path_pil_or_an_array(tmp_path: Path, toy_model: str) -> None:
    (tmp_path / "one.png").write_bytes(png(16))
    image = Image.open(tmp_path / "one.png")
    given = [str(tmp_path / "one.png"), tmp_path / "one.png", image, np.asarray(image)]
    pictures = sample(toy_model, [EDIT | {"image": one} for one in given], capacity=4)
    assert same(pictures, pictures[:1] * 4)
    assert not same(pictures[:1], sample(toy_model, EDIT | {"image": png_of(1)}, capacity=4))


def png_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_a_network_takes_labels_and_its_pictures_are_rgb(toy_network: str) -> None:
    (picture,) = sample(toy_network, {"task": "text_to_image", "label": 7, "steps": 2})
    assert picture.size == (28, 28) and picture.mode == "RGB"


def test_every_problem_at_once_before_anything_is_sampled(toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "walk_plans", lambda *_: pytest.fail("sampled"))
    with pytest.raises(ManifestError) as caught:
        sample(toy_model, [RED | {"size": 9}, RED, RED | {"best_of": 3}])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["row 1", "row 3"]
    with pytest.raises(ManifestError) as caught:
        sample(toy_model, [EDIT | {"image": "/nowhere/a.png"}, RED, EDIT | {"image": "/nowhere/b.png"}])
    assert caught.value.problems == [
        f"row {n}: there is no file /nowhere/{name}.png" for n, name in ((1, "a"), (3, "b"))
    ]
    with pytest.raises(ManifestError, match="no rows"):
        sample(toy_model, [])


def test_weights_and_embeddings_are_read_once_and_go_with_the_model(
    toy_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loads = open_model(toy_model), []
    for name in ("predictor", "text_encoder"):
        load = getattr(type(model), name)
        monkeypatch.setattr(
            type(model), name, lambda *a, load=load, name=name, **k: (loads.append(name), load(*a, **k))[1]
        )
    sample(model, RED)
    sample(model, [RED, RED | {"seed": 5}])
    assert sorted(loads) == ["predictor", "text_encoder"]
    before = len(module._KEPT)
    del model
    gc.collect()
    assert len(module._KEPT) == before - 1


def test_what_half_precision_cannot_hold_is_sampled_in_float32(toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `generate` does: at half the capacity."""
    walk, walked = walking.walk_plans, []

    def overflowing(predictor: Any, plans: list, capacity: int, shape: Any) -> list:
        walked.append((str(predictor.dtype), len(plans), capacity))
        found = walk(predictor, plans, capacity, shape)
        if predictor.dtype != torch.float32:
            with torch.inference_mode():
                found[1].image.fill_(torch.inf)
        return found

    monkeypatch.setattr(walking, "walk_plans", overflowing)
    rows = [RED | {"seed": seed} for seed in range(3)]
    assert len(sample(toy_model, rows, capacity=6, dtype="bfloat16")) == 3
    assert walked == [("torch.bfloat16", 3, 6), ("torch.float32", 1, 3)]


def test_values_that_are_no_numbers_are_an_error_that_names_the_row(
    toy_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = walking.walk_plans

    def broken(*given: Any) -> list:
        found = walk(*given)
        with torch.inference_mode():
            found[1].image.fill_(torch.nan)
        return found

    monkeypatch.setattr(walking, "walk_plans", broken)
    with pytest.raises(ModelError, match="row 2: stage 1 gave values that are not finite numbers"):
        sample(toy_model, [RED, RED | {"seed": 1}])


def test_a_picture_that_was_changed_is_read_anew(toy_model: str, tmp_path: Path) -> None:
    def painted(value: int) -> Image.Image:
        Image.new("RGB", (24, 24), (value,) * 3).save(tmp_path / "a.png")
        return sample(toy_model, EDIT | {"image": str(tmp_path / "a.png")}, capacity=2)

    black, white = painted(0), painted(255)
    assert same(painted(0), black) and not same(white, black)


def test_the_embeddings_that_stay_do_not_grow_with_the_prompts(toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * one_embedding(toy_model))
    model = open_model(toy_model)
    rows = [RED | {"prompt": f"{colour} {digit}"} for colour in ("red", "blue", "green") for digit in ("one", "two")]
    assert same(sample(model, rows, capacity=2), sample(toy_model, rows, capacity=2)), "all of a call's are there"
    kept = module._KEPT[model].embeddings
    assert len(kept) == 3 and sum(one.untyped_storage().nbytes() for one in kept.values()) == module.KEPT_BYTES


def one_embedding(model: str) -> int:
    positions, width = open_model(model).embedding_shape("text_encoder")
    return 4 * positions * width


def test_where_memory_ends_passes_are_halved(toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walk, tried = walking.walk_plans, []

    def short(predictor: Any, plans: list, capacity: int, shape: Any) -> list:
        tried.append(capacity)
        if capacity > 2:
            raise torch.OutOfMemoryError("no room")
        return walk(predictor, plans, capacity, shape)

    expected = sample(toy_model, RED, capacity=2)
    monkeypatch.setattr(walking, "walk_plans", short)
    assert same(sample(toy_model, RED, capacity=8), expected) and tried == [8, 4, 2]


@pytest.mark.parametrize("said", SHORTAGES[:2], ids=str)
def test_where_memory_ends_in_decoding_fewer_are_decoded_and_nothing_is_sampled_again(
    toy_sd: str, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    decode, walk, shapes, walked = Latents.decode, walking.walk_plans, [], []

    def short(latents: Latents, states: torch.Tensor) -> torch.Tensor:
        shapes.append(len(states))
        if len(states) > 2:
            raise said
        return decode(latents, states)

    monkeypatch.setattr(Latents, "decode", short)
    monkeypatch.setattr(walking, "walk_plans", lambda *asked: (walked.append(asked), walk(*asked))[1])
    pictures = sample(f"{toy_sd}/sd", [RED, RED | {"seed": 1}, RED | {"seed": 2}], capacity=4, dtype="bfloat16")
    assert (len(pictures), shapes, len(walked)) == (3, [4, 2, 2], 1)
