"""The end of the pipeline: encode, upload the pictures, then stage the unit's result rows for the run's owner."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from darkroom.batch.progress import counted
from darkroom.batch.row_state import Clip, RowState, from_block, unit_name
from darkroom.runs import latents_key, stage, to_table
from darkroom.storage import Store, encode_png, image_key, open_store, to_uint8, video_key

UPLOADS = 16  # at once in one task

Images = Literal["objects", "inline", "both"]


@dataclass(frozen=True)
class WriteOptions:
    """What every task that writes is told."""

    run: str
    plan: str
    model: str
    revision: str
    default_sampler: str
    images: Images = "objects"


@dataclass(frozen=True)
class Receipt:
    """A unit's rows lie staged, and its pictures where they belong. causes: the kinds of its failed rows' failures;
    shard: what the run's owner commits, see `runs.Shard.to_json`."""

    unit: int
    ok: int
    failed: int
    evaluations: int
    causes: list[str]
    shard: str


def write_block(block: pa.Table, options: WriteOptions, counter: Any) -> pa.Table:
    """`write_unit` as Ray Data calls it."""
    with counted(counter, "write"):
        return pa.Table.from_pylist([asdict(write_unit(from_block(block), options))])


def write_unit(rows: list[RowState], options: WriteOptions) -> Receipt:
    """Stores one unit: its pictures first, then its rows as a staged shard."""
    store = open_store(options.run)
    units = {state.unit for state in rows}
    assert len(units) == 1, f"a block holds rows of the units {sorted(units)}"
    with ThreadPoolExecutor(UPLOADS) as pool:
        results = list(pool.map(lambda state: _store_row(state, options, store), rows))
    unit = units.pop()
    shard = stage(store, unit_name(options.plan, unit), to_table(results))
    causes = [state.failure.kind for state in rows if state.failure]
    evaluations = sum(state.evaluations for state in rows)
    return Receipt(unit, len(rows) - len(causes), len(causes), evaluations, causes, shard.to_json())


def _store_row(state: RowState, options: WriteOptions, store: Store) -> dict[str, Any]:
    result = result_row(state, options)
    if state.failure:
        return result
    assert state.picture is not None, f"the row {state.id} has neither a picture nor a failure"
    array = to_pixels(state.picture)
    data = encode_png(array)
    key = image_key(state.id, state.key)
    if options.images != "inline":
        store.write(key, data)
        result["image_uri"] = store.uri(key)
    result["image"] = {"bytes": data if options.images != "objects" else None, "path": result["image_uri"] or key}
    result["sha256"] = hashlib.sha256(data).hexdigest()
    result["height"], result["width"] = array.shape[:2]
    return result if state.clip is None else result | _store_clip(state, state.clip, store)


def _store_clip(state: RowState, clip: Clip, store: Store) -> dict[str, Any]:
    """What a result says of its video, which is always a file of its own, wherever pictures lie."""
    key = video_key(state.id, state.key)
    store.write(key, clip.mp4)
    store.delete(latents_key(state.key))
    return {
        "video_uri": store.uri(key),
        "video_sha256": hashlib.sha256(clip.mp4).hexdigest(),
        "video_bytes": len(clip.mp4),
        "frames": clip.frames,
        "fps": clip.fps,
    }


def result_row(state: RowState, options: WriteOptions) -> dict[str, Any]:
    """A row of the results' schema, without its picture."""
    row = state.row
    return {
        "id": state.id,
        "key": state.key,
        "task": row["task"],
        "status": "failed" if state.failure else "ok",
        "error": state.failure.text if state.failure else "",
        "error_class": state.failure.kind if state.failure else "",
        "attempts": state.attempts,
        "image": None,
        "image_uri": "",
        "sha256": "",
        "width": None,
        "height": None,
        "video_uri": "",
        "video_sha256": "",
        "video_bytes": None,
        "frames": None,
        "fps": None,
        "prompts": state.prompts,
        "negative_prompt": row.get("negative_prompt") or "",
        "seed": row["seed"],
        "steps": state.steps,
        "guidance": _guidance(state),
        "sampler": row.get("sampler") or options.default_sampler,
        "start_timestep": state.start_timestep,
        "parameters": json.dumps(row, sort_keys=True, ensure_ascii=False),
        "source_uri": state.source.uri if state.source else "",
        "source_sha256": state.source.sha256 if state.source else "",
        "model": options.model,
        "model_revision": options.revision,
        "evaluations": state.evaluations,
        "seconds": state.seconds,
        "worker": state.worker,
        "stages": json.dumps([record.to_json() for record in state.stages]),
        "controls": json.dumps([asdict(one) for one in state.maps]),
        "flags": state.flags,
        "scores": json.dumps(state.scores),
        "alignment": state.scores.get("alignment"),
        "concealment": state.scores.get("concealment"),
        "created_at": datetime.now(UTC),
    }


def _guidance(state: RowState) -> float:
    """That of the first stage it went through: upper stages have one of their own."""
    if state.row["task"] == "upscale" and state.stages:
        return state.stages[0].guidance
    return float(state.row.get("guidance", 1))


def to_pixels(picture: np.ndarray) -> np.ndarray:
    """uint8 or float32 in about [-1, 1], [C, H, W], C 1 or 3 -> uint8 [H, W, 3], see `storage.to_uint8`."""
    pixels = (picture if picture.dtype == np.uint8 else to_uint8(picture)).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
