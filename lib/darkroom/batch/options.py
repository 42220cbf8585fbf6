"""What `darkroom generate` is asked, and what that means for each stage of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from darkroom.batch.row_state import KINDS
from darkroom.batch.write_results import Images
from darkroom.models import DTYPES, EIGHT_BITS, WEIGHT_DTYPES, Mode, lacks_library
from darkroom.phases import redacted

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

UNIT_BYTES = 32 * 2**20  # of pictures: a dozen units are in flight at once
UNIT_SECONDS = 60.0  # of one actor
UNITS_PER_WORKER = 12  # at least, if there are rows enough: those under way, and as many to come
LEAST_ROWS, MOST_ROWS = 4, 256
# A row's work at each stage beside stage I: DeepFloyd's XL at 34 steps, II-L at 50, the x4 upscaler at 75.
COSTS = {1: 1.0, 2: 2.0, 3: 4.0}
SMALL_ENCODER = 64 * 2**20  # bytes of weights of a text encoder that a processor runs soon enough
JOINED_SECONDS = 600.0  # a cluster that grows by need starts machines in this time

Count = Annotated[int, Field(ge=1)]
Capacity = Count | Literal["auto"]


@dataclass(frozen=True)
class Options:
    """The command's arguments. workers: actors per stage; stage_workers: of stages I, II, III, None: `workers`.

    capacity: evaluations per pass; "auto": as many as fit a GPU, 32 on a processor. dtype: one, or one per stage joined
    by commas, of WEIGHT_DTYPES; None: the model's own on GPUs, float32 on processors. unit_rows: rows committed
    together.
    embeddings: where those of prompts lie and are put, if not in the run. scorer: see `open_scorer`.
    compile: of the stages' networks, see `models.compiled`. watermark: None: where the model's own pipelines do.
    verify: every picture that is there is read first, and made anew where it is not what its row says.
    rerun: which failed rows are tried again: "failed" (all), "none", or classes of errors joined by commas.
    ids: a file that names the rows that may be made, see `RowFilter.read`; None: all.
    max_failed_rows: "25" or "1%" of the rows to be made: where more fail, the job ends.
    adapter, control: "name=URI" of adapters and control networks that rows may ask for; depth: of a model that draws
    maps of depth for these.
    inputs_root: more folders and buckets that pictures may come from, beside the manifest's own.
    check_inputs: every picture that rows name is looked at before anything runs.
    replace: good rows of a run that was made with another model, or by another manifest, may go.
    wait_seconds: for a cluster that has too little yet; None: not on this machine, ten minutes on one that is joined.
    """

    manifest: str
    out: str
    model: str = "if-xs"
    workers: Count | None = None
    capacity: Capacity = "auto"
    unit_rows: Annotated[int, Field(ge=1, le=4096)] | None = None
    limit: Count | None = None
    images: Images = "objects"
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    address: str | None = None
    verbose: bool = False
    stage_workers: tuple[Count | None, ...] = ()
    dtype: str | None = None
    embeddings: str | None = None
    scorer: str | None = None
    safety: Literal["off", "flag"] = "off"
    watermark: Literal["on", "off"] | None = None
    wait_seconds: Annotated[float, Field(ge=0)] | None = None
    compile: Mode = "off"
    check_inputs: bool = False
    replace: bool = False
    verify: bool = False
    rerun: str = "failed"
    ids: str | None = None
    max_failed_rows: str | None = None
    inputs_root: tuple[str, ...] = ()
    adapter: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    depth: str | None = None

    @property
    def patience(self) -> float:
        """Seconds to wait for a cluster to grow."""
        return self.wait_seconds if self.wait_seconds is not None else JOINED_SECONDS if self.address else 0.0

    def workers_of(self, number: int) -> int | None:
        own = self.stage_workers[number - 1] if number <= len(self.stage_workers) else None
        return own or self.workers


def of_command(arguments: Mapping[str, Any]) -> Options:
    """From the arguments of `darkroom generate`, by their names; those that are no option of the work are left out.
    ValueError."""
    own = {field.name: arguments[field.name] for field in fields(Options) if field.name in arguments}
    own |= {name: tuple(arguments[name] or ()) for name in ("inputs_root", "adapter", "control")}
    own["stage_workers"] = tuple(arguments[f"stage{number}_workers"] for number in (1, 2, 3))
    own["address"] = arguments["address"] or os.environ.get("RAY_ADDRESS")
    return Options(**own | {"manifest": arguments["manifest"] or "", "capacity": parse_capacity(arguments["capacity"])})


def refuse_secrets(options: Options) -> None:
    """ValueError for an address with a key in it: run.json keeps what was asked for, and anybody may read that."""
    single = ("manifest", "out", "model", "embeddings", "scorer", "address", "ids", "depth")
    named = {name: getattr(options, name) for name in single}
    named |= {name: " ".join(getattr(options, name)) for name in ("inputs_root", "adapter", "control")}
    for name, value in named.items():
        if value and (shown := redacted(value)) != value:
            option = name if name == "manifest" else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} {shown} had a key, a password or a signature in it: S3's keys are taken from "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the hub's from HF_TOKEN, a cluster's from its token file"
            )


def refuse_wrong(options: Options) -> None:
    """ValueError for what is wrong with the options themselves, whatever the model and the manifest are."""
    refuse_secrets(options)
    for name in ("adapter", "control"):
        parse_named(f"--{name}", getattr(options, name))
    parse_rerun(options.rerun)
    parse_max_failed(options.max_failed_rows, 0)
    parse_dtypes(options.dtype)


def parse_capacity(text: str) -> Capacity:
    """ "auto" or a positive number. ValueError."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--capacity is {text!r}, wanted 'auto' or evaluations per pass, at least 1")
    return int(text)


def parse_rerun(text: str) -> frozenset[str] | None:
    """The classes of errors whose rows are tried again; None: all. ValueError."""
    if text in ("failed", "none"):
        return None if text == "failed" else frozenset()
    classes = frozenset(name.strip() for name in text.split(","))
    if unknown := sorted(classes - {*KINDS}):
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"--rerun names {names}, wanted failed, none, or of {', '.join(KINDS)}, joined by commas")
    return classes


def parse_named(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Where each thing that an option gives lies, by its name. ValueError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise ValueError(f"{option} is {text!r}, wanted name=URI")
        if name in found:
            raise ValueError(f"{option} gives the name {name!r} twice, to {found[name]} and to {place}")
        found[name] = place
    return found


def parse_max_failed(text: str | None, rows: int) -> float:
    """Of so many rows to be made, how many may fail; "25" or "1%". ValueError."""
    if text is None:
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    if not found or (found[2] and float(found[1]) > 100) or (not found[2] and "." in found[1]):
        raise ValueError(f"--max-failed-rows is {text!r}, wanted a number of rows, or a share such as 1%")
    return float(found[1]) * rows / 100 if found[2] else float(found[1])


def parse_dtypes(text: str | None) -> list[str]:
    """The names that --dtype gives. ValueError for those that are none, or that this machine lacks the library of."""
    names = [name.strip() for name in text.split(",")] if text is not None else []
    if unknown := [name for name in names if name not in WEIGHT_DTYPES]:
        raise ValueError(f"--dtype names {', '.join(map(repr, unknown))}, wanted {', '.join(WEIGHT_DTYPES)}")
    if why := next(filter(None, map(lacks_library, names)), ""):
        raise ValueError(f"--dtype {text}: {why}")
    return names


def stage_dtypes(model: Model, given: str | None, on_gpu: bool) -> dict[int, str]:
    """The dtype of each stage, by number. ValueError for names that are none, or too many or few of them, or that the
    model's weights are not held in."""
    numbers = [stage.number for stage in model.stages]
    if given is None:
        return dict.fromkeys(numbers, default_dtype(model, on_gpu))
    names = parse_dtypes(given)
    if len(names) not in (1, len(numbers)):
        raise ValueError(f"--dtype names {len(names)}, the model {model.name!r} has {len(numbers)} stages: one or each")
    if model.kind == "network" and (held := [name for name in names if name in EIGHT_BITS]):
        raise ValueError(
            f"--dtype {held[0]} is for models of diffusers, and {model.name!r} is a network of our own, too small to "
            f"gain by it: wanted {', '.join(DTYPES)}"
        )
    return dict(zip(numbers, names if len(names) > 1 else names * len(numbers), strict=True))


def default_dtype(model: Any, on_gpu: bool) -> str:
    """What a stage computes in where nothing is said."""
    return model.default_dtype if on_gpu else "float32"


def encoder_dtype(model: Model, name: str, dtypes: dict[int, str]) -> str:
    """A text encoder computes in what the first stage does that attends to it. It is never held in eight bits: it has
    left before the stages come, and so one prompt has one embedding in bfloat16, whatever holds the stages' weights."""
    own = next(dtype for number, dtype in sorted(dtypes.items()) if model.encoder_of(number) == name)
    return EIGHT_BITS.get(own, own)


def unit_size(rows: int, largest: int, workers: int, seconds: float, drawn: int = 0) -> int:
    """Rows per unit.

    rows: to be made; largest: pixels along a side of the largest picture; workers: actors of the stage that has most;
    seconds: about, that one actor takes for a row, where it takes longest; drawn: bytes of the candidates of a row.
    A unit is about a minute of an actor's work, so that a crash costs little; there are enough units for every actor to
    have some under way and as many to come; pictures in flight stay few; and where rows cost next to nothing, a unit is
    not so small that Ray's tenths of a second per block are felt.
    """
    in_a_minute = max(LEAST_ROWS, int(UNIT_SECONDS / max(seconds, 1e-9)))
    in_memory = max(1, UNIT_BYTES // max(3 * largest * largest, drawn, 1))
    shared = rows // (workers * UNITS_PER_WORKER)
    fair = max(1, rows // workers)
    return min(MOST_ROWS, in_a_minute, in_memory, max(shared, min(LEAST_ROWS, fair)))
