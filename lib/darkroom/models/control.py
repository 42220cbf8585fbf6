"""Control networks (ControlNet, arXiv 2302.05543) beside a stage's UNet, as they lie at an address.

CONFIG, diffusion_pytorch_model.safetensors      as diffusers saves a ControlNetModel
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from darkroom.models.errors import ModelError, refuse_replaced
from darkroom.models.sources import Source, folder_digest, open_source, read_json
from darkroom.models.weights import DIFFUSERS, load_module

if TYPE_CHECKING:
    from diffusers import ControlNetModel

EMBEDDED = {"sd-xs-canny": Path(__file__).parent / "sd_xs" / "controlnet-canny"}
CONFIG, CLASS = "config.json", "ControlNetModel"
HINT_CHANNELS = 3
# Of a network and the UNet beside it: what their layers and the answers that are added have in common.
_ALIKE = (
    "cross_attention_dim",
    "block_out_channels",
    "layers_per_block",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "encoder_hid_dim",
    "class_embed_type",
)


@dataclass(frozen=True)
class StoredNet:
    """A control network as it lies. name: what rows call it; address: that any process opens it by (of an embedded one
    its name, as each node has its own copy); digest: of its files; config: its config.json."""

    name: str
    address: str
    digest: str
    config: Mapping[str, Any] = field(compare=False)

    @classmethod
    def at(cls, name: str, address: str) -> StoredNet:
        """What lies at that address now. ModelError where it is no control network, StorageError."""
        source = _source(address)
        if CONFIG not in source.names():
            raise ModelError(f"{address} holds no control network: wanted a folder with {CONFIG}, as diffusers saves")
        config = read_json(source, CONFIG)
        if (found := config.get("_class_name")) != CLASS:
            raise ModelError(f"the control network {name!r}, {address}, is a {found}: wanted a {CLASS}")
        return cls(name, address if address in EMBEDDED else source.pinned, folder_digest(source), config)

    def check(self, unet: Mapping[str, Any], factor: int) -> None:
        """ModelError unless it is for a UNet of this config, whose states have a factor-th of a picture's side."""
        why = next(self._misfits(unet, factor), None)
        if why:
            raise ModelError(f"the control network {self.name!r}, {self.address}, is for another model: {why}")

    def _misfits(self, unet: Mapping[str, Any], factor: int) -> Iterator[str]:
        config = self.config
        if config.get("global_pool_conditions"):
            yield "its answers are averaged over the picture (global_pool_conditions), which does not run here yet"
        if (channels := config.get("conditioning_channels", HINT_CHANNELS)) != HINT_CHANNELS:
            yield f"it sees {channels} channels, wanted {HINT_CHANNELS}"
        if (channels := config.get("in_channels", 4)) != unet["out_channels"]:
            yield f"its states have {channels} channels, the model's {unet['out_channels']}"
        for name in _ALIKE:
            own, models = _plain(config.get(name)), _plain(unet.get(name))
            if own != models:
                yield f"its {name} is {own}, the model's {models}"
        if (own := hint_factor(config)) != factor:
            yield f"it makes a picture {own} times smaller, the model's latents are {factor} times smaller"

    def load(self, device: torch.device, dtype: str) -> ControlNetModel:
        """With its weights on the device. ModelError where the files are other ones by now."""
        source = _source(self.address)
        refuse_replaced(f"the control network {self.name!r}", self.address, self.digest, folder_digest(source))
        return load_module(source, "", DIFFUSERS, lambda: build_net(self.config), device, dtype)

    def record(self) -> dict[str, str]:
        """What a run's record says of it."""
        return {"name": self.name, "address": self.address, "digest": self.digest}


def _source(address: str) -> Source:
    return open_source(str(EMBEDDED.get(address, address)))


def build_net(config: Mapping[str, Any]) -> ControlNetModel:
    """A network of this config.json, with no weights of its own."""
    from diffusers import ControlNetModel

    return ControlNetModel.from_config(dict(config))


def control_fields(count: int, pixels: tuple[int, int]) -> tuple[Tensor, ...]:
    """What `count` networks are told of one question beside what the UNet is, zeros; nothing of none. pixels: width and
    height of the picture."""
    width, height = pixels
    return (torch.zeros(count, HINT_CHANNELS, height, width), torch.zeros(count + 1)) if count else ()


def hint_factor(config: Mapping[str, Any]) -> int:
    """Pixels of a hint for each element of the state, along a side: every step but the last halves it."""
    return 2 ** (len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
