"""What travels between the stages: a unit as one Arrow row, so that it is one task's block whatever Ray Data does. In
it each manifest row is a struct, with its tensors as safetensors bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from darkroom.batch.causes import cause_of

_PARCEL = pa.struct(
    [
        ("unit", pa.int64()),
        ("row", pa.string()),  # JSON: id, key, row (canonical form)
        ("error", pa.string()),  # "" as long as all is well; a failed row passes through the rest untouched
        ("cause", pa.string()),  # of the error, see `causes`
        ("source_uri", pa.string()),
        ("source_sha256", pa.string()),
        ("inputs", pa.binary()),  # image, mask, given at each stage's size, uint8
        # What the last stage made: float32 [C, H, W], [N, C, H, W] of a row's N candidates, or what only waits to be
        # delivered as uint8 [C, H, W], a quarter of the bytes.
        ("picture", pa.binary()),
        ("chosen_seed", pa.int64()),  # of the best candidate; null where there was but one
        ("stages", pa.string()),  # JSON, as in the results
        ("flags", pa.list_(pa.string())),
        ("scores", pa.string()),  # JSON: of the candidates, then of the finished picture as in the results
        ("start_timestep", pa.float64()),
        ("steps", pa.int32()),
        ("evaluations", pa.int32()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
    ]
)
SCHEMA = pa.schema([("rows", pa.list_(_PARCEL))])


def new_parcel(unit: int, line: dict[str, Any]) -> dict[str, Any]:
    """A row at the beginning of its way."""
    empty = dict.fromkeys(("error", "cause", "source_uri", "source_sha256", "worker"), "")
    nothing_done = {"start_timestep": None, "steps": 0, "evaluations": 0, "seconds": 0.0, "chosen_seed": None}
    records = {"stages": "[]", "flags": list(line.get("flags", ())), "scores": "{}"}
    return {"unit": unit, "row": json.dumps(line), "inputs": b"", "picture": b"", **empty, **nothing_done, **records}


def fail(made: dict[str, Any], error: Exception) -> None:
    """The row has failed, and this is why: in its own words where they are for people."""
    made["error"] = (
        str(error) if isinstance(error, (ValueError, ArithmeticError)) else f"{type(error).__name__}: {error}"
    )
    made["cause"] = cause_of(error)
    made["picture"] = b""


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """float32 in about [-1, 1] -> uint8, of any shape; what was uint8 once comes back as it was."""
    return np.round((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)


def flag(made: dict[str, Any], *flags: str) -> None:
    """Adds what is to be said of the row, each once."""
    made["flags"] = list(dict.fromkeys([*made["flags"], *flags]))


def to_block(parcels: list[dict[str, Any]]) -> pa.Table:
    """A unit's parcels as the block that Ray Data carries to the next stage."""
    return pa.Table.from_pylist([{"rows": parcels}], schema=SCHEMA)


def from_block(block: pa.Table) -> list[dict[str, Any]]:
    """The parcels of a block."""
    (unit,) = block["rows"].to_pylist()
    return unit


def pack(tensors: dict[str, np.ndarray]) -> bytes:
    """Arrays by name as safetensors; it writes memory as it lies, so every array is made contiguous first."""
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()}) if tensors else b""


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """What `pack` packed; nothing for no bytes."""
    return load(data) if data else {}
