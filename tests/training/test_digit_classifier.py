from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from darkroom.models.mnist_classifier import EMBEDDED, classify, features, load_classifier
from darkroom.storage import open_store
from darkroom.training import digit_classifier
from darkroom.training.data import Images, load_images, read_record, sample_uri
from darkroom.training.digit_classifier import to_digits, train_classifier
from darkroom.training.recipes.classifier import MnistClassifier


def first(split: str, count: int) -> Images:
    images = load_images(sample_uri(), split)
    return Images(images.images[:count], images.labels[:count], images.digest)


def test_the_embedded_one_knows_the_digits() -> None:
    sample = load_images(sample_uri(), "test")
    found = classify(to_digits(sample.images)).argmax(dim=1)
    assert (found == torch.from_numpy(sample.labels)).float().mean() >= 0.99


def test_it_says_what_it_is_and_is_small() -> None:
    config = json.loads((EMBEDDED / "config.json").read_text())
    assert config["metrics"]["test_accuracy"] >= 0.99 and config["metrics"]["test_images"] == 10_000
    assert config["recipe"]["seed"] == MnistClassifier().seed and len(config["data"]["train"]) == 64
    assert config["parameters"] == sum(p.numel() for p in load_classifier().parameters()) < 300_000
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 1_300_000


def test_logits_come_from_the_features_and_from_each_picture_alone() -> None:
    digits = to_digits(first("test", 8).images)
    found = features(digits)
    assert found.shape == (8, 128)
    torch.testing.assert_close(load_classifier().head(found), classify(digits))
    torch.testing.assert_close(classify(digits[3:4]), classify(digits)[3:4], rtol=1e-4, atol=1e-4)


def test_training_again_gives_the_same_weights(tmp_path: Path) -> None:
    recipe = MnistClassifier(epochs=2, batch=32)
    train, test = first("train", 128), first("test", 40)
    lines: list[str] = []
    for name in ("one", "two"):
        accuracy = train_classifier(train, test, open_store(str(tmp_path / name)), recipe, lines.append)
    one, two = (load_classifier(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert lines[:3] == lines[3:] and lines[0].startswith("epoch 1/2  loss ")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["metrics"]["test_accuracy"] == accuracy


def test_shifting_moves_the_whole_picture() -> None:
    dot = torch.zeros(64, 1, 28, 28)
    dot[:, :, 14, 14] = 1
    moved = digit_classifier._shifted(dot, 2, digit_classifier.np.random.default_rng(0))
    rows, columns = moved[:, 0].nonzero()[:, 1], moved[:, 0].nonzero()[:, 2]
    assert set(rows.tolist()) == set(columns.tolist()) == {12, 13, 14, 15, 16}
    assert moved.sum(dim=(1, 2, 3)).tolist() == [1.0] * 64


def test_what_cannot_be_loaded_or_learnt_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classifier in"):
        load_classifier(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_classifier(tmp_path)
    record = read_record(sample_uri())
    with pytest.raises(ValueError, match="takes grey 28 x 28 pictures"):
        MnistClassifier().check({**record, "image": {"height": 28, "width": 20, "channels": 1}})
