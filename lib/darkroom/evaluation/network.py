"""Measures a trained network by its pictures: flows and diffusions by samples, denoisers by what they clean."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from darkroom.evaluation import denoising
from darkroom.evaluation.distances import measured
from darkroom.evaluation.recognition import accuracy_on, class_accuracy, misfit, recognised, why_not_judged
from darkroom.evaluation.sample_measures import feature_distances, nearest_training_picture
from darkroom.evaluation.validation import held_out_loss
from darkroom.models.classifier import Classifier, mnist_classifier
from darkroom.models.network import Network, NetworkPredictor, sample, sampling_row
from darkroom.sampling.stage import Stage
from darkroom.storage import to_uint8
from darkroom.training.data import DataSet, load_data_set, read_record

SEEDS = 3  # samples are drawn so often, for the intervals
COLUMNS, ROWS = 10, 10  # of the contact sheet
CAPACITY = {"cpu": 64, "cuda": 1000}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn. count: for each of `SEEDS` seeds, the first from `seed` on, the next from seed + count on.
    guidance: of networks that take a class."""

    count: int = 1000
    steps: int = 50
    guidance: float = 5.0
    sampler: str | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """record: all that was measured, JSON values. pictures: uint8 [N, C, S, S] for a contact sheet, as many in a row as
    `columns` has names; rows: the rows' names, or none; wrong: of each picture, whether the classifier sees not
    the class that was asked for."""

    record: dict[str, Any]
    pictures: Tensor
    columns: list[str]
    rows: list[str] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)


def evaluate_network(
    network: Network,
    data: str | DataSet,
    sampling: Sampling,
    say: Say = print,
    classifier: Classifier | None = None,
) -> Evaluation:
    """Measures the network against a data set, or the one at the uri `data`, on a GPU where there is one.

    classifier: whose classes and features pictures are judged by, refused where it does not know the data set's; by
    default that of MNIST's digits, and where that does not know them, a note says what is not measured. Raises
    ValueError for a model, a classifier and a data set that do not fit each other, or samples that are no finite
    numbers.
    """
    about = read_record(data) if isinstance(data, str) else data.about
    _check_fit(network, about, sampling)
    if classifier is not None and (problem := misfit(classifier, about)):
        raise ValueError(problem)
    pictures = load_data_set(data) if isinstance(data, str) else data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if network.config.get("process") is None:
        return _of_denoiser(network, pictures, device)
    problem = why_not_judged(classifier or mnist_classifier(), pictures)
    if classifier is not None and problem:
        raise ValueError(problem)
    judge = None if problem else classifier or mnist_classifier()
    evaluation = _of_generator(network, pictures, sampling, judge, device, say)
    if problem:
        evaluation.record["notes"].append(
            f"No class accuracy, Fréchet distance, precision nor recall: {problem}. `darkroom train classifier` "
            "trains one that does, which --classifier takes."
        )
    return evaluation


def _check_fit(network: Network, about: dict[str, Any], sampling: Sampling) -> None:
    config, image, classes = network.config["network"], about["image"], len(about["classes"])
    model = config.get("size"), config.get("size"), config.get("channels")
    given = image["height"], image["width"], image["channels"]
    if model != given:
        shapes = " and of ".join("{} x {} x {}".format(*shape) for shape in (model, given))
        raise ValueError(f"the pictures of the model {network.name!r} and of the data set differ in shape: {shapes}")
    if network.num_classes not in (None, classes):
        raise ValueError(f"the model {network.name!r} has {network.num_classes} classes, the data set has {classes}")
    if sampling.count < 4:
        raise ValueError(f"wanted at least 4 pictures for each seed, got {sampling.count}")


def _of_denoiser(network: Network, data: DataSet, device: torch.device) -> Evaluation:
    denoise = denoising.as_function(network, device)
    measures = denoising.decibels(denoise, data.test, SEEDS)
    pictures, labels, rows = denoising.cleaned(denoise, data.test)
    record = _record(network, data) | {"measures": measures}
    return Evaluation(record, pictures, [data.classes[label] for label in labels], rows, [False] * len(pictures))


def _of_generator(
    network: Network, data: DataSet, sampling: Sampling, judge: Classifier | None, device: torch.device, say: Say
) -> Evaluation:
    """judge: None where no classifier knows the pictures."""
    stage, predictor = network.stages[0], network.predictor(1, device)
    samples, seconds = _samples(network, predictor, sampling, say)
    asked = torch.arange(sampling.count) % (network.num_classes or 1)
    seen = [recognised(judge, pictures) for pictures in samples] if judge and network.num_classes else []
    measures: dict[str, Any] = {}
    record = _record(network, data) | {"sampling": _settings(network, stage, sampling, device), "measures": measures}
    if judge is not None:
        of_real = accuracy_on(judge, data.test)
        record["classifier"] = _of_classifier(judge, of_real)
        if seen:
            measures["class_accuracy"] = class_accuracy(seen, asked, data.classes, of_real)
        measures |= feature_distances(judge, samples, data.train, data.test)
    measures["validation_loss"] = held_out_loss(predictor, stage, data.test, SEEDS)
    measures["nearest_training_picture"] = nearest_training_picture(samples, data.train, data.test)
    measures["seconds_per_sample"] = measured(seconds)
    columns = data.classes[:COLUMNS] if network.num_classes else [""] * COLUMNS
    shown = _shown(sampling.count, network.num_classes or COLUMNS, len(columns))
    wrong = (seen[0] != asked)[shown].tolist() if seen else [False] * len(shown)
    return Evaluation(record, samples[0][shown], columns, [], wrong)


def _of_classifier(judge: Classifier, of_real: float) -> dict[str, Any]:
    """Who judged. own_test_accuracy: of its own test pictures; test_accuracy: of this data set's."""
    return {
        "uri": judge.store.root if judge is not mnist_classifier() else "embedded",
        "name": judge.name,
        "revision": judge.revision,
        "own_test_accuracy": judge.test_accuracy,
        "test_accuracy": of_real,
    }


def _record(network: Network, data: DataSet) -> dict[str, Any]:
    trained_on = network.config.get("training", {}).get("data", {}).get("train")
    notes = []
    if trained_on not in (None, data.train.digest):
        notes.append("The model was trained on other pictures than this data set's: their digests differ.")
    return {
        "kind": network.kind,
        "model": network.name,
        "model_revision": network.revision,
        "process": network.config.get("process"),
        "conditioning": network.conditioning,
        "data": {"uri": data.uri, "name": data.about["name"], "train": data.train.digest, "test": data.test.digest},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }


def _settings(network: Network, stage: Stage, sampling: Sampling, device: torch.device) -> dict[str, Any]:
    return {
        **asdict(sampling),
        "seeds": [sampling.seed + number * sampling.count for number in range(SEEDS)],
        "guidance": sampling.guidance if network.num_classes else None,
        "sampler": sampling.sampler or stage.process.default_sampler,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _samples(
    network: Network, predictor: NetworkPredictor, sampling: Sampling, say: Say
) -> tuple[list[Tensor], list[float]]:
    """For each seed: uint8 [N, C, S, S], what a file would hold, and the seconds that one picture took."""
    samples, seconds, classes = [], [], network.num_classes
    for seed in range(sampling.seed, sampling.seed + SEEDS * sampling.count, sampling.count):
        began = time.monotonic()
        rows = [
            sampling_row(
                seed + i, i % classes if classes else None, sampling.guidance, sampling.steps, sampling.sampler
            )
            for i in range(sampling.count)
        ]
        images = sample(predictor, network.stages[0], rows, CAPACITY[predictor.device.type])
        if not bool(images.isfinite().all()):
            raise ValueError(f"the samples of {network.name!r} are no finite numbers: its training ran away")
        samples.append(to_uint8(images))
        seconds.append((time.monotonic() - began) / sampling.count)
        say(f"{sampling.count:,} pictures from seed {seed:,}: {seconds[-1] * sampling.count:,.1f} seconds")
    return samples, seconds


def _shown(count: int, turn: int, columns: int) -> Tensor:
    """Which pictures the sheet shows: of each turn through the classes the first `columns`."""
    numbers = torch.arange(count)
    return numbers[numbers % turn < columns][: ROWS * columns]
