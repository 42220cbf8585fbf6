"""What a classifier is asked about, and what not: pictures of its shape with as many labels may show something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.evaluation.network import Sampling, evaluate_network
from darkroom.evaluation.recognition import accuracy_on, why_not_judged
from darkroom.models.classifier import Classifier, mnist_classifier
from darkroom.models.network import Network, build_network, save_network
from darkroom.report.evaluation import write_evaluation
from darkroom.sampling.processes import Flow
from darkroom.storage import open_store
from darkroom.training.classifier_training import train_classifier
from darkroom.training.data import DataSet, Images, load_data_set, sample_uri, write_dataset
from darkroom.training.feeds import Worker
from darkroom.training.recipes.classifier import ClassifierRecipe
from drawings import write_gratings

UNJUDGED = {"validation_loss", "nearest_training_picture", "seconds_per_sample"}


def other(data: DataSet, images: np.ndarray, labels: np.ndarray) -> DataSet:
    return replace(data, test=Images(images, labels, ""))


def tiny(folder: Path, side: int, channels: int, classes: int) -> Network:
    torch.manual_seed(0)
    network = {"architecture": "course-unet", "hidden": 4, "conditioning": "class", "num_classes": classes}
    network |= {"channels": channels, "size": side}
    about = {"name": "tiny", "kind": "network", "network": network, "process": Flow().to_config()}
    save_network(open_store(str(folder)), build_network(network).state_dict(), about)
    return Network.open(str(folder))


def trained(data: str, out: Path, steps: int = 60) -> Classifier:
    recipe = ClassifierRecipe(steps=steps, batch=64)
    worker = Worker(0, 1, torch.device("cpu"))
    train_classifier(load_data_set(data), open_store(str(out)), recipe, worker, lambda line: None)
    return Classifier.open(str(out))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """In MNIST's own layout, 28 x 28 grey with ten labels "0" to "9", as Fashion-MNIST is; but no digits."""
    return write_gratings(str(tmp_path_factory.mktemp("gratings")), 400, 100, classes=10, side=28, channels=1)


@pytest.fixture(scope="module")
def of_fashion(fashion: str, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return trained(fashion, tmp_path_factory.mktemp("classifier"), steps=120)


def test_digits_are_known_and_what_only_looks_like_their_data_set_is_not(fashion: str) -> None:
    digits, judge = load_data_set(sample_uri()), mnist_classifier()
    images, labels = digits.test.images[:500], digits.test.labels[:500]
    assert why_not_judged(judge, other(digits, images, labels)) == ""
    assert "is right about 0% of the test pictures of" in why_not_judged(
        judge, other(digits, images, (labels + 1) % 10)
    )
    transposed = other(digits, images.transpose(0, 2, 1, 3), labels)
    assert accuracy_on(judge, transposed.test) < 0.6
    assert "does not know these pictures" in why_not_judged(judge, transposed)
    problem = why_not_judged(judge, load_data_set(fashion))
    assert problem.startswith("the classifier 'mnist-classifier' does not know these pictures: it is right about 1")
    assert problem.endswith("% of the test pictures of gratings, and about 100% of its own")


def test_shapes_and_classes_that_do_not_fit_are_a_sentence(fashion: str) -> None:
    judge, data = mnist_classifier(), load_data_set(fashion)
    for change, sentence in (
        (
            {"image": {"height": 28, "width": 20, "channels": 3}},
            "pictures of 28 x 28 x 1, those of gratings are 28 x 20 x",
        ),
        ({"classes": [*map(str, range(11))]}, "knows 10 classes, gratings has 11"),
        ({"classes": ["0", "cat"]}, "class 1 of the classifier 'mnist-classifier' is '1', of gratings 'cat'"),
    ):
        assert sentence in why_not_judged(judge, replace(data, about=data.about | change))


def test_what_the_classifier_does_not_know_is_measured_without_it(fashion: str, tmp_path: Path) -> None:
    found = evaluate_network(tiny(tmp_path / "model", 28, 1, 10), fashion, Sampling(10, 1), say=lambda line: None)
    assert found.record["measures"].keys() == UNJUDGED and "classifier" not in found.record
    (note,) = found.record["notes"]
    assert note.startswith(
        "No class accuracy, Fréchet distance, precision nor recall: the classifier 'mnist-classifier'"
    )
    assert "`darkroom train classifier` trains one that does, which --classifier takes." in note
    said = write_evaluation(found, str(tmp_path / "out"))
    assert note in said and "class accuracy  " not in said.replace(note, "") and found.wrong == [False] * 10
    assert "does not know these pictures" in (tmp_path / "out" / "index.html").read_text()


def test_a_classifier_of_these_pictures_judges_them(fashion: str, of_fashion: Classifier, tmp_path: Path) -> None:
    assert of_fashion.test_accuracy >= 0.8, "of ten classes: chance is 0.1"
    network, sampling = tiny(tmp_path / "model", 28, 1, 10), Sampling(10, 1)
    found = evaluate_network(network, fashion, sampling, lambda line: None, of_fashion)
    assert found.record["measures"].keys() == UNJUDGED | {"class_accuracy", "frechet_distance", "precision", "recall"}
    judged = found.record["classifier"]
    assert judged["revision"] == of_fashion.revision and judged["uri"] == of_fashion.store.root
    assert judged["own_test_accuracy"] == judged["test_accuracy"] == of_fashion.test_accuracy
    assert found.record["measures"]["class_accuracy"]["of_test_pictures"] == of_fashion.test_accuracy
    assert found.record["notes"] == []
    write_evaluation(found, str(tmp_path / "out"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "in the 128 features of the classifier gratings-classifier" in page and of_fashion.revision in page


def test_a_classifier_that_does_not_know_the_data_is_refused(of_fashion: Classifier, tmp_path: Path) -> None:
    network = tiny(tmp_path / "model", 28, 1, 10)
    with pytest.raises(ValueError, match="'gratings-classifier' does not know these pictures: it is right about"):
        evaluate_network(network, sample_uri(), Sampling(4, 1), lambda line: None, of_fashion)
    colour = write_gratings(str(tmp_path / "colour"), 20, 20, classes=10, side=28, channels=3)
    with pytest.raises(ValueError, match="knows pictures of 28 x 28 x 1, those of gratings are 28 x 28 x 3"):
        evaluate_network(tiny(tmp_path / "two", 28, 3, 10), colour, Sampling(4, 1), lambda line: None, of_fashion)


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (8, 1), (40, 3)])
def test_pictures_of_any_shape_are_told_apart(tmp_path: Path, side: int, channels: int) -> None:
    data = write_gratings(str(tmp_path / "data"), 200, 60, classes=3, side=side, channels=channels)
    judge = trained(data, tmp_path / "classifier")
    assert judge.shape == (side, side, channels) and judge.classes == ["0", "1", "2"]
    assert judge.test_accuracy >= 0.8, "of three classes: chance is 0.33"
    assert accuracy_on(judge, load_data_set(data).test) == judge.test_accuracy


def test_pictures_that_are_cut_apart_are_noise_to_it(tmp_path: Path) -> None:
    """8 x 8 colour noise, which has nothing to be recognised: neither judged nor copied."""
    pictures = np.random.default_rng(0).integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    about = {"name": "noise", "source": "a test", "classes": [*"0123456789"]}
    write_dataset(str(tmp_path / "data"), {s: (pictures, np.arange(30) % 10) for s in ("train", "test")}, about)
    network = tiny(tmp_path / "model", 8, 3, 10)
    found = evaluate_network(network, str(tmp_path / "data"), Sampling(10, 1), lambda line: None)
    assert found.record["measures"].keys() == UNJUDGED
    assert "knows pictures of 28 x 28 x 1, those of noise are 8 x 8 x 3" in found.record["notes"][0]
    assert found.record["measures"]["nearest_training_picture"]["of_test_pictures"]["mean"] == 0
