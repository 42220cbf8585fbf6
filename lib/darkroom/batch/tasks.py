"""What Ray's tasks do with the blocks that they are handed: the first and the last of a unit's way.

A module of its own, as its processes need no torch, which would cost each of them two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from darkroom.batch import row_state
from darkroom.batch.load_inputs import Preparation, prepare
from darkroom.batch.units import Unit
from darkroom.batch.write_results import Delivery, deliver


def prepare_unit(units: pa.Table, how: Preparation, counter: Any) -> pa.Table:
    with counted(counter, "prepare"):
        (unit,) = units.to_pylist()
        return row_state.to_block(prepare(Unit(**unit), how))


def deliver_unit(block: pa.Table, how: Delivery, counter: Any) -> pa.Table:
    with counted(counter, "deliver"):
        return pa.Table.from_pylist([asdict(deliver(row_state.from_block(block), how))])


@contextmanager
def counted(counter: Any, stage: str) -> Iterator[None]:
    """Tells the counter of a unit's time in a stage that does one unit after the other."""
    began = time.monotonic()
    counter.enter.remote(stage)
    yield
    counter.evaluated.remote(stage, 0, time.monotonic() - began)
    counter.leave.remote(stage)
