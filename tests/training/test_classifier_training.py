from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.evaluation.recognition import accuracy_on
from darkroom.evaluation.validation import as_tensor
from darkroom.models.catalog import EMBEDDED as CASCADES
from darkroom.models.classifier import EMBEDDED, Classifier, ClassifierNetwork, layers_for, mnist_classifier
from darkroom.storage import open_store
from darkroom.training.classifier_training import shifted, split, train_classifier
from darkroom.training.data import DataSet, Images, load_data_set, load_images, read_record, sample_uri
from darkroom.training.feeds import Worker
from darkroom.training.recipes.classifier import ClassifierRecipe
from darkroom.training.recipes.recipe import with_settings

HERE = Worker(0, 1, torch.device("cpu"))


def first(train: int, test: int) -> DataSet:
    data = load_data_set(sample_uri())
    cut = (
        Images(images.images[:n], images.labels[:n], images.digest)
        for images, n in ((data.train, train), (data.test, test))
    )
    return replace(data, **dict(zip(("train", "test"), cut, strict=True)))


def test_the_embedded_one_knows_the_digits() -> None:
    assert accuracy_on(mnist_classifier(), load_images(sample_uri(), "test")) >= 0.99


def test_it_says_what_it_is_and_is_small() -> None:
    judge = mnist_classifier()
    assert judge.test_accuracy >= 0.99 and judge.config["metrics"]["test_images"] == 10_000
    assert judge.shape == (28, 28, 1) and judge.classes == [*"0123456789"]
    assert judge.config["network"]["layers"] == layers_for(28, 28, 1), "what would be trained today"
    assert judge.config["parameters"] == sum(p.numel() for p in judge.load().parameters()) < 300_000
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 1_300_000


def test_logits_come_from_the_features_and_from_each_picture_alone() -> None:
    judge, digits = mnist_classifier(), as_tensor(load_images(sample_uri(), "test").images[:8])
    found = judge.features(digits)
    assert found.shape == (8, 128)
    torch.testing.assert_close(judge.load().head(found), judge.classify(digits))
    torch.testing.assert_close(judge.classify(digits[3:4]), judge.classify(digits)[3:4], rtol=1e-4, atol=1e-4)
    assert torch.equal(judge.classify(digits.float() / 255), judge.classify(digits))


@pytest.mark.parametrize(
    ("shape", "left"),
    [((28, 28, 1), 4), ((32, 32, 3), 4), ((8, 8, 1), 4), ((3, 3, 3), 3), ((256, 256, 3), 4), ((20, 64, 3), 3)],
)
def test_every_picture_is_halved_until_about_four_pixels_are_left(shape: tuple[int, int, int], left: int) -> None:
    network = ClassifierNetwork(shape[2], 5, layers_for(*shape)).eval()
    seen = network.body(torch.zeros(1, shape[2], *shape[:2]))
    assert (seen.shape[1], min(seen.shape[2:])) == (128, left)
    assert network(torch.zeros(1, shape[2], *shape[:2])).shape == (1, 5)


def test_training_again_gives_the_same_weights(tmp_path: Path) -> None:
    recipe, data = ClassifierRecipe(steps=10, batch=32), first(128, 40)
    lines: list[str] = []
    for name in ("one", "two"):
        accuracy = train_classifier(data, open_store(str(tmp_path / name)), recipe, HERE, lines.append)
    one, two = (Classifier.open(str(tmp_path / name)) for name in ("one", "two"))
    assert one.revision == two.revision != mnist_classifier().revision
    assert lines[:11] == lines[11:] and lines[0].startswith("step 1/10  loss ") and "held-out accuracy" in lines[0]
    assert two.test_accuracy == accuracy == accuracy_on(two, data.test)
    assert two.config["data"] == {"name": "mnist", "train": data.train.digest, "test": data.test.digest}
    assert two.config["recipe"] == recipe.record()


def test_each_class_is_held_out_from_alike_and_none_is_lost() -> None:
    labels = np.array([0] * 50 + [1] * 20 + [2])
    train, held_out = split(labels, 0.1, seed=3)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [5, 2, 0]
    assert sorted([*train, *held_out]) == list(range(71))
    assert split(labels, 0.0, seed=3)[1].size == 0
    assert np.bincount(labels[split(labels, 0.99, seed=3)[0]]).tolist() == [1, 1, 1]


def test_shifting_moves_the_whole_picture() -> None:
    dot = torch.zeros(64, 1, 28, 30)
    dot[:, :, 14, 14] = 1
    moved = shifted(dot, 2, np.random.default_rng(0))
    rows, columns = moved[:, 0].nonzero()[:, 1], moved[:, 0].nonzero()[:, 2]
    assert set(rows.tolist()) == set(columns.tolist()) == {12, 13, 14, 15, 16}
    assert moved.shape == dot.shape and moved.sum(dim=(1, 2, 3)).tolist() == [1.0] * 64
    bright = torch.ones(4, 3, 8, 8)
    assert torch.equal(shifted(bright, 2, np.random.default_rng(0)), bright), "no dark edge comes in"


def test_what_is_no_classifier_is_a_sentence(tmp_path: Path) -> None:
    def opened(**files: bytes) -> Classifier:
        store = open_store(str(tmp_path))
        for name, data in files.items():
            store.write(name.replace("_", "."), data)
        return Classifier.open(str(tmp_path))

    with pytest.raises(ValueError, match=r"no classifier in .*: it has no config.json; `darkroom train classifier"):
        opened()
    with pytest.raises(ValueError, match=r"holds a model of kind cascade, wanted a classifier"):
        Classifier.open(str(CASCADES["if-xs"]))
    with pytest.raises(ValueError, match=r"holds a model of kind unknown, wanted a classifier"):
        opened(config_json=b"{}")
    with pytest.raises(ValueError, match=r"does not describe a classifier: it lacks classes, image, metrics, name"):
        opened(config_json=b'{"kind": "classifier", "network": {}}')
    config = json.loads((EMBEDDED / "config.json").read_text())
    with pytest.raises(ValueError, match=r"has no file .*model.safetensors"):
        opened(config_json=json.dumps(config).encode()).load()
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        opened(model_safetensors=b"nothing of the kind").load()
    other = config | {"network": config["network"] | {"classes": 9}}
    whole = (EMBEDDED / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"does not fit the network of its config.json"):
        opened(config_json=json.dumps(other).encode(), model_safetensors=whole).load()


def test_what_cannot_be_learnt_is_a_sentence() -> None:
    record = read_record(sample_uri())
    ClassifierRecipe().check(record)
    with pytest.raises(ValueError, match="tells classes apart, wanted 2 or more; mnist has 1"):
        ClassifierRecipe().check({**record, "classes": ["cat"]})
    with pytest.raises(ValueError, match="splits train and test; mnist has no test"):
        ClassifierRecipe().check({**record, "splits": {"train": record["splits"]["train"]}})
    for setting, sentence in (
        ("held_out=1", "held_out must be at least 0 and below 1"),
        ("steps=1", "steps must be at"),
    ):
        with pytest.raises(ValueError, match=sentence):
            with_settings(ClassifierRecipe(), [setting])
