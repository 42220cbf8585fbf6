from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from darkroom.jobs import evaluate as job
from PIL import Image
from torch import Tensor

from darkroom.evaluation import denoising, recognition
from darkroom.evaluation import network as network_module
from darkroom.evaluation.network import Evaluation, Sampling
from darkroom.evaluation.validation import as_tensor
from darkroom.models.classifier import mnist_classifier
from darkroom.models.network import Network, build_network, save_network
from darkroom.report.evaluation import WRONG, as_text, contact_sheet, measure_table, write_evaluation
from darkroom.sampling.processes import Diffusion, Flow
from darkroom.storage import open_store
from darkroom.training.data import Images, load_images, sample_uri, write_dataset

CLASSES = [str(digit) for digit in range(10)]
FEW = Sampling(count=20, steps=2)
GREY = {"channels": 1, "size": 28}
DENOISER = {"architecture": "course-unet", "hidden": 4, "conditioning": "none"} | GREY
CONDITIONAL = DENOISER | {"conditioning": "class", "num_classes": 10}
DDPM = {"architecture": "ddpm-unet", "width": 4, "multipliers": [1, 1], "blocks": 1, "attention": []} | GREY


def first(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    found = load_images(sample_uri(), split)
    return found.images[:count], found.labels[:count]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 training and 100 test digits."""
    uri = str(tmp_path_factory.mktemp("digits"))
    about = {"name": "digits", "source": "a test", "classes": CLASSES}
    write_dataset(uri, {"train": first("train", 200), "test": first("test", 100)}, about)
    return uri


def model(folder: Path, network: dict[str, Any], process: Diffusion | Flow | None, trained_on: str = "") -> Network:
    torch.manual_seed(0)
    about = {"name": "tiny", "kind": "network", "network": network, "classes": CLASSES}
    about |= {"process": process and process.to_config(), "training": {"data": {"train": trained_on or None}}}
    save_network(open_store(str(folder)), build_network(network).state_dict(), about)
    return Network.open(str(folder))


def paints(monkeypatch: pytest.MonkeyPatch, images: np.ndarray, labels: np.ndarray, off_by: int = 0) -> None:
    """Whatever the network, its samples are now these digits, or those that are off by so many."""
    each = [np.flatnonzero(labels == label) for label in range(10)]

    def known(predictor: object, stage: object, rows: list[dict[str, Any]], capacity: int) -> Tensor:
        chosen = [each[(row.get("label", row["seed"] % 10) + off_by) % 10] for row in rows]
        places = [of[row["seed"] // 10 % len(of)] for of, row in zip(chosen, rows, strict=True)]
        return torch.from_numpy(images[places]).permute(0, 3, 1, 2).float() / 127.5 - 1

    monkeypatch.setattr(network_module, "sample", known)


def evaluated(network: Network, data: str, how: Sampling = FEW) -> Evaluation:
    return network_module.evaluate_network(network, data, how, say=lambda line: None)


def test_who_paints_training_digits_is_right_and_found_out(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paints(monkeypatch, *first("train", 200))
    found = evaluated(model(tmp_path, CONDITIONAL, Flow()), digits)
    measures = found.record["measures"]
    assert measures["class_accuracy"]["mean"] >= 0.95
    assert measures["class_accuracy"]["of_test_pictures"] >= 0.98
    near = measures["nearest_training_picture"]
    assert near["mean"] == near["minimum"] == 0.0 < near["of_test_pictures"]["minimum"]
    assert (near["pictures"], near["training"]) == (20, 200)
    assert measures["precision"]["mean"] > 0.5
    frechet = measures["frechet_distance"]
    assert 0 < frechet["mean"] < 10 and (frechet["generated"], frechet["real"], frechet["training"]) == (20, 100, 20)
    assert frechet["interval"] == [min(frechet["by_seed"]), max(frechet["by_seed"])]
    assert found.record["sampling"]["seeds"] == [0, 20, 40]


def test_who_paints_the_next_digit_is_never_right(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paints(monkeypatch, *first("train", 200), off_by=1)
    found = evaluated(model(tmp_path, CONDITIONAL, Flow()), digits)
    accuracy = found.record["measures"]["class_accuracy"]
    assert accuracy["mean"] <= 0.02 and set(accuracy["per_class"]) == set(CLASSES)
    assert sum(found.wrong) >= 19 and len(found.wrong) == 20 and found.columns == CLASSES


def test_the_worst_digit_is_named_and_a_blank_picture_is_no_one() -> None:
    asked = torch.arange(20) % 10
    seen = [asked.clone() for _ in range(3)]
    seen[1][3] = recognition.NOTHING
    found = recognition.class_accuracy(seen, asked, CLASSES, 0.99)
    assert found["worst"] == "3" and found["per_class"]["3"] == pytest.approx(5 / 6)
    assert found["mean"] == pytest.approx(59 / 60) and found["interval"] == pytest.approx([0.95, 1.0])
    assert recognition.recognised(mnist_classifier(), torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).tolist() == [-1]
    images, labels = first("test", 50)
    assert (recognition.recognised(mnist_classifier(), as_tensor(images)).numpy() == labels).mean() >= 0.96


def test_a_real_network_is_sampled_and_written_down(digits: str, store_uri: str, tmp_path: Path) -> None:
    network = model(tmp_path / "model", CONDITIONAL, Flow(), trained_on="other pictures")
    found = evaluated(network, digits)
    said = write_evaluation(found, store_uri)
    store = open_store(store_uri)
    assert set(store.list()) == {"evaluation.json", "index.html", "samples.png"}
    record = json.loads(store.read("evaluation.json"))
    assert (record["model"], record["model_revision"], record["kind"]) == ("tiny", network.revision, "network")
    assert record["measures"]["validation_loss"]["prediction"] == "velocity"
    assert record["measures"]["seconds_per_sample"]["mean"] > 0
    assert record["notes"] == ["The model was trained on other pictures than this data set's: their digests differ."]
    page = store.read("index.html").decode()
    for line in ("class accuracy", "Fréchet distance", "recall", "loss, velocity", "worst: ", "their digests"):
        assert line in page and line in said
    again = evaluated(network, digits)
    assert torch.equal(again.pictures, found.pictures)
    again.record["measures"].pop("seconds_per_sample"), found.record["measures"].pop("seconds_per_sample")
    assert again.record["measures"] == found.record["measures"]


def test_without_classes_there_is_no_accuracy_but_the_rest(digits: str, tmp_path: Path) -> None:
    found = evaluated(model(tmp_path, DDPM, Diffusion.linear(clip=1.0)), digits, Sampling(10, 2, sampler="ddim"))
    assert "class_accuracy" not in found.record["measures"] and "frechet_distance" in found.record["measures"]
    assert found.record["measures"]["validation_loss"]["prediction"] == "epsilon"
    assert found.record["sampling"]["guidance"] is None and found.record["sampling"]["sampler"] == "ddim"
    assert found.wrong == [False] * 10 and "class accuracy" not in as_text(found.record)


@pytest.mark.parametrize(
    ("network", "how", "sentence"),
    [
        (CONDITIONAL | {"channels": 3}, FEW, "and of the data set differ in shape: 28 x 28 x 3 and of 28 x 28 x 1"),
        (CONDITIONAL | {"num_classes": 9}, FEW, "'tiny' has 9 classes, the data set has 10"),
        (CONDITIONAL, Sampling(count=3), "wanted at least 4 pictures for each seed, got 3"),
        (CONDITIONAL, Sampling(count=4, sampler="ddim"), "ddim"),
        (CONDITIONAL, Sampling(count=4, guidance=float("nan")), "no finite numbers: its training ran away"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_a_sentence(
    digits: str, tmp_path: Path, network: dict[str, Any], how: Sampling, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluated(model(tmp_path, network, Flow()), digits, how)


def test_decibels_of_denoisers_whose_answer_is_known() -> None:
    test = Images(*first("test", 100), "")
    idle = denoising.decibels(lambda noisy: noisy, test)["psnr"]
    assert [line["sigma"] for line in idle] == [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
    assert idle[0]["noisy"] is idle[0]["denoised"] is None
    for line in idle[1:]:
        assert line["noisy"] == line["denoised"] == pytest.approx(-20 * np.log10(line["sigma"]), abs=0.1)
    clean = as_tensor(test.images).float() / 255
    assert all(line["denoised"] is None for line in denoising.decibels(lambda noisy: clean, test)["psnr"])


def test_a_denoiser_is_measured_by_sigma(digits: str, tmp_path: Path) -> None:
    found = evaluated(model(tmp_path / "model", DENOISER, None), digits)
    table = measure_table(found.record)
    assert [row[0] for row in table.rows] == ["0", "0.2", "0.4", "0.5", "0.6", "0.8", "1"]
    assert table.rows[0][1] == "no error" and float(table.rows[3][1]) == pytest.approx(6.02, abs=0.1)
    assert len(found.rows) == 14 and found.pictures.shape == (140, 1, 28, 28)
    assert "1  " in write_evaluation(found, str(tmp_path / "out")).splitlines()[-1]
    assert "none: it cleans pictures" in (tmp_path / "out" / "index.html").read_text()


def test_what_is_wrong_has_a_frame(tmp_path: Path) -> None:
    found = Evaluation({}, torch.zeros(4, 1, 28, 28, dtype=torch.uint8), ["a", "b"], [], [False, True, True, False])
    (tmp_path / "sheet.png").write_bytes(contact_sheet(found))
    image = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    red = (image == [int(WRONG[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2)
    near, far = slice(40), slice(-40, None)  # corners, which belong to one picture each, below the columns' names
    assert [bool(red[60:][y, x].any()) for y in (near, far) for x in (near, far)] == [False, True, True, False]


def test_the_command_wants_data_for_a_network_and_measures_it(
    digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, out = model(tmp_path / "model", CONDITIONAL, Flow()).store.root, str(tmp_path / "out")
    with pytest.raises(typer.Exit) as ended:
        job.main(network, out=out)
    assert ended.value.exit_code == 2 and "model is a network: --data wants the data set" in capsys.readouterr().err
    for given, said in (
        ({"spacing": "trailing"}, "--spacing is for a cascade, and"),
        ({"stride": 50}, "--stride is for a cascade, and"),
    ):
        with pytest.raises(typer.Exit) as ended:
            job.main(network, out=out, data=digits, count=10, steps=1, **given)
        assert ended.value.exit_code == 2 and said in capsys.readouterr().err
    job.main(network, out=out, data=digits, count=10, steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("10 pictures from seed 0: ") and lines[-1] == f"index.html lies in {out}"
    assert [line for line in lines if line.startswith("class accuracy ")]
