"""What travels between the stages: one Arrow row per manifest row, with its tensors as safetensors bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("row", pa.string()),  # JSON: id, key, row (canonical form)
        ("error", pa.string()),  # "" as long as all is well; a failed row passes through the rest untouched
        ("source_uri", pa.string()),
        ("source_sha256", pa.string()),
        ("inputs", pa.binary()),  # image, mask, given at each stage's size, uint8
        ("picture", pa.binary()),  # what the last stage made, float32 [C, H, W]
        ("start_timestep", pa.float64()),
        ("steps", pa.int32()),
        ("evaluations", pa.int32()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
    ]
)


def new_parcel(unit: int, line: dict[str, Any]) -> dict[str, Any]:
    """A row at the beginning of its way."""
    empty = {"error": "", "source_uri": "", "source_sha256": "", "inputs": b"", "picture": b"", "worker": ""}
    nothing_done = {"start_timestep": None, "steps": 0, "evaluations": 0, "seconds": 0.0}
    return {"unit": unit, "row": json.dumps(line), **nothing_done, **empty}


def to_block(parcels: list[dict[str, Any]]) -> pa.Table:
    """Parcels as the block that Ray Data carries to the next stage."""
    return pa.Table.from_pylist(parcels, schema=SCHEMA)


def pack(tensors: dict[str, np.ndarray]) -> bytes:
    """Arrays by name as safetensors; it writes memory as it lies, so every array is made contiguous first."""
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()}) if tensors else b""


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """What `pack` packed; nothing for no bytes."""
    return load(data) if data else {}
