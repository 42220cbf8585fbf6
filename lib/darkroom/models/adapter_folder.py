"""The folder of an adapter that was trained here, and the file in it, in a layout that other programs load.

config.json       kind "adapter", `weights` (the file's name), `base` (the model it was trained on, and its revision)
NAME.safetensors  in diffusers' layout or kohya's

alpha is folded into `up`, and the alpha that is said is the rank: a loader that reads it and one that does not multiply
by the same number, 1.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from darkroom.models.adapter_files import CONFIG, LowRank, adapter_source
from darkroom.models.errors import ModelError
from darkroom.models.sources import read_json
from darkroom.storage import Store

KIND = "adapter"
Layout = Literal["diffusers", "kohya"]
FILES: dict[Layout, str] = {"diffusers": "pytorch_lora_weights.safetensors", "kohya": "lora.safetensors"}


def adapter_tensors(
    layers: Mapping[str, LowRank], layout: Layout, convolutions: Container[str] = ()
) -> dict[str, Tensor]:
    """Tensors by the names that a layout has for them. convolutions: layers whose weights have two axes more."""
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        both = [part.reshape(*part.shape, 1, 1) if name in convolutions else part for part in (down, up)]
        if layout == "kohya":
            stem = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{stem}.alpha"] = torch.tensor(float(len(down)))
            tensors |= dict(zip((f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"), both, strict=True))
        else:
            tensors |= dict(zip((f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight"), both, strict=True))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def save_adapter(
    store: Store, layers: Mapping[str, LowRank], layout: Layout, about: Mapping[str, Any], convolutions: Container[str]
) -> None:
    """Writes the file, and config.json last. about: what config.json holds beside kind and file, `base` among it."""
    store.write(FILES[layout], save(adapter_tensors(layers, layout, convolutions), {"format": "pt"}))
    config = {"kind": KIND, "weights": FILES[layout], **about}
    store.write(CONFIG, json.dumps(config, indent=1, ensure_ascii=False).encode())


def read_about(address: str) -> dict[str, Any] | None:
    """The config.json of the adapter's folder at that address; None where there is none, as beside a file alone.
    ModelError, StorageError."""
    if address.endswith(".safetensors"):
        return None
    source = adapter_source(address)
    return read_json(source, CONFIG) if CONFIG in source.names() else None


def check_base(name: str, address: str, model: str, revision: str) -> None:
    """ModelError where the folder at that address says that the adapter was trained on another model than that."""
    about = read_about(address) or {}
    base = about.get("base")
    if base and base.get("revision") != revision:
        file = f"{address.rstrip('/')}/{about['weights']}"
        raise ModelError(
            f"the adapter {name!r}, {address}, was trained on {base.get('name')} of the revision "
            f"{base.get('revision')}, and this is {model} of {revision}; to try it all the same, name its file: {file}"
        )
