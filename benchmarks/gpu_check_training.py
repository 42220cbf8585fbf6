"""The steps that train: a flow from ingest to a retraining tick, the other recipes, and the benchmarks' sections."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gpu_check_jobs import ROOT, Check, Failed, Found, run_job

SAMPLE = ROOT / "lib" / "darkroom" / "training" / "sample"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PIPELINE = """
name: gpu-check
out: tick
registry: registry
data: {{kind: idx, source: incoming}}
train: {{recipe: mnist-flow-class, settings: {settings}}}
evaluate: {{count: {count}, steps: 10}}
gate:
  validation_loss: {{at_most: 100}}
smoke: smoke.yaml
"""
SMOKE = """
matrix:
  - {id: "digit-{label}", task: text_to_image, label: [3, 7], steps: 5}
"""


def train(check: Check, found: Found, folder: Path) -> None:
    """mnist-flow-class from ingest to evaluation."""
    data = ingest(check, found, folder)
    full = check.mnist is not None and not (check.tiny or check.quick)
    settings = [] if full else check.pick(["epochs=3"], ["epochs=3"], ["hidden=8", "epochs=2"])
    ran = run_job("train", "mnist-flow-class", "--data", data, "--out", folder / "model", *as_settings(settings))
    found.add("settings", ", ".join(settings) or "all of the recipe's own")
    found.add("seconds of the training, all in all", ran.seconds, at_most=45 if full else None)
    add_epochs(found, folder / "model")
    count = check.pick("1000" if full else "200", "200", "20")
    steps = check.pick([], [], ["--steps", "5"])
    ran = run_job("evaluate", folder / "model", "--data", data, "--out", folder / "quality", "--count", count, *steps)
    found.add("seconds of the evaluation", ran.seconds)
    measures = json.loads((folder / "quality" / "evaluation.json").read_text())["measures"]
    found.add("class accuracy", measures["class_accuracy"]["mean"], at_least=0.99 if full else None)
    found.add("validation loss", measures["validation_loss"]["value"])


def retrain(check: Check, found: Found, folder: Path) -> None:
    """One tick of a small pipeline on the package's sample digits: train, measure, gate, promote, try out."""
    write_incoming(folder / "incoming", check.pick(2000, 2000, 200))
    # How fast a training is, and that it compiles, is the step `train`'s affair.
    settings = f'{{hidden: {check.pick(32, 32, 8)}, epochs: 1, compile: "off"}}'
    text = PIPELINE.format(settings=settings, count=check.pick(50, 50, 10))
    (folder / "pipeline.yaml").write_text(text)
    (folder / "smoke.yaml").write_text(SMOKE)
    ran = run_job("retrain", folder / "pipeline.yaml")
    found.add("seconds of the tick", ran.seconds)
    (record,) = (folder / "tick" / "ticks").glob("*.json")
    tick = json.loads(record.read_text())
    found.add("outcome", f"{tick['outcome']}{': ' if tick['reason'] else ''}{tick['reason']}")
    steps = {name: step["seconds"] for name, step in tick["steps"].items()}
    found.add("seconds of its steps", ", ".join(f"{name} {seconds:g}" for name, seconds in steps.items()))
    if tick["outcome"] != "promoted":
        raise Failed(f"the tick ended as {tick['outcome']}: {tick['reason']}")


def recipe(name: str, *settings: str) -> Any:
    """The step that trains that recipe with these settings, and keeps its report."""

    def step(check: Check, found: Found, folder: Path) -> None:
        data = synthetic(check, found, folder) if name.startswith("cifar10") else ingest(check, found, folder)
        told = [*settings, *check.pick([], [], small(name))]
        ran = run_job("train", name, "--data", data, "--out", folder / "model", *as_settings(told))
        found.add("settings", ", ".join(told) or "all of the recipe's own")
        found.add("seconds of the training, all in all", ran.seconds)
        add_epochs(found, folder / "model", at_most=3 if name.startswith("cifar10") and not check.tiny else None)
        if not (folder / "model" / "report" / "index.html").exists():
            raise Failed("the training left no report")
        found.add("report", str(folder / "model" / "report" / "index.html"))

    return step


def small(name: str) -> list[str]:
    """A report walks all of a DDPM's times."""
    ddpm = ["width=8", "num_timesteps=50"]
    shape = {"mnist-ddpm": ddpm, "cifar10-ddpm": [*ddpm, "multipliers=1,2", "batch=16"]}
    return ["epochs=1", *shape.get(name, ["hidden=8"])]


def benchmark(script: str, *arguments: str) -> Any:
    """The step that runs a benchmark with these arguments and keeps its figures."""

    def step(check: Check, found: Found, folder: Path) -> None:
        out = ["--out", str(folder / "model"), *(["--mnist", check.mnist] if check.mnist else [])]
        # Compiling takes a processor minutes, and shows nothing that the step `graphs` does not.
        more = ["--tiny"] * check.tiny
        if script == "train_gpu.py":
            more += out
        elif check.tiny:
            more += ["--modes", "off"] if script == "if_gpu.py" else _TINY_LATENTS
        command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments, *more]
        result = folder / "figures-of-its-own.json"
        done = subprocess.run([*command, "--json", str(result)], cwd=ROOT)
        if result.exists():
            add_leaves(found, json.loads(result.read_text()))
        if done.returncode:
            raise Failed(f"{script} ended with exit code {done.returncode}")

    return step


_TINY_LATENTS = ["--device", "cpu", "--dtype", "float32", "--compile", "off", "--rows", "8", "--capacity", "4"]


def add_leaves(found: Found, value: Any, name: str = "") -> None:
    """The figures of a benchmark that have names of their own; all of them are in its file."""
    if isinstance(value, dict):
        label = " ".join(
            str(value[key]) for key in ("model", "hidden", "setting", "batch", "capacity", "mode") if key in value
        )
        for key, one in value.items():
            add_leaves(
                found, one, f"{name} {label} {key}".strip() if isinstance(one, (int, float)) else f"{name} {key}"
            )
    elif isinstance(value, list):
        for one in value:
            add_leaves(found, one, name)
    elif isinstance(value, float) and name.endswith(KEPT) and value == value:
        found.add(" ".join(name.split()), value)


KEPT = (
    "rows_per_second",
    "of_A",
    "of_B",
    "adapters 1",
    "adapters 8",
    "decoding_added",
    "decoding_hidden",
    "images_per_second",
    "evaluations_per_second",
    "share",
    "epoch_seconds",
    "peak_gb",
    "accuracy",
    "minutes",
    "waits",
)


def ingest(check: Check, found: Found, folder: Path) -> Path:
    """The MNIST that the user has, ingested; else the package's sample of it, as it is."""
    if check.mnist is None:
        found.add("data", "the package's sample of 2,000 digits: no --mnist was given")
        return SAMPLE
    run_job("ingest", "mnist", check.mnist, "--out", folder / "data")
    found.add("data", "MNIST, 60,000 digits")
    return folder / "data"


def as_settings(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def add_epochs(found: Found, model: Path, at_most: float | None = None) -> None:
    """epochs.csv: the first epoch also compiles. at_most: seconds of a later one."""
    with (model / "epochs.csv").open() as file:
        epochs = list(csv.DictReader(file))
    later = epochs[1:] or epochs
    found.add("seconds of the first epoch", float(epochs[0]["seconds"]))
    found.add("seconds of a later epoch", float(np.median([float(row["seconds"]) for row in later])), at_most=at_most)
    found.add("images/s in a later epoch", float(np.median([float(row["images_per_second"]) for row in later])))
    found.add("last loss", float(epochs[-1]["loss"]))


def write_incoming(folder: Path, count: int) -> None:
    """The sample's digits as the four IDX files of a delivery."""
    from darkroom.training.data import load_images
    from darkroom.training.idx import write_idx

    folder.mkdir(parents=True)
    for split, names in FILES.items():
        images = load_images(str(SAMPLE), split)
        chosen = np.linspace(0, len(images.labels) - 1, min(count, len(images.labels))).astype(int)
        for name, array in zip(
            names, (images.images[chosen, ..., 0], images.labels[chosen].astype("uint8")), strict=True
        ):
            (folder / name).write_bytes(write_idx(np.ascontiguousarray(array)))


def synthetic(check: Check, found: Found, folder: Path) -> Path:
    """Discs of ten inks in CIFAR-10's binary layout, ingested: its pictures cannot be had without a network."""
    source, size, count = folder / "cifar-10-batches-bin", 32, check.pick(10_000, 10_000, 20)
    source.mkdir()
    down, right = np.mgrid[:size, :size]
    for number, name in enumerate([*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"]):
        random = np.random.default_rng(number)
        labels = random.integers(0, 10, count)
        middle, radius = random.uniform(8, 24, (2, count, 1, 1)), random.uniform(4, 12, (count, 1, 1))
        inside = (down - middle[0]) ** 2 + (right - middle[1]) ** 2 < radius**2
        inks = np.random.default_rng(10).integers(0, 256, (10, 3))[labels]
        grounds = random.integers(0, 256, (count, 3))
        planes = np.where(inside[:, None], inks[:, :, None, None], grounds[:, :, None, None]).astype(np.uint8)
        (source / name).write_bytes(np.hstack([labels[:, None].astype(np.uint8), planes.reshape(count, -1)]).tobytes())
    found.add("data", "synthetic discs in CIFAR-10's layout")
    run_job("ingest", "cifar10", source, "--out", folder / "data")
    return folder / "data"
