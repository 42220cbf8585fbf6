"""What every recipe says, and how `--set key=value` changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from darkroom.sampling.device import computes_in_bfloat16
from darkroom.sampling.names import unknown
from darkroom.storage import Store
from darkroom.training.data import Kind
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker

Switch = Literal["auto", "on", "off"]
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Something that `darkroom train` trains. reads: the kind of data sets that it takes; lighter: what would have it
    take less of a device's memory. The last five fields name speed and change rounding only; "auto" is on where the
    device gains by it."""

    name: ClassVar[str]
    reads: ClassVar[Kind] = "labels"
    lighter: ClassVar[str] = "a smaller --set batch=..."

    batch: int
    learning_rate: float
    seed: int = 0
    keep_last: int = 2
    bf16: Switch = "auto"
    compile: Switch = "auto"
    channels_last: Switch = "auto"
    fused: Switch = "auto"
    graphs: Switch = "auto"

    def __post_init__(self) -> None:
        self._positive("batch", "learning_rate", "keep_last")
        self._at_least(0, "seed")

    def _positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, was {getattr(self, name)}")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, was {getattr(self, name)}")

    def _shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, was {getattr(self, name)}")

    def settled(self) -> Recipe:
        """The same, in which every name means on any machine what it means here now. ModelError."""
        return self

    def check(self, data: Mapping[str, Any]) -> None:
        """ValueError where it cannot take a data set with that dataset.json; before any worker is asked for."""
        raise NotImplementedError

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        """Trains as one of the workers, from the last checkpoint if there is one; rank 0 leaves the model in `store`.

        Raises ValueError for the data, FloatingPointError when the loss is no longer finite, and StorageError.
        """
        raise NotImplementedError

    def speed(self, worker: Worker) -> dict[str, bool]:
        """The fields of `Optimization` that name speed, for one of those workers."""
        gpu = worker.device.type == "cuda"
        capable = torch.cpu.get_capabilities()
        # Measured on the course UNet: a processor with such instructions trains half as fast again.
        quick = capable.get("avx512_bf16", False) or capable.get("amx_bf16", False)
        bf16 = computes_in_bfloat16(worker.device) if gpu else quick
        graphs = gpu and worker.count == 1
        auto = {"bf16": bf16, "compile": gpu, "channels_last": True, "fused": True, "graphs": graphs}
        given = {name: getattr(self, name) for name in auto}
        return {name: auto[name] if switch == "auto" else switch == "on" for name, switch in given.items()}

    def record(self) -> dict[str, Any]:
        """Name and fields, as run.json and config.json state them."""
        return {"name": self.name, **asdict(self)}


def with_settings(recipe: Settings, settings: Sequence[str]) -> Settings:
    """The recipe with "key=value" settings applied. ValueError names every setting that is wrong."""
    kinds = get_type_hints(type(recipe))
    known, changes, wrong = [field.name for field in fields(recipe)], {}, []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            wrong.append(str(unknown("setting", key, known)))
            continue
        try:
            changes[key] = _read(kinds[key], value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].removeprefix("Input ").partition(", unable to parse")[0]
            wrong.append(f"--set {setting}: {key} {wanted}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return replace(recipe, **changes)


def _read(kind: Any, text: str) -> Any:
    """A value of that type from the text of a setting; the items of a tuple have commas between."""
    given = tuple(filter(None, text.split(","))) if get_origin(kind) is tuple else text
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(given)
