"""Runs to draw reports of: rows of every task, with pictures that can be told apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.batch.planned_rows import prompts_of
from darkroom.batch.row_state import Clip, Failure, RowState, Source, StageRecord
from darkroom.batch.write_results import WriteOptions, write_unit
from darkroom.manifest import parse_task, row_key
from darkroom.runs import Shard
from darkroom.storage import Store, encode_mp4, encode_png, open_store
from runs import next_owner

ODD_ID = 'odd / id #1?&%20 ü "quoted"'
NASTY = 'a <script>alert("x")</script> & a "red" seven'
VIEWS = [{"view": "identity", "prompt": "an old man"}, {"view": "flip_vertical", "prompt": "a campfire"}]
PARTS = [{"component": "low_pass", "prompt": "a two"}, {"component": "high_pass", "prompt": "a six"}]
IMAGE = {"image": "in/x.png", "prompt": "a seven"}
ROWS: list[dict[str, Any]] = [
    {"task": "text_to_image", "prompt": NASTY, "id": ODD_ID, "seed": 5},
    {"task": "text_to_image", "prompt": "a blue three", "guidance": 3, "seed": 6, "negative_prompt": "blurry"},
    *({"task": "image_to_image", **IMAGE, "start": start} for start in (1, 3, 5)),
    {"task": "inpaint", **IMAGE, "mask": "in/m.png"},
    {"task": "anagram", "views": VIEWS},
    {"task": "hybrid", "components": PARTS},
    {"task": "upscale", **IMAGE},
    {"task": "upscale", "prompt": "a zero", "image": "in/gone.png", "id": "bad <i>row</i>"},
]
ERROR = "there is no file in/gone.png <b>!"


def picture(number: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def make_run(
    uri: str,
    folder: Path,
    rows: list[dict[str, Any]],
    record: dict[str, Any] | None = None,
    pictures: list[np.ndarray] | None = None,
    **delivery: Any,
) -> Store:
    """A run as the job's last stage leaves it; row N has picture(N) or `pictures[N]`, a row of gone.png has failed.

    record: what the stages and a scorer have written of every row."""
    (folder / "in").mkdir(parents=True)
    for name in ("x", "m"):
        (folder / f"in/{name}.png").write_bytes(encode_png(picture(ord(name))))
    how = WriteOptions(uri, "plan", "if-xs", "rev-1", "ddpm", **delivery)
    drawn = pictures or [picture(number) for number in range(len(rows))]
    made = [_made(array, row, folder, how) for array, row in zip(drawn, rows, strict=True)]
    for state in made if record else ():
        state.stages = [StageRecord(**stage) for stage in record["stages"]]
        state.flags, state.scores = record["flags"], record["scores"]
    store = open_store(uri)
    run = {
        "created_at": "2026-03-04T05:06:07+00:00",
        "plan": how.plan,
        "manifest": {"uri": "/somewhere/<demo>.yaml"},
        "model": {"name": "if-xs", "revision": "rev-1"},
        "options": {},
    }
    store.write("run.json", json.dumps(run).encode())
    half, writer = len(made) // 2, next_owner(store)
    for unit, states in enumerate(part for part in (made[:half], made[half:]) if part):
        receipt = write_unit([replace(state, unit=unit) for state in states], how)
        writer.commit([Shard.from_json(receipt.shard)])
    return store


def _made(array: np.ndarray, row: dict[str, Any], folder: Path, how: WriteOptions) -> RowState:
    task = parse_task(row)
    key = row_key(task, how.revision, "1")
    row = task.canonical()
    made = RowState(0, task.id or key, key, row, prompts_of(row))
    if "gone.png" in str(row):
        return replace(made, failure=Failure("input", ERROR))
    made.picture = np.ascontiguousarray(array.transpose(2, 0, 1), np.float32) / 127.5 - 1
    if task.task == "text_to_video":
        made.clip = Clip(encode_mp4(np.stack([array, array[::-1]]), 8), 2, 8)
    if task.sources():
        source = folder / task.sources()[0]
        made.source = Source(str(source), hashlib.sha256(source.read_bytes()).hexdigest())
    return made
