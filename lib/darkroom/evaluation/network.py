"""Measures a trained network by its pictures: flows and diffusions by samples, denoisers by what they clean."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from darkroom.evaluation import denoiser
from darkroom.evaluation import sample_measures as measures
from darkroom.evaluation.digit_judge import classifier_accuracy, why_not_judged
from darkroom.models.network import Network, NetworkPredictor, sample, sampling_row
from darkroom.sampling.plans import Stage
from darkroom.training.data import Images, load_images, read_record

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
    the digit that was asked for; made: of a generator all that was sampled, uint8 [N, C, S, S] for each seed."""

    record: dict[str, Any]
    pictures: Tensor
    columns: list[str]
    rows: list[str] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Data:
    uri: str
    about: dict[str, Any]
    train: Images
    test: Images

    @property
    def classes(self) -> list[str]:
        return self.about["classes"]


def evaluate_network(network: Network, data: str, how: Sampling, say: Say = print) -> Evaluation:
    """Measures the network against the data set at the uri `data`, on a GPU where there is one.

    Raises ValueError for a model and a data set that do not fit each other, or samples that are no finite numbers.
    """
    about = read_record(data)
    _check_fit(network, about, how)
    pictures = _Data(data, about, load_images(data, "train"), load_images(data, "test"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if network.config.get("process") is None:
        return _of_denoiser(network, pictures, device)
    return _of_generator(network, pictures, how, device, say)


def _check_fit(network: Network, about: dict[str, Any], how: Sampling) -> None:
    config, image, classes = network.config["network"], about["image"], len(about["classes"])
    model = config.get("size"), config.get("size"), config.get("channels")
    given = image["height"], image["width"], image["channels"]
    if model != given:
        shapes = " and of ".join("{} x {} x {}".format(*shape) for shape in (model, given))
        raise ValueError(f"the pictures of the model {network.name!r} and of the data set differ in shape: {shapes}")
    if network.num_classes not in (None, classes):
        raise ValueError(f"the model {network.name!r} has {network.num_classes} classes, the data set has {classes}")
    if how.count < 4:
        raise ValueError(f"wanted at least 4 pictures for each seed, got {how.count}")


def _of_denoiser(network: Network, data: _Data, device: torch.device) -> Evaluation:
    denoise = denoiser.as_function(network, device)
    found = denoiser.decibels(denoise, data.test)
    pictures, labels, rows = denoiser.cleaned(denoise, data.test)
    record = _record(network, data) | {"measures": found}
    return Evaluation(record, pictures, [data.classes[label] for label in labels], rows, [False] * len(pictures))


def _of_generator(network: Network, data: _Data, how: Sampling, device: torch.device, say: Say) -> Evaluation:
    stage, predictor = network.stages[0], network.predictor(1, device)
    made, seconds = _samples(network, predictor, how, say)
    why_not, record, found = why_not_judged(data.test), _record(network, data), {}
    asked, seen = torch.arange(how.count) % (network.num_classes or 1), []
    if why_not:
        record["notes"].append(f"No class accuracy, Fréchet distance, precision nor recall: {why_not}.")
    else:
        if network.num_classes:
            seen = [measures.recognised(pictures) for pictures in made]
            best = classifier_accuracy(data.test)
            found["class_accuracy"] = measures.accuracy(seen, asked, data.classes, best)
        found |= measures.distances(made, data.train, data.test)
    found["validation_loss"] = measures.held_out_loss(predictor, stage, data.test)
    found["nearest_training_picture"] = measures.nearest_training_picture(made[0], data.train, data.test)
    found["seconds_per_sample"] = measures.measured(seconds)
    record |= {"sampling": _settings(network, stage, how, device), "measures": found}
    columns = data.classes[:COLUMNS] if network.num_classes else [""] * COLUMNS
    shown = _shown(how.count, network.num_classes or COLUMNS, len(columns))
    wrong = (seen[0] != asked)[shown].tolist() if seen else [False] * len(shown)
    return Evaluation(record, made[0][shown], columns, [], wrong, made)


def _record(network: Network, data: _Data) -> dict[str, Any]:
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


def _settings(network: Network, stage: Stage, how: Sampling, device: torch.device) -> dict[str, Any]:
    return {
        **asdict(how),
        "seeds": [how.seed + number * how.count for number in range(SEEDS)],
        "guidance": how.guidance if network.num_classes else None,
        "sampler": how.sampler or stage.process.default_sampler,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _samples(
    network: Network, predictor: NetworkPredictor, how: Sampling, say: Say
) -> tuple[list[Tensor], list[float]]:
    """For each seed: uint8 [N, C, S, S], what a file would hold, and the seconds that one picture took."""
    made, seconds, classes = [], [], network.num_classes
    for seed in range(how.seed, how.seed + SEEDS * how.count, how.count):
        began = time.monotonic()
        rows = [
            sampling_row(seed + i, i % classes if classes else None, how.guidance, how.steps, how.sampler)
            for i in range(how.count)
        ]
        found = sample(predictor, network.stages[0], rows, CAPACITY[predictor.device.type])
        if not bool(found.isfinite().all()):
            raise ValueError(f"the samples of {network.name!r} are no finite numbers: its training ran away")
        made.append(((found.clamp(-1, 1) + 1) * 127.5).round().byte())
        seconds.append((time.monotonic() - began) / how.count)
        say(f"{how.count:,} pictures from seed {seed:,}: {seconds[-1] * how.count:,.1f} seconds")
    return made, seconds


def _shown(count: int, turn: int, columns: int) -> Tensor:
    """Which pictures the sheet shows: of each turn through the classes the first `columns`."""
    numbers = torch.arange(count)
    return numbers[numbers % turn < columns][: ROWS * columns]
