from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from darkroom.jobs import report as report_job
from PIL import Image
from torch import Tensor, nn

from darkroom.models.network import build_network, sampling_row, save_network
from darkroom.report import flows
from darkroom.report.denoiser import SIGMAS
from darkroom.report.samples import Painter, labels
from darkroom.report.trained import TrainingRun, one_of_each
from darkroom.report.training import write_training_report
from darkroom.runs.reading import NoRun
from darkroom.sampling import noise
from darkroom.storage import Store, open_store
from darkroom.training.checkpoints import Checkpoint, save_checkpoint
from darkroom.training.data import load_images, sample_uri, write_dataset
from darkroom.training.network_training import write_curves

COURSE = {"architecture": "course-unet", "channels": 1, "size": 28, "hidden": 2}
DDPM = {"architecture": "ddpm-unet", "channels": 1, "size": 28, "width": 4, "multipliers": [1, 2], "blocks": 1}
DIFFUSION = {"kind": "diffusion", "schedule": "linear", "num_timesteps": 6, "prediction": "epsilon", "clip": 1.0}
KINDS: dict[str, dict[str, Any]] = {
    "mnist-denoiser": {"network": COURSE, "process": None, "recipe": {"sigma": 0.5, "show": [1, 5]}},
    "mnist-denoiser-pure-noise": {
        "network": COURSE, "process": None, "recipe": {"sigma": 0.5, "pure_noise": True, "show": [1, 5]},
    },
    "mnist-flow-time": {"network": {**COURSE, "conditioning": "time"}, "process": {"kind": "flow"}, "recipe": {}},
    "mnist-flow-class": {
        "network": {**COURSE, "conditioning": "class", "num_classes": 10}, "process": {"kind": "flow"}, "recipe": {},
    },
    "mnist-ddpm": {"network": {**DDPM, "attention": [14], "num_classes": 10}, "process": DIFFUSION, "recipe": {}},
}  # fmt: skip
SECTIONS = {
    "mnist-denoiser": ["Loss", "Noising", "Denoised", "Out of distribution"],
    "mnist-denoiser-pure-noise": ["Loss", "Samples from pure noise"],
    "mnist-flow-time": ["Loss", "Samples", "From noise to picture"],
    "mnist-flow-class": ["Loss", "Samples", "Guidance", "From noise to picture"],
    "mnist-ddpm": ["Loss", "Samples", "DDPM against DDIM"],
}
DRAWN = {
    "mnist-denoiser": ["noising", "denoised", "out-of-distribution"],
    "mnist-denoiser-pure-noise": ["samples", "mean"],
    "mnist-flow-time": ["samples-epoch-1", "samples-epoch-5", "samples-epoch-10", "trajectories"],
    "mnist-flow-class": ["samples-epoch-1", "samples-epoch-5", "samples-epoch-10", "guidance", "trajectories"],
    "mnist-ddpm": ["samples", "ddpm", "ddim"],
}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 30 training and 20 test digits of each kind."""
    uri, splits = str(tmp_path_factory.mktemp("digits")), {}
    for split, each in (("train", 30), ("test", 20)):
        images = load_images(sample_uri(), split)
        places = one_of_each(images.labels, each)
        splits[split] = images.images[places], images.labels[places]
    write_dataset(uri, splits, {"name": "digits", "source": "the sample", "classes": [str(n) for n in range(10)]})
    return uri


@pytest.fixture(autouse=True)
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights need no accuracy."""
    monkeypatch.setattr(flows, "STEPS", 10)


def write_run(uri: str, kind: str, data: str, finished: bool = True, **process: Any) -> Store:
    """A training run of random weights, checkpoints of its epochs 1, 5 and the last kept."""
    about, store = KINDS[kind], open_store(uri)
    recipe = {"name": kind, "epochs": 10, "batch": 20, "show": [1, 5, 10]} | about["recipe"]
    last = max(recipe["show"])
    config = {
        "name": kind,
        "kind": "network",
        "network": about["network"],
        "process": about["process"] and {**about["process"], **process},
        "classes": [str(n) for n in range(10)],
        "training": {
            "recipe": recipe,
            "data": {"uri": data, "name": "digits", "train": load_images(data, "train").digest},
            "epochs": last, "steps": 15 * last, "images": 300,
        },
    }  # fmt: skip
    store.write("run.json", json.dumps({"kind": "training", "recipe": recipe, "workers": 3}).encode())
    for epoch in recipe["show"]:
        torch.manual_seed(epoch)
        weights = build_network(about["network"]).state_dict()
        checkpoint = Checkpoint(epoch, 15 * epoch, config, weights, None, {}, curves(epoch))
        save_checkpoint(store, checkpoint)
    write_curves(store, checkpoint, recipe["batch"])
    if finished:
        save_network(store, weights, config)
    return store


def curves(epochs: int) -> dict[str, Tensor]:
    steps = torch.arange(15 * epochs, dtype=torch.float64)
    validation = torch.tensor([math.nan, *(1 / epoch for epoch in range(2, epochs + 1))], dtype=torch.float64)
    seconds = torch.full((epochs,), 2.0, dtype=torch.float64)
    return {"losses": (-steps / 20).exp(), "rates": steps * 0 + 1e-2, "validation": validation, "seconds": seconds}


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.alts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        link = given.get("src") or given.get("href") or "#"
        if not link.startswith("#"):
            self.files.append(link)
        if tag == "img":
            self.alts.append(given["alt"] or "")


def read_page(store: Store) -> str:
    return store.read("report/index.html").decode()


def check_links(store: Store) -> None:
    """Every link leads to a file of the run, and every picture is a PNG with words for who cannot see it."""
    links = Links(read_page(store))
    assert links.files and all(links.alts)
    for link in links.files:
        key = link.removeprefix("../") if link.startswith("../") else f"report/{link}"
        data = store.read(key)
        if key.endswith(".png"):
            assert Image.open(io.BytesIO(data)).format == "PNG"


def table(page: str, section: str) -> list[list[str]]:
    """The words of a section's table, without its head."""
    (part,) = re.findall(rf'<section id="{section}">(.*?)</section>', page, re.S)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", part.split("<tbody>")[1], re.S)
    return [re.findall(r"<td>(.*?)</td>", cells) for cells in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_what_the_model_is(tmp_path: Path, digits: str, kind: str) -> None:
    store = write_run(str(tmp_path / "run"), kind, digits)
    said = write_training_report(str(tmp_path / "run"))
    assert said.endswith(f"the report is at {store.uri('report/index.html')}")
    page = read_page(store)
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS[kind]
    assert "Not shown" not in page
    check_links(store)
    pictures = {key for key in store.list("report/") if key.endswith(".png")}
    assert pictures == {f"report/{name}.png" for name in ("loss-steps", "loss-epochs", *DRAWN[kind])}
    assert f"<h1>{kind}</h1>" in page and "finished: " in page and "150 images per second" in page
    assert ("diffusion, 6 noise levels, schedule linear" in page) == (kind == "mnist-ddpm")
    assert all(f'href="../{name}"' in page for name in ("losses.parquet", "epochs.csv"))
    mean = (1 - math.exp(-15 / 20)) / (1 - math.exp(-1 / 20)) / 15
    assert table(page, "loss")[0] == ["1", "15", f"{mean:.5f}", "–", "2.0", "150"]


def test_a_run_in_storage(store_uri: str, digits: str) -> None:
    store = write_run(store_uri, "mnist-flow-class", digits)
    write_training_report(store_uri)
    check_links(store)
    before = read_page(store)
    write_training_report(store_uri)
    assert read_page(store) == before, "the same report each time"


def test_an_identity_leaves_the_noise_as_it_is(tmp_path: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PSNR of x + sigma eps is -20 log10 sigma."""
    monkeypatch.setattr(TrainingRun, "network", lambda run, epoch=None: nn.Identity())
    store = write_run(str(tmp_path / "run"), "mnist-denoiser", digits)
    write_training_report(str(tmp_path / "run"))
    rows = table(read_page(store), "out-of-distribution")
    assert [cells[0] for cells in rows] == [f"{sigma:g}" for sigma in SIGMAS]
    assert rows[0][1:] == ["no error", "no error", "–"]
    for sigma, (_, noisy, denoised, gain) in zip(SIGMAS[1:], rows[1:], strict=True):
        assert float(noisy) == pytest.approx(-20 * math.log10(sigma), abs=0.1)
        assert noisy == denoised and gain == "+0.00"
    measured = json.loads(store.read("report/figures.json"))["out-of-distribution"]["psnr"]
    assert measured[0] == {"sigma": 0.0, "noisy": None, "denoised": None}


class Answers(nn.Module):
    """The same picture whatever is asked."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = picture

    def forward(self, x: Tensor) -> Tensor:
        return self.picture.expand_as(x)


def test_the_mean_is_no_distance_from_the_mean(tmp_path: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = load_images(digits, "train").images.astype(np.float64).mean(axis=0)[None, ..., 0] / 255
    shown = load_images(digits, "test")
    apart = shown.images[one_of_each(shown.labels, 10), ..., 0] / 255 - mean
    monkeypatch.setattr(TrainingRun, "network", lambda run, epoch=None: Answers(torch.from_numpy(mean).float()))
    store = write_run(str(tmp_path / "run"), "mnist-denoiser-pure-noise", digits)
    write_training_report(str(tmp_path / "run"))
    *samples, digit = table(read_page(store), "pure-noise")
    assert [what for what, _ in samples] == [
        "mean of 100 samples, epoch 1", "mean of 100 samples, epoch 5",
        "one sample, on average, epoch 1", "one sample, on average, epoch 5",
    ]  # fmt: skip
    assert {far for _, far in samples} == {"0.0000"}
    assert float(digit[1]) == pytest.approx(np.sqrt((apart**2).mean(axis=(1, 2))).mean(), abs=1e-4)
    assert "smallest where f = E[x]" in read_page(store)


@pytest.mark.parametrize("kind", ["mnist-flow-class", "mnist-flow-time"])
def test_a_trajectory_leads_from_the_noise_to_the_sample(tmp_path: Path, digits: str, kind: str) -> None:
    write_run(str(tmp_path / "run"), kind, digits)
    painter = Painter(TrainingRun(str(tmp_path / "run")), 5)
    rows = [sampling_row(seed, label, 3.0, 10) for seed, label in enumerate(labels(painter.num_classes)[:3])]
    ways = torch.stack(flows.follow(painter, rows, every=2))
    assert ways.shape == (3, 6, 1, 28, 28)
    for seed, way in enumerate(ways):
        assert np.array_equal(way[0], noise.normal(seed, 1, noise.START, 0, (1, 28, 28)))
    assert torch.allclose((ways[:, -1] + 1) / 2, painter.pictures(rows), atol=1e-5)


def test_guidance_scales_share_their_noise(tmp_path: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        Painter, "pictures", lambda painter, rows: (asked.extend(rows), torch.zeros(len(rows), 1, 4, 4))[1]
    )
    write_run(str(tmp_path / "run"), "mnist-flow-class", digits)
    flows.guidance_sweep(TrainingRun(str(tmp_path / "run")))
    assert [(r["guidance"], r["label"], r["seed"]) for r in asked] == [
        (scale, label, label) for scale in flows.SWEEP for label in range(10)
    ]
    asked.clear()
    flows.by_epoch(TrainingRun(str(tmp_path / "run")))
    sheets = [asked[start : start + 40] for start in (0, 40, 80)]
    assert sheets[0] == sheets[1] == sheets[2], "every epoch from the same noise"
    assert [sum(r["label"] == label for r in sheets[0]) for label in range(10)] == [4] * 10
    assert len({r["seed"] for r in sheets[0]}) == 40


def test_ddpm_against_ddim_and_linear_against_cosine(tmp_path: Path, digits: str) -> None:
    linear, cosine = (str(tmp_path / schedule) for schedule in ("linear", "cosine"))
    write_run(linear, "mnist-ddpm", digits, num_timesteps=3)
    store = write_run(cosine, "mnist-ddpm", digits, schedule="cosine", num_timesteps=3)
    write_training_report(cosine, against=linear, samples=100)
    assert f"Not shown: {linear} has no report of its samples yet: `darkroom report {linear}`" in read_page(store)
    write_training_report(linear, samples=100)
    write_training_report(cosine, against=linear, samples=100)
    page = read_page(store)
    assert "The schedule is cosine, the network predicts epsilon." in page
    assert [cells[:3] for cells in table(page, "samplers")] == [
        ["DDPM, 3 steps", "100", "300"], ["DDIM, 3 steps", "100", "300"],
    ]  # fmt: skip
    distances = [cells[-1] for cells in table(page, "samplers")]
    assert all(float(distance) > 1 for distance in distances), "random weights are far from digits"
    compared = {name: values for name, *values in table(page, "comparison")}
    assert compared["schedule"] == ["cosine", "linear"]
    assert compared["Fréchet distance, DDPM, 3 steps"][0] == f"{distances[0]} of 100 pictures"
    check_links(store)


def test_few_pictures_have_no_frechet_distance(tmp_path: Path, digits: str) -> None:
    store = write_run(str(tmp_path / "run"), "mnist-ddpm", digits)
    write_training_report(str(tmp_path / "run"), samples=4)
    assert "No Fréchet distance: 4 pictures say nothing" in read_page(store)


def test_only_diffusions_are_compared(tmp_path: Path, digits: str) -> None:
    write_run(str(tmp_path / "run"), "mnist-flow-time", digits)
    with pytest.raises(ValueError, match="runs are compared by their diffusion samplers, and mnist-flow-time has none"):
        write_training_report(str(tmp_path / "run"), against=str(tmp_path / "run"))


def test_data_that_is_gone_is_said(tmp_path: Path, digits: str) -> None:
    for kind, missing in (("mnist-denoiser", 3), ("mnist-flow-time", 0)):
        store = write_run(str(tmp_path / kind), kind, digits)
        for key in ("config.json", "run.json"):
            store.write(key, store.read(key).replace(digits.encode(), b"/nowhere/digits"))
        write_training_report(str(tmp_path / kind))
        page = read_page(store)
        assert "The data set is gone: no data set in /nowhere/digits" in page
        assert page.count("Not shown: no data set in /nowhere/digits") == missing
        check_links(store)


def test_a_run_under_way_shows_what_it_has(tmp_path: Path, digits: str) -> None:
    store = write_run(str(tmp_path / "run"), "mnist-flow-time", digits, finished=False)
    store.delete("checkpoints/epoch-0005.safetensors", "checkpoints/epoch-0010.safetensors")
    write_training_report(str(tmp_path / "run"))
    assert "not finished: 10 epochs" in read_page(store)
    assert set(store.list("report/samples")) == {"report/samples-epoch-1.png"}
    store.delete("checkpoints/epoch-0001.safetensors", "losses.parquet", "epochs.csv")
    write_training_report(str(tmp_path / "run"))
    assert "No epoch is finished yet." in read_page(store)
    assert not [key for key in store.list("report/") if key.endswith(".png")], "pictures of an earlier report are gone"


def test_a_finished_model_without_checkpoints_is_shown(tmp_path: Path, digits: str) -> None:
    store = write_run(str(tmp_path / "run"), "mnist-flow-time", digits)
    store.delete(*store.list("checkpoints/"))
    write_training_report(str(tmp_path / "run"))
    assert "after None" not in read_page(store) and "when finished" in read_page(store)
    assert store.exists("report/samples-finished.png")


def test_the_job_tells_runs_apart(tmp_path: Path, digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(str(tmp_path / "run"), "mnist-denoiser", digits)
    report_job.main(str(tmp_path / "run"))
    assert "mnist-denoiser: 5 figures" in capsys.readouterr().out
    open_store(str(tmp_path / "other")).write("run.json", b'{"plan": "", "manifest": {}, "model": {}, "options": {}}')
    with pytest.raises(typer.Exit) as stopped:
        report_job.main(str(tmp_path / "other"), samples=3)
    assert stopped.value.exit_code == 2
    assert "--against and --samples are for training runs" in capsys.readouterr().err
    with pytest.raises(typer.Exit) as stopped:
        report_job.main(str(tmp_path / "run"), out=str(tmp_path / "page"))
    assert stopped.value.exit_code == 2
    assert "--out and --animate are for runs of generate" in capsys.readouterr().err
    with pytest.raises(NoRun):
        write_training_report(str(tmp_path / "nowhere"))
