"""The last stage of the pipeline: encode, upload the pictures, then commit the unit's result rows."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from darkroom.batch import row_state
from darkroom.batch.units import unit_name
from darkroom.runs import Ledger, to_table
from darkroom.storage import StorageError, Store, encode_png, image_key, open_store

UPLOADS = 16  # at once in one task

Images = Literal["objects", "inline", "both"]


@dataclass(frozen=True)
class Delivery:
    """What every deliver task of a job is told."""

    run: str
    plan: str
    model: str
    revision: str
    default_sampler: str
    images: Images = "objects"


@dataclass(frozen=True)
class Receipt:
    """A unit is committed. `fresh` is False where an earlier try had committed it already; causes: of its failed rows,
    see `causes`."""

    unit: int
    ok: int
    failed: int
    evaluations: int
    fresh: bool
    causes: list[str]


def deliver(parcels: list[dict[str, Any]], how: Delivery) -> Receipt:
    """Stores one unit: its pictures first, then its rows in one commit."""
    store = open_store(how.run)
    units = {made["unit"] for made in parcels}
    assert len(units) == 1, f"a block holds rows of the units {sorted(units)}"
    with ThreadPoolExecutor(UPLOADS) as pool:
        rows = list(pool.map(lambda made: _store_row(made, how, store), parcels))
    unit = units.pop()
    _check_still_ours(store, how.plan)
    fresh = Ledger(store).commit(unit_name(how.plan, unit), to_table(rows))
    causes = [made["cause"] for made in parcels if made["error"]]
    return Receipt(unit, len(rows) - len(causes), len(causes), sum(row["evaluations"] for row in rows), fresh, causes)


def _check_still_ours(store: Store, plan: str) -> None:
    """A worker may outlive its job; if the same command runs again by then, both would commit the same rows."""
    current = json.loads(store.read("run.json"))["plan"]
    if current != plan:
        raise StorageError(f"another job ({current}) has taken over {store.root}; this one ({plan}) makes way for it")


def _store_row(made: dict[str, Any], how: Delivery, store: Store) -> dict[str, Any]:
    line = json.loads(made["row"])
    result = result_row(made, line, how)
    if made["error"]:
        return result
    array = to_pixels(row_state.unpack(made["picture"])["picture"])
    data = encode_png(array)
    key = image_key(line["id"], line["key"])
    if how.images != "inline":
        store.write(key, data)
        result["image_uri"] = store.uri(key)
    result["image"] = {"bytes": data if how.images != "objects" else None, "path": result["image_uri"] or key}
    result["sha256"] = hashlib.sha256(data).hexdigest()
    result["height"], result["width"] = array.shape[:2]
    return result


def result_row(made: dict[str, Any], line: dict[str, Any], how: Delivery) -> dict[str, Any]:
    """A row of the results' schema, without its picture."""
    row = line["row"]
    scores = json.loads(made["scores"])
    return {
        "id": line["id"],
        "key": line["key"],
        "task": row["task"],
        "status": "failed" if made["error"] else "ok",
        "error": made["error"],
        "image": None,
        "image_uri": "",
        "sha256": "",
        "width": None,
        "height": None,
        "prompts": line["prompts"],
        "negative_prompt": row.get("negative_prompt", ""),
        "seed": row["seed"],
        "steps": made["steps"],
        "guidance": float(row.get("guidance", 1)),
        "sampler": row.get("sampler") or how.default_sampler,
        "start_timestep": made["start_timestep"],
        "parameters": json.dumps(row, sort_keys=True, ensure_ascii=False),
        "source_uri": made["source_uri"],
        "source_sha256": made["source_sha256"],
        "model": how.model,
        "model_revision": how.revision,
        "evaluations": made["evaluations"],
        "seconds": made["seconds"],
        "worker": made["worker"],
        "stages": made["stages"],
        "flags": made["flags"],
        "scores": made["scores"],
        "alignment": scores.get("alignment"),
        "concealment": scores.get("concealment"),
        "created_at": datetime.now(UTC),
    }


def to_pixels(picture: np.ndarray) -> np.ndarray:
    """uint8 or float32 in about [-1, 1], [C, H, W], C 1 or 3 -> uint8 [H, W, 3], see `row_state.to_uint8`."""
    pixels = (picture if picture.dtype == np.uint8 else row_state.to_uint8(picture)).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
