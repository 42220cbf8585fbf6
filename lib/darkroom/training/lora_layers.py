"""What an adapter's training learns: two matrices beside each chosen layer of a UNet that stays as it is (LoRA, arXiv
2106.09685): y = W x + alpha / rank  up (down x)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from darkroom.models.adapter_files import LowRank
from darkroom.models.adapters import adaptable_layers, with_addition
from darkroom.sampling.names import nearest

SHOWN = 8


class LowRankLayers(nn.Module):
    """Hung on a UNet, on its device. They add nothing at first: `down` is normal with a deviation of 1 / rank, `up` is
    zero. Its parameters are all that is learned, and all that a checkpoint holds."""

    def __init__(self, unet: nn.Module, names: Sequence[str], rank: int, alpha: float) -> None:
        """names: of `chosen_layers`. The first values come from torch's generator."""
        super().__init__()
        self.names, self.scale = tuple(names), alpha / rank
        widths = adaptable_layers(unet)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name in self.names:
            into, out = widths[name]
            self.down[_key(name)] = nn.Parameter(torch.randn(rank, into) / rank)
            self.up[_key(name)] = nn.Parameter(torch.zeros(out, rank))
            unet.get_submodule(name).register_forward_hook(partial(_add, self, _key(name)))
        modules = {name: unet.get_submodule(name) for name in self.names}
        self.convolutions = frozenset(name for name, module in modules.items() if isinstance(module, nn.Conv2d))

    @torch.no_grad()
    def folded(self) -> dict[str, LowRank]:
        """By layer, on the host, alpha / rank multiplied into `up`."""
        return {
            name: LowRank(self.down[_key(name)].float().cpu(), self.scale * self.up[_key(name)].float().cpu())
            for name in self.names
        }

    @torch.no_grad()
    def load_folded(self, layers: Mapping[str, LowRank]) -> None:
        """Becomes what `folded` gave. ValueError where that is of other layers."""
        if layers.keys() != set(self.names):
            raise ValueError(
                f"the adapter is of {len(layers)} layers, wanted those {len(self.names)} that were trained"
            )
        for name, (down, up) in layers.items():
            self.down[_key(name)].copy_(down)
            self.up[_key(name)].copy_(up / self.scale)


def chosen_layers(unet: nn.Module, targets: Sequence[str]) -> list[str]:
    """The layers whose name ends with one of the targets ("to_q", "ff.net.2"). ValueError for one that none has."""
    names = sorted(adaptable_layers(unet))
    found = {target: [name for name in names if f".{name}".endswith(f".{target}")] for target in targets}
    if missing := [target for target, own in found.items() if not own]:
        ends = sorted({_end(name) for name in names})
        hints = "; ".join(f"{target!r}{nearest(target, ends)}" for target in missing)
        raise ValueError(f"targets: no layer that could be adapted ends so: {hints}; there are {', '.join(ends)}")
    return sorted({name for own in found.values() for name in own})


def _end(name: str) -> str:
    """ "down_blocks.0.attentions.1.to_out.0" is a "to_out.0": its last word, and the numbers behind it."""
    parts = name.split(".")
    return ".".join(parts[max(at for at, part in enumerate(parts) if not part.isdigit()) :])


def _key(name: str) -> str:
    """A layer's name as that of a parameter, in which no point may be."""
    return name.replace(".", "/")


def _add(layers: LowRankLayers, key: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    def addition(x: Tensor) -> Tensor:
        down, up = layers.down[key].to(x.dtype), layers.up[key].to(x.dtype)
        return layers.scale * nn.functional.linear(nn.functional.linear(x, down), up)

    return with_addition(module, inputs[0], output, addition)
