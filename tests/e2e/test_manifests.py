"""Every manifest that ships is checked against the model it is for, and its first rows are made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.batch import parcel
from darkroom.batch.develop import Developer
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.generate import abilities
from darkroom.batch.prepare import Preparation, prepare
from darkroom.manifest import Manifest, Task, open_manifest
from darkroom.models.cascade import Cascade
from darkroom.models.catalog import EMBEDDED, open_model
from darkroom.sampling.plans import condition_keys
from darkroom.storage import join, open_store, read_uri

FOLDER = Path(__file__).parents[2] / "manifests"
MANIFESTS = sorted(path for suffix in ("yaml", "jsonl", "csv", "parquet") for path in FOLDER.glob(f"*.{suffix}"))
ROWS_MADE = 6


@pytest.fixture
def model_for(toy_network: str) -> Callable[[Path], str]:
    """The embedded model, but for what is asked by label."""
    return lambda path: toy_network if path.name == "mnist.yaml" else "if-xs"


def test_there_are_manifests_and_a_model_to_test_them_on() -> None:
    assert FOLDER / "demo.yaml" in MANIFESTS
    assert (EMBEDDED["if-xs"] / "config.json").is_file(), "the embedded model is not there"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_row_can_be_asked_of_its_model(path: Path, model_for: Callable[[Path], str]) -> None:
    manifest = open_manifest(str(path), abilities(open_model(model_for(path))))
    sources = {join(manifest.base, source) for task in manifest.tasks() for source in task.sources()}
    for uri in sources:
        assert read_uri(uri), uri


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_its_first_rows_are_made(path: Path, tmp_path: Path, model_for: Callable[[Path], str]) -> None:
    model = open_model(model_for(path))
    manifest = open_manifest(str(path), abilities(model))
    rows = [task.canonical() for task in islice(_of_every_task(manifest), ROWS_MADE)]
    lines = [json.dumps({"id": str(number), "key": str(number), "row": row}) for number, row in enumerate(rows)]
    open_store(str(tmp_path)).write("work/p/000000.jsonl", "\n".join(lines).encode())
    embeddings = _embedded(rows, model, tmp_path) if model.conditioning == "text" else None
    channels = model.stages[0].channels
    made = prepare(0, Preparation(str(tmp_path), "p", manifest.base, model.sizes, channels))
    for stage in model.stages:
        made = asyncio.run(Developer(model_for(path), stage.number, 16, 1, embeddings).develop(made))
    assert len(made) == len(rows)
    for row, one in zip(rows, made, strict=True):
        size = row.get("size", model.default_size)
        assert one["error"] == ""
        picture = parcel.unpack(one["picture"])["picture"]
        assert picture.shape == (channels, size, size)
        assert picture.std() > 0.05, "a picture, not one colour"


def _of_every_task(manifest: Manifest) -> Iterator[Task]:
    """The rows as they stand, but of each task the first row first."""
    firsts = {task.task: task for task in reversed(list(manifest.tasks()))}
    yield from firsts.values()
    yield from (task for task in manifest.tasks() if task != firsts[task.task])


def _embedded(rows: list[dict[str, Any]], model: Cascade, folder: Path) -> EmbeddingStore:
    embeddings = EmbeddingStore(str(folder), model.revision)
    prompts = sorted({key for row in rows for key in condition_keys(row)})
    embeddings.put(prompts, model.text_encoder(torch.device("cpu")).encode(prompts))
    return embeddings
