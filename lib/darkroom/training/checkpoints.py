"""Checkpoints of a training: one self-describing safetensors file an epoch, so that each is whole or not there.

RUN/checkpoints/epoch-0001.safetensors    tensors weights/NAME, average/NAME, exp_avg/NAME, exp_avg_sq/NAME, and the
                                          curves so far: losses [steps], rates [steps], validation, seconds [epochs]
                                          metadata: epoch, step and the model's configuration, as JSON

Learning rates and random numbers are functions of the step, so there is no other state to keep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from darkroom.models.weights import read_header
from darkroom.storage import NotFound, Store

CURVES = ("losses", "rates", "validation", "seconds")
_NAME = re.compile(r"epoch-(\d+)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A training after `epoch` epochs, `step` steps. weights: the network's state_dict; average: of the same names, if
    the weights are averaged; moments: Adam's, "exp_avg/NAME" and "exp_avg_sq/NAME"; curves: by the names of CURVES."""

    epoch: int
    step: int
    config: dict[str, Any]
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None
    moments: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sampling_weights(self) -> dict[str, Tensor]:
        """What to sample with: the averaged weights where there are any."""
        return self.weights | (self.average or {})


def save_checkpoint(store: Store, checkpoint: Checkpoint, folder: str = "checkpoints") -> None:
    """Writes one file. FloatingPointError, and nothing written, if a weight is no longer finite."""
    groups = {"weights": checkpoint.weights, "average": checkpoint.average or {}}
    tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise FloatingPointError(f"epoch {checkpoint.epoch}: {broken[0]} is no longer finite")
    tensors |= checkpoint.moments | checkpoint.curves
    about = {"epoch": checkpoint.epoch, "step": checkpoint.step, "config": checkpoint.config}
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"checkpoint": json.dumps(about)})
    store.write(f"{folder}/{_file(checkpoint.epoch)}", data)


def load_checkpoint(store: Store, epoch: int, folder: str = "checkpoints") -> Checkpoint:
    """The checkpoint of an epoch, on the host. ValueError if it is not there or damaged."""
    key = f"{folder}/{_file(epoch)}"
    try:
        data = store.read(key)
        tensors, about = load(data), _about(data)
    except NotFound:
        raise ValueError(
            f"no checkpoint {store.uri(key)}; there are those of the epochs {epochs_kept(store)}"
        ) from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"the checkpoint {store.uri(key)} is damaged ({error}); delete it to use the one before"
        ) from None
    average = _group(tensors, "average")
    moments = {name: t for name, t in tensors.items() if name.startswith("exp_avg")}
    curves = {name: tensors[name] for name in CURVES if name in tensors}
    return Checkpoint(
        about["epoch"], about["step"], about["config"], _group(tensors, "weights"), average or None, moments, curves
    )


def epochs_kept(store: Store, folder: str = "checkpoints") -> list[int]:
    """The epochs of which there are checkpoints, ascending."""
    found = (_NAME.fullmatch(key.rpartition("/")[2]) for key in store.list(f"{folder}/"))
    return sorted(int(match[1]) for match in found if match)


def prune(store: Store, keep: set[int], last: int, folder: str = "checkpoints") -> None:
    """Deletes all but the epochs in `keep` and the `last` newest."""
    kept = epochs_kept(store, folder)
    gone = [epoch for epoch in kept if epoch not in keep | set(kept[-last:])]
    store.delete(*(f"{folder}/{_file(epoch)}" for epoch in gone))


def _file(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}


def _about(data: bytes) -> dict[str, Any]:
    _, directory = read_header(lambda start, count: data[start : start + count])
    return json.loads(directory["__metadata__"]["checkpoint"])
