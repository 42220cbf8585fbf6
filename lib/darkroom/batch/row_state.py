"""What travels between the stages: a unit of rows as one Arrow row, so that it is one task's block whatever Ray Data
does. In it each manifest row is a struct, with its arrays as safetensors bytes; `to_block` and `from_block` alone know.

Ray's tasks import this module, and must not wait for torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from darkroom.batch.control_maps import ControlMap
from darkroom.models.errors import ModelError
from darkroom.phases import redacted
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.out_of_memory import is_out_of_memory
from darkroom.storage import StorageError, Store

Kind = Literal["input", "numeric", "model", "storage", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The first that fits: a ModelError is a ValueError too. RuntimeError is what torch raises, for want of memory too.
_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (ModelError, "model"),
    (StorageError, "storage"),
    (ArithmeticError, "numeric"),
    (ValueError, "input"),
    (RuntimeError, "model"),
)


@dataclass(frozen=True)
class Unit:
    """Rows start .. stop - 1 of a file of work: what one task reads, what travels through the actors together and is
    committed as one shard. Cutting is ours because Ray would make one block of a small file, and a block is lost or
    kept whole; how many rows a unit has depends on the workers, which are not known while the manifest is read."""

    number: int
    part: int
    start: int
    stop: int


def read_unit(store: Store, plan: str, unit: Unit) -> list[dict[str, Any]]:
    """A unit's rows."""
    lines = store.read(f"work/{plan}/{unit.part:06d}.jsonl").splitlines()
    return [json.loads(line) for line in lines[unit.start : unit.stop]]


def unit_name(plan: str, number: int) -> str:
    """What the unit is called in the ledger."""
    return f"{plan}-{number:06d}"


@dataclass(frozen=True)
class Failure:
    """Why a row failed. kind, for counting: input: the row, or a picture that it names; numeric: values that are not
    finite; model: the network or its device; storage: what should have been there was not; other: a bug of ours, most
    likely. text: for people."""

    kind: Kind
    text: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """In the error's own words where they are for people."""
        kind = next((kind for family, kind in _KINDS if isinstance(error, family)), "other")
        for_people = isinstance(error, (ValueError, ArithmeticError))
        return cls(kind, redacted(str(error) if for_people else f"{type(error).__name__}: {error}"))


@dataclass(frozen=True)
class Source:
    """The first picture that a row names. sha256: hex, of the file."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class Clip:
    """A row's video: an MP4 file, so many frames of it, and a second."""

    mp4: bytes
    frames: int
    fps: int


@dataclass(frozen=True)
class StageRecord:
    """What a stage that touched a row was. steps: evaluations' moves; compile: the mode that ran, None for none;
    compile_note: why it is not the one that was asked for."""

    stage: int
    steps: int
    guidance: float
    noise_level: int | None
    dtype: str
    capacity: int
    compile: str | None = None
    compile_note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the results have it: nothing is said of compiling where nothing was compiled."""
        return {
            name: value for name, value in asdict(self).items() if value is not None or not name.startswith("compile")
        }


@dataclass(eq=False)
class RowState:
    """A manifest row on its way through the stages.

    row: its canonical form. inputs: uint8 [C, S, S] by "image/S", "mask/S", "given/S", for the stages' sizes S, and by
    "control N/S" what its control networks see; maps: what that is.
    picture: what the last stage made: float32 [C, H, W], [N, C, H, W] of a row's N candidates, or what only waits to be
    written as uint8 [C, H, W], a quarter of the bytes; of a video its first frame, and clip is the video. chosen_seed:
    of the best candidate; None where there was but one. scores: of the candidates, then of the finished picture, as the
    results have them. steps, start_timestep: of the first stage that touched it. seconds: in passes, of all stages.
    attempts: jobs that tried it, with this one. handed: float32 [C, F, H, W], where one expert leaves a video to the
    next: "x" and, by its number, what the solver remembers.
    """

    unit: int
    id: str
    key: str
    row: dict[str, Any]
    prompts: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    source: Source | None = None
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    maps: list[ControlMap] = field(default_factory=list)
    picture: np.ndarray | None = None
    clip: Clip | None = None
    handed: dict[str, np.ndarray] = field(default_factory=dict)
    chosen_seed: int | None = None
    stages: list[StageRecord] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    start_timestep: float | None = None
    steps: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    worker: str = ""
    attempts: int = 1
    failure: Failure | None = None

    @classmethod
    def of_line(cls, unit: int, line: Mapping[str, Any]) -> RowState:
        """At the beginning of its way. line: of a file of work, see `planning`."""
        prompts, flags = list(line.get("prompts", ())), list(line.get("flags", ()))
        return cls(unit, line["id"], line["key"], line["row"], prompts, flags, attempts=line.get("attempts", 1))

    def fail(self, error: Exception) -> None:
        """The row has failed, and this is why; it passes through all that is left untouched."""
        self.failure, self.picture, self.clip, self.handed = Failure.of(error), None, None, {}

    def flag(self, *flags: str) -> None:
        """Adds what is to be said of the row, each once."""
        self.flags = list(dict.fromkeys([*self.flags, *flags]))


@contextmanager
def guarded(state: RowState) -> Iterator[None]:
    """Whatever is wrong with a row costs that row alone. An outage and a lost device are no row's fault."""
    try:
        yield
    except (StorageError, ClusterError):
        raise
    except Exception as error:
        if is_device_lost(error):
            raise
        state.fail(error)


def is_device_lost(error: Exception) -> bool:
    """Whether an error of CUDA's, after which nothing works any more; by its words, as torch is not wanted here. Want
    of memory is none."""
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error") and not is_out_of_memory(error)


_STAGE = pa.struct(
    [
        ("stage", pa.int32()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("noise_level", pa.int32()),
        ("dtype", pa.string()),
        ("capacity", pa.int32()),
        ("compile", pa.string()),
        ("compile_note", pa.string()),
    ]
)
# Not `pa.binary`: all rows of a unit lie in one array, and 32 bits would end that at 2 GiB.
_BYTES = pa.large_binary()
_ROW = pa.struct(
    [
        ("unit", pa.int64()),
        ("id", pa.string()),
        ("key", pa.string()),
        ("row", pa.string()),  # JSON
        ("prompts", pa.list_(pa.string())),
        ("flags", pa.list_(pa.string())),
        ("source", pa.struct([("uri", pa.string()), ("sha256", pa.string())])),
        ("inputs", _BYTES),
        ("maps", pa.list_(pa.struct([(part.name, pa.string()) for part in fields(ControlMap)]))),
        ("picture", _BYTES),
        ("handed", _BYTES),
        ("clip", pa.struct([("mp4", _BYTES), ("frames", pa.int32()), ("fps", pa.int32())])),
        ("chosen_seed", pa.int64()),
        ("stages", pa.list_(_STAGE)),
        ("scores", pa.string()),  # JSON
        ("start_timestep", pa.float64()),
        ("steps", pa.int32()),
        ("evaluations", pa.int64()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
        ("attempts", pa.int32()),
        ("failure", pa.struct([("kind", pa.string()), ("text", pa.string())])),
    ]
)
SCHEMA = pa.schema([("rows", pa.list_(_ROW))])


def to_block(rows: Sequence[RowState]) -> pa.Table:
    """A unit's rows as the block that Ray Data carries to the next stage."""
    return pa.Table.from_pylist([{"rows": [_to_struct(state) for state in rows]}], schema=SCHEMA)


def from_block(block: pa.Table) -> list[RowState]:
    """The rows of a block."""
    (unit,) = block["rows"].to_pylist()
    return [_from_struct(struct) for struct in unit]


def _to_struct(state: RowState) -> dict[str, Any]:
    plain = {name: getattr(state, name) for name in _ROW.names}
    picture = {} if state.picture is None else {"picture": state.picture}
    return plain | {
        "row": json.dumps(state.row),
        "source": state.source and asdict(state.source),
        "inputs": _pack(state.inputs),
        "maps": [asdict(one) for one in state.maps],
        "picture": _pack(picture),
        "handed": _pack(state.handed),
        "clip": state.clip and asdict(state.clip),
        "stages": [asdict(record) for record in state.stages],
        "scores": json.dumps(state.scores),
        "failure": state.failure and asdict(state.failure),
    }


def _from_struct(struct: dict[str, Any]) -> RowState:
    return RowState(
        **struct
        | {
            "row": json.loads(struct["row"]),
            "source": struct["source"] and Source(**struct["source"]),
            "inputs": _unpack(struct["inputs"]),
            "maps": [ControlMap(**one) for one in struct["maps"]],
            "picture": _unpack(struct["picture"]).get("picture"),
            "handed": _unpack(struct["handed"]),
            "clip": struct["clip"] and Clip(**struct["clip"]),
            "stages": [StageRecord(**record) for record in struct["stages"]],
            "scores": json.loads(struct["scores"]),
            "failure": struct["failure"] and Failure(**struct["failure"]),
        }
    )


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as safetensors; it writes memory as it lies, so every array is made contiguous first."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}) if arrays else b""


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    return load(data) if data else {}
