"""A row comes out of Arrow as it went in; every error that a row can fail by has a word, whatever its message."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from darkroom.batch.control_maps import ControlMap
from darkroom.batch.row_state import (
    KINDS,
    SCHEMA,
    Failure,
    RowState,
    Source,
    StageRecord,
    from_block,
    guarded,
    is_device_lost,
    to_block,
)
from darkroom.models.errors import ModelError
from darkroom.storage import NotFound, StorageError
from toys import SHORTAGES

ROW = {"task": "text_to_image", "prompt": "a öne", "seed": 2**62, "views": [{"view": "identity", "pieces": 4}]}


def fields(state: RowState) -> dict[str, Any]:
    return vars(state) | {"inputs": None, "picture": None}


def test_a_unit_comes_out_of_arrow_as_it_went_in() -> None:
    full = RowState(
        unit=3,
        id="a",
        key="0f",
        row=ROW,
        prompts=["a öne"],
        flags=["prompt_truncated"],
        source=Source("s3://b/one.png", "ab"),
        inputs={"image/8": np.arange(192, dtype=np.uint8).reshape(3, 8, 8)[:, ::2], "mask/8": np.ones((1, 8, 8), "u1")},
        maps=[ControlMap("canny", "0d", "maps/ef.png", "ef", "s3://b/one.png", "ab")],
        picture=np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 3, 4, 4),
        chosen_seed=2**62 + 1,
        stages=[
            StageRecord(1, 34, 7.0, None, "bfloat16", 8, "default", "note"),
            StageRecord(2, 50, 4, 250, "float32", 4),
        ],
        scores={"scorer": "digits", "matrix": [[0.5]], "concealment": None},
        start_timestep=990.0,
        steps=34,
        evaluations=68,
        seconds=1.5,
        worker="here:cpu",
    )
    failed = RowState(3, "b", "0e", {"task": "forward"}, failure=Failure("input", "there is no file x"))
    block = to_block([full, failed])
    assert block.num_rows == 1, "a unit is one row, so that Ray Data never cuts it"
    again, also = from_block(block)
    assert fields(again) == fields(full) and fields(also) == fields(failed)
    assert again.inputs.keys() == full.inputs.keys()
    assert all(np.array_equal(again.inputs[name], full.inputs[name]) for name in full.inputs)
    assert again.picture.dtype == np.float32 and np.array_equal(again.picture, full.picture)
    assert (also.picture, also.inputs) == (None, {})


def test_no_bytes_of_a_unit_are_counted_by_32_bits() -> None:
    """All rows of a unit lie in one array: 22 rows with eight candidates of 1024 px each are more than 2 GiB."""
    row = SCHEMA.field("rows").type.value_type
    kinds = {field.name: field.type for field in (*row, *row.field("clip").type)}
    assert [name for name, kind in kinds.items() if pa.types.is_large_binary(kind)] == [
        "inputs",
        "picture",
        "handed",
        "mp4",
    ]
    assert not any(pa.types.is_binary(kind) for kind in kinds.values())


def test_a_stage_that_was_not_compiled_says_nothing_of_it() -> None:
    plain = {"stage": 1, "steps": 2, "guidance": 7.0, "noise_level": None, "dtype": "float32", "capacity": 8}
    assert StageRecord(**plain).to_json() == plain
    assert StageRecord(**plain, compile="graphs").to_json() == plain | {"compile": "graphs"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("the mask is 3 x 4, its image is 5 x 6"), "input"),
        (ModelError("no stage III"), "model"),  # a ValueError too
        (torch.OutOfMemoryError("CUDA out of memory"), "model"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "model"),
        (FloatingPointError("not finite"), "numeric"),
        (ZeroDivisionError("division by zero"), "numeric"),
        (StorageError("could not read"), "storage"),
        (NotFound("could not read"), "storage"),
        (KeyError("prompt"), "other"),
    ],
)
def test_the_kind_of_a_failure_is_its_errors_type(error: Exception, kind: str) -> None:
    assert Failure.of(error).kind == kind and kind in KINDS


def test_a_guarded_row_fails_alone_and_an_outage_or_a_lost_device_is_no_rows_fault() -> None:
    state = RowState(0, "a", "0", ROW, picture=np.zeros((3, 4, 4)))
    with guarded(state):
        raise KeyError("prompt")
    assert state.failure == Failure("other", "KeyError: 'prompt'") and state.picture is None
    for error in (StorageError("no answer"), RuntimeError("CUDA error: device-side assert triggered")):
        with pytest.raises(type(error)), guarded(state):
            raise error


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_want_of_memory_is_no_lost_device(said: Exception) -> None:
    state = RowState(0, "a", "0", ROW)
    with guarded(state):
        raise said
    assert not is_device_lost(said) and state.failure is not None and state.failure.kind == "model"


def test_what_rays_tasks_import_does_not_wait_for_torch() -> None:
    check = "import sys, darkroom.batch.load_inputs, darkroom.batch.write_results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0
