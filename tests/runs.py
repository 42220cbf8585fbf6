"""Manifests and runs for tests: writing small ones, and reading back what a job left."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import darkroom
from darkroom.runs import SCHEMA, Ledger, Writer, stage, to_table
from darkroom.storage import LocalStore, Store, encode_png, image_key_of, open_store

RED = {"task": "text_to_image", "prompt": "a red one", "steps": 2}


def write_manifest(folder: Path, rows: list[dict[str, Any]], name: str = "jobs.jsonl") -> str:
    """The rows as JSONL; its uri."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def png(size: int, seed: int = 0, mode: str = "RGB") -> bytes:
    """A square picture of noise, as a PNG file; with mode "L" a mask whose left half is white."""
    array = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    if mode == "L":
        array = np.zeros((size, size), dtype=np.uint8)
        array[:, : size // 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def result(line: dict[str, Any], status: str = "ok", **more: Any) -> dict[str, Any]:
    """A result row for a line of work (id, key, row) that has no picture."""
    blank = {name: "" if SCHEMA.field(name).type == "string" else None for name in SCHEMA.names}
    own = {"id": line["id"], "key": line["key"], "task": line["row"]["task"], "status": status}
    return {**blank, **own, "prompts": [], "flags": [], "created_at": datetime.now(UTC), **more}


def next_owner(store: Store) -> Writer:
    """The run's writer, opened, as the next owner after all that were."""
    writer = Writer(store, Ledger(store).read().position[0] + 1)
    writer.open()
    return writer


def commit(store: Store, unit: str, table: pa.Table) -> None:
    """Commits rows to a run, as an owner that does nothing else."""
    next_owner(store).commit([stage(store, unit, table)])


def with_pictures_inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Callable[[], float]]:
    """A run whose 600 rows, r0 and so on, hold their pictures, png(32, number), in one shard that counts as large; and
    what share of that was read since."""
    store, row = LocalStore(str(folder)), {"task": "text_to_image"}
    record = {"plan": "p", "manifest": {"uri": "jobs.jsonl"}, "model": {"name": "if-xs"}, "options": {}}
    store.write("run.json", json.dumps(record).encode())
    lines = [{"id": f"r{number}", "key": f"{number:032x}", "row": row} for number in range(600)]
    inside = [{"bytes": png(32, number), "path": "x.png"} for number in range(600)]
    rows = [result(line, image=image, parameters=json.dumps(row)) for line, image in zip(lines, inside, strict=True)]
    commit(store, "u", to_table(rows))
    (shard,) = Ledger(store).read().shards.values()
    real, read = LocalStore.read_part, list[int]()

    def counted(self: LocalStore, key: str, start: int, count: int) -> bytes:
        read.append(count)
        return real(self, key, start, count)

    monkeypatch.setattr("darkroom.runs.ledger._LARGE", 0)
    monkeypatch.setattr(LocalStore, "read_part", counted)
    return store, lambda: sum(read) / shard.bytes


def results(uri: str) -> dict[str, dict[str, Any]]:
    """The rows that count, by id; an id that is there twice fails."""
    ledger = Ledger(open_store(uri))
    rows = [row for shard in ledger.read().shards.values() for row in ledger.table(shard).to_pylist()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), f"ids twice: {sorted(row['id'] for row in rows)}"
    return found


def pictures(uri: str) -> dict[str, bytes]:
    """The PNG bytes of every good row, by id."""
    store = open_store(uri)
    return {
        row_id: store.read(image_key_of(row["image_uri"]))
        for row_id, row in results(uri).items()
        if row["status"] == "ok"
    }


def sampled(model: str, rows: list[dict[str, Any]], dtype: str | None = None) -> dict[str, bytes]:
    """PNGs by id of what one process makes of the rows, as a job writes them."""
    images = darkroom.sample(model, rows, capacity=8, dtype=dtype)
    return {row["id"]: encode_png(np.asarray(image)) for row, image in zip(rows, images, strict=True)}


def python_of(page: str) -> list[str]:
    """The blocks of Python on a page, which tests run."""
    text = (Path(__file__).parents[1] / page).read_text()
    return [part.partition("```")[0] for part in text.split("```python\n")[1:]]


def tree(folder: Path) -> list[str]:
    """Every file in a folder, by its relative path."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
