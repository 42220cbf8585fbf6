"""Every manifest that ships is checked against the embedded model, and its first rows are made."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from darkroom.batch import parcel
from darkroom.batch.develop import Developer
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.generate import abilities
from darkroom.batch.prepare import Preparation, prepare
from darkroom.manifest import open_manifest
from darkroom.models.cascade import EMBEDDED, open_model
from darkroom.sampling.plans import condition_keys
from darkroom.storage import join, open_store, read_uri

FOLDER = Path(__file__).parents[2] / "manifests"
MANIFESTS = sorted(path for suffix in ("yaml", "jsonl", "csv", "parquet") for path in FOLDER.glob(f"*.{suffix}"))
ROWS_MADE = 6


def test_there_are_manifests_and_a_model_to_test_them_on() -> None:
    assert FOLDER / "demo.yaml" in MANIFESTS
    assert (EMBEDDED["if-xs"] / "config.json").is_file(), "the embedded model is not there"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_row_can_be_asked_of_the_embedded_model(path: Path) -> None:
    manifest = open_manifest(str(path), abilities(open_model("if-xs")))
    sources = {join(manifest.base, source) for task in manifest.tasks() for source in task.sources()}
    for uri in sources:
        assert read_uri(uri), uri


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_its_first_rows_are_made(path: Path, tmp_path: Path) -> None:
    model = open_model("if-xs")
    manifest = open_manifest(str(path), abilities(model))
    rows = [task.canonical() for task in islice(manifest.tasks(), ROWS_MADE)]
    lines = [json.dumps({"id": str(number), "key": str(number), "row": row}) for number, row in enumerate(rows)]
    open_store(str(tmp_path)).write("work/p/000000.jsonl", "\n".join(lines).encode())
    embeddings = EmbeddingStore(str(tmp_path), model.revision)
    prompts = sorted({key for row in rows for key in condition_keys(row)})
    embeddings.put(prompts, model.text_encoder(torch.device("cpu")).encode(prompts))
    made = prepare(0, Preparation(str(tmp_path), "p", manifest.base, model.sizes, 3))
    for stage in model.stages:
        made = asyncio.run(Developer("if-xs", stage.number, 16, 1, embeddings).develop(made))
    assert len(made) == len(rows)
    for row, one in zip(rows, made, strict=True):
        size = row.get("size", model.default_size)
        assert one["error"] == ""
        picture = parcel.unpack(one["picture"])["picture"]
        assert picture.shape == (3, size, size)
        assert picture.std() > 0.05, "a picture, not one colour"
