"""Every manifest that ships is checked against the model it is for, and its first rows are made."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.batch.generate import Options, run
from darkroom.batch.load_inputs import LoadOptions, load_unit
from darkroom.batch.row_state import Unit
from darkroom.batch.sample import sample
from darkroom.batch.sampler_worker import SamplerWorker
from darkroom.evaluation.scenes import see
from darkroom.manifest import Manifest, Task, open_manifest
from darkroom.models.cascade import Cascade
from darkroom.models.catalog import EMBEDDED, abilities, open_model
from darkroom.models.digit_scorer import DigitScorer
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.painted_ink import yellowness
from darkroom.report.page import write_report
from darkroom.runs.audit import audit
from darkroom.sampling.plans import condition_keys, goes_through
from darkroom.storage import join, open_store, read_uri

FOLDER = Path(__file__).parents[2] / "manifests"
MANIFESTS = sorted(path for suffix in ("yaml", "jsonl", "csv", "parquet") for path in FOLDER.glob(f"*.{suffix}"))
ROWS_MADE = 2  # more where there are more tasks: then one of each


CONTROLLED, STYLED = "control.yaml", "styles.yaml"
NETS, ADAPTERS = {"canny": "sd-xs-canny"}, {"yellowed": "sd-xs-yellowed"}
BESIDE: dict[str, Any] = {CONTROLLED: {"control": NETS}, STYLED: {"adapters": ADAPTERS}}  # of the model, by manifest


@pytest.fixture
def model_for(toy_network: str, toy_deepfloyd: str) -> Callable[[Path], str]:
    """The embedded model, but for what is asked by label, and what is for DeepFloyd IF or a model of latents."""
    others = {"mnist.yaml": toy_network, "course.yaml": toy_deepfloyd, "illusions.yaml": toy_deepfloyd}
    others |= dict.fromkeys(("latent.yaml", "guidance.yaml", *BESIDE), "sd-xs")
    return lambda path: others.get(path.name, "if-xs")


def test_there_are_manifests_and_a_model_to_test_them_on() -> None:
    assert FOLDER / "demo.yaml" in MANIFESTS
    assert all((folder / "config.json").is_file() for folder in EMBEDDED.values()), "an embedded model is not there"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_row_can_be_asked_of_its_model(path: Path, model_for: Callable[[Path], str]) -> None:
    model = open_model(model_for(path), **BESIDE.get(path.name, {}))
    manifest = open_manifest(str(path), abilities(model, scorer=True))
    sources = {join(manifest.base, source) for task in manifest.tasks() for source in task.sources()}
    for uri in sources:
        assert read_uri(uri), uri


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.name not in BESIDE], ids=lambda path: path.name)
def test_its_first_rows_are_made(path: Path, tmp_path: Path, model_for: Callable[[Path], str]) -> None:
    model = open_model(model_for(path))
    manifest = open_manifest(str(path), abilities(model, scorer=True))
    count = max(ROWS_MADE, len(manifest.by_task))
    rows = [task.canonical() for task in islice(_of_every_task(manifest), count)]
    for row in rows:
        row.pop("best_of", None)  # to choose is another stage of the pipeline
    lines = [json.dumps({"id": str(number), "key": str(number), "row": row}) for number, row in enumerate(rows)]
    open_store(str(tmp_path)).write("work/p/000000.jsonl", "\n".join(lines).encode())
    embeddings = _embedded(rows, model, tmp_path) if model.conditioning == "text" else None
    channels = model.stages[0].channels
    options = LoadOptions(str(tmp_path), "p", manifest.base, model.sizes, channels)
    made = load_unit(Unit(0, 0, 0, len(rows)), options)
    for stage in model.stages:
        if any(goes_through(row, stage, model.default_size) for row in rows):
            made = asyncio.run(SamplerWorker(model_for(path), stage.number, 16, 1, embeddings).process(made))
    assert len(made) == len(rows)
    for row, one in zip(rows, made, strict=True):
        size = row.get("size", model.default_size)
        assert one.failure is None
        assert one.picture.shape == (3 if model.stages[0].encodes else channels, size, size)
        assert one.picture.dtype == np.uint8 and one.picture.std() > 6, "a picture, not one colour"


def test_edges_are_followed_as_far_as_a_row_says() -> None:
    """By how far pictures are from that of the same words and noise without a network."""
    model = open_model("sd-xs", control=NETS)
    tasks = open_manifest(str(FOLDER / CONTROLLED), abilities(model)).tasks()
    rows = [task.canonical() for task in tasks if task.id.startswith("scale/")]
    for row in rows:
        row["control"] = [use | {"image": str(FOLDER / use["image"])} for use in row["control"]]
    free, *drawn = (np.asarray(picture, np.float32) for picture in sample(model, rows))
    apart = [float(np.abs(picture - free).mean()) for picture in drawn]
    assert len(apart) == 5 and apart[0] > 1 and apart == sorted(apart)


def test_paper_is_the_yellower_the_more_there_is_of_the_adapter() -> None:
    """And at scale 1 the digits are read as before."""
    model = open_model("sd-xs", adapters=ADAPTERS)
    tasks = list(open_manifest(str(FOLDER / STYLED), abilities(model)).tasks())
    scales = [task for task in tasks if task.id.startswith("curve/")]
    pictures = [as_tensor(sample(model, [task.canonical() for task in scales[at : at + 4]])) for at in range(0, 20, 4)]
    found = [yellowness(own).mean().item() for own in pictures]
    assert found == sorted(found) and found[0] < 0.05 and found[3] > 0.35
    assert see(pictures[3]).digits == see(pictures[0]).digits == [7] * 4


def test_every_solver_draws_the_digit() -> None:
    """As the judge of painted digits reads it."""
    tasks = open_manifest(str(FOLDER / "solvers.yaml"), abilities(open_model("if-xs"))).tasks()
    rows = [row for row in (task.canonical() for task in tasks) if row["steps"] == 10]
    assert len(rows) == 8
    pictures = sample("if-xs", rows)
    scores = DigitScorer(torch.device("cpu"))(as_tensor(pictures), [rows[0]["prompt"]])[:, 0].exp()
    assert scores.min() > 0.8, dict(zip([(row["sampler"], row["steps"]) for row in rows], scores.tolist(), strict=True))


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """float32 [N, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 127.5 - 1


def _of_every_task(manifest: Manifest) -> Iterator[Task]:
    """The rows as they stand, but of each task the first row first."""
    firsts = {task.task: task for task in reversed(list(manifest.tasks()))}
    yield from firsts.values()
    yield from (task for task in manifest.tasks() if task != firsts[task.task])


def _embedded(rows: list[dict[str, Any]], model: Cascade, folder: Path) -> EmbeddingStore:
    embeddings = EmbeddingStore(str(folder), model.encoder_key("text_encoder", "float32"))
    prompts = sorted({key for row in rows for key in condition_keys(row)})
    encoder = model.text_encoder("text_encoder", torch.device("cpu"), "float32")
    embeddings.put(prompts, encoder.encode(prompts))
    return embeddings


FIGURES = {"course.yaml": "toy_deepfloyd", "illusions.yaml": "toy_deepfloyd"}
SLOW = ("latent.yaml", "solvers.yaml", "guidance.yaml", *BESIDE)
LONG = [pytest.param(name, None, marks=pytest.mark.slow) for name in (*FIGURES, *SLOW)]


@pytest.mark.parametrize(("name", "limit"), [("course.yaml", 2), *LONG])
def test_every_figure_is_made_and_drawn(
    name: str, limit: int | None, tmp_path: Path, request: pytest.FixtureRequest, shared_ray: None
) -> None:
    """The whole job on DeepFloyd IF's make at 8 and 16 pixels, nine thousand evaluations for the course; and on a model
    of latents."""
    model = request.getfixturevalue(FIGURES[name]) if name in FIGURES else "sd-xs"
    uri, out, beside = str(FOLDER / name), str(tmp_path / "run"), BESIDE.get(name, {})
    ids = [task.id for task in open_manifest(uri, abilities(open_model(model, **beside))).tasks(limit)]
    given = {kind: tuple("=".join(item) for item in own.items()) for kind, own in beside.items()}
    adapter, control = (given.get(kind, ()) for kind in ("adapters", "control"))
    outcome = run(Options(uri, out, model, limit=limit, adapter=adapter, control=control), print)
    assert (outcome.rows, outcome.failed) == (len(ids), 0)
    assert audit(out).passed
    write_report(out)
    page = open_store(out).read("report/index.html").decode()
    figures = list(dict.fromkeys(row_id.split("/")[0] for row_id in ids))
    titles = [figure[:1].upper() + figure[1:] for figure in figures]
    assert re.findall("<h2>(.*)</h2>", page) == [*titles, "About this run"], "in the manifest's order"
