"""Adapter files (LoRA, arXiv 2106.09685): what low-rank addition they hold for each layer of a UNet or a transformer.

Three layouts, told apart by their keys and read without guessing: diffusers' (`unet.LAYER.lora.down.weight`, or
`lora_A`, or `transformer.LAYER...`), peft's (`base_model.model.LAYER.lora_A.weight`, with an adapter_config.json) and
kohya's (`lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`, with `.alpha`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from darkroom.models.errors import ModelError, refuse_replaced
from darkroom.models.sources import Source, file_sha256, open_source, read_json

METADATA = "lora_adapter_metadata"  # where diffusers' files say rank and alpha, as JSON
PEFT_CONFIG, CONFIG = "adapter_config.json", "config.json"
SHOWN = 8
EMBEDDED = {"sd-xs-yellowed": Path(__file__).parent / "sd_xs" / "lora-yellowed"}

# How a key ends, and whether the tensor goes down to the rank or up from it.
_ENDINGS = {
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    "_lora.down.weight": "down",  # of attention processors, as diffusers wrote them first
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
_PREFIX = re.compile(r"^(unet\.|transformer\.|base_model\.model\.)")
_FIRST_CODE = ("lora_unet_double_blocks_", "lora_unet_single_blocks_", "lora_unet_joint_blocks_")
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)$")
_TEXT = ("text_encoder.", "text_encoder_2.", "lora_te_", "lora_te1_", "lora_te2_")
_OTHER_KINDS = {  # how a key's last parts begin, in files of the LyCORIS and peft projects
    "hada_": "LoHa (arXiv 2108.06098)",
    "lokr_": "LoKr (arXiv 2309.14859)",
    "dora_scale": "DoRA (arXiv 2402.09353)",
    "lora_magnitude_vector": "DoRA (arXiv 2402.09353)",
    "lora_mid": "LoCon in Tucker's form",
    "oft_": "OFT (arXiv 2306.07280)",
    "diff": "a difference of whole weights",
}


class LowRank(NamedTuple):
    """What is added to a layer's weight: up @ down. down: float32 [rank, in]; up: float32 [out, rank], in which
    alpha / rank is folded."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Adapter:
    """name: what rows call it; digest: SHA-256 of its file; layers: of the UNet, by their names."""

    name: str
    digest: str
    layers: Mapping[str, LowRank]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(len(layer.down) for layer in self.layers.values())


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as it lies. name: what rows call it; address: that any process opens it by (of an embedded one its
    name, as each node has its own copy); digest: of its file."""

    name: str
    address: str
    digest: str

    @classmethod
    def at(cls, name: str, address: str) -> StoredAdapter:
        """What lies at that address now. ModelError, StorageError."""
        source, file = adapter_file(address)
        place = address if address in EMBEDDED else f"{source.address}/{file}"
        return cls(name, place, _digest(source, file))

    def load(self, targets: Mapping[str, tuple[int, int]]) -> Adapter:
        """See `read_adapter`; ModelError too where the file is another by now."""
        adapter = read_adapter(self.name, self.address, targets)
        refuse_replaced(f"the adapter {self.name!r}", self.address, self.digest, adapter.digest)
        return adapter


def adapter_source(address: str) -> Source:
    """The folder at an address, or that of an embedded adapter's name. ModelError."""
    return open_source(str(EMBEDDED.get(address, address)))


def adapter_file(address: str) -> tuple[Source, str]:
    """The folder and the name of the file of weights at an address: of the file itself, of a folder with one, or of the
    folder of a training, whose config.json names it; or by an embedded adapter's name. ModelError."""
    if address.endswith(".safetensors"):
        folder, _, name = address.rpartition("/")
        return open_source(folder or "."), name
    source = adapter_source(address)
    if CONFIG in source.names() and (named := read_json(source, CONFIG).get("weights")):
        return source, named
    files = sorted(name for name in source.names() if name.endswith(".safetensors"))
    if len(files) != 1:
        found = f"{len(files)}: {', '.join(files[:SHOWN])}" if files else "none"
        raise ModelError(f"{address} holds no adapter: wanted one file of .safetensors, found {found}")
    return source, files[0]


def read_weights(path: Path, address: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file of weights, and what it says beside them. address: of it, for people. ModelError where it
    is damaged."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as opened:
            return tensors, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{address} is damaged ({error}): fetch it again") from None


def read_adapter(name: str, address: str, targets: Mapping[str, tuple[int, int]]) -> Adapter:
    """The adapter at an address, for a UNet of these layers.

    targets: widths of what goes in and comes out, by layer. ModelError where the file is none, is another model's, or
    holds anything that would be left out.
    """
    source, file = adapter_file(address)
    tensors, metadata = read_weights(source.fetch([file]) / file, address)
    config = read_json(source, PEFT_CONFIG) if PEFT_CONFIG in source.names() else {}
    try:
        layers = parse_adapter(tensors, targets, _scales(metadata, config))
    except ModelError as error:
        raise ModelError(f"the adapter {name!r}, {address}: {error}") from None
    return Adapter(name, _digest(source, file), layers)


@dataclass(frozen=True)
class Scales:
    """alpha of layers for which no tensor says it; None: as large as the rank. patterns: of some layers, by the end of
    their name. by_root: alpha / sqrt(rank), as rank-stabilized ones are scaled (arXiv 2312.03732)."""

    alpha: float | None = None
    patterns: Mapping[str, float] | None = None
    by_root: bool = False

    def of(self, layer: str, rank: int, alpha: float | None) -> float:
        if alpha is None:
            found = [own for end, own in (self.patterns or {}).items() if layer.endswith(end)]
            alpha = found[0] if found else self.alpha
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if self.by_root else rank)


def parse_adapter(
    tensors: Mapping[str, Tensor], targets: Mapping[str, tuple[int, int]], scales: Scales | None = None
) -> dict[str, LowRank]:
    """Low-rank additions by layer. ModelError with the keys that are not understood, all of which are counted."""
    names, parts = layer_names(targets), dict[str, dict[str, Tensor]]()
    if other := _of_other_kinds(tensors):
        keys = [key for own in other.values() for key in own]
        raise ModelError(f"it is {' and '.join(other)}, and LoRA alone runs here: {_listed(keys)}")
    unknown, of_text = [], []
    for key, tensor in tensors.items():
        if key.startswith(_TEXT):
            of_text.append(key)
            continue
        layer, kind = _split(key, names)
        if layer is None:
            unknown.append(key)
        else:
            parts.setdefault(layer, {})[kind] = tensor
    if of_text:
        raise ModelError(f"it adapts the text encoder too, which does not run here: {_listed(of_text)}")
    if any(key.startswith(_FIRST_CODE) for key in unknown):
        raise ModelError(
            "it names layers as the first code of Flux and SD3 does, where the projections of an attention are one; "
            f"such files do not run here until their keys are diffusers' (transformer.LAYER.lora_A): {_listed(unknown)}"
        )
    if unknown:
        raise ModelError(f"keys that are no low-rank addition to a layer of this model: {_listed(unknown)}")
    if not parts:
        raise ModelError("it holds nothing")
    return {layer: _low_rank(layer, own, targets[layer], scales or Scales()) for layer, own in sorted(parts.items())}


def _of_other_kinds(keys: Iterable[str]) -> dict[str, list[str]]:
    """Keys of adapters that are no LoRA, by what they are."""
    found: dict[str, list[str]] = {}
    for key in keys:
        for part in key.split(".")[1:]:
            if kind := next((kind for begins, kind in _OTHER_KINDS.items() if part.startswith(begins)), None):
                found.setdefault(kind, []).append(key)
                break
    return found


def layer_names(targets: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """Every name that files have for a layer, and the layer."""
    names = {}
    for layer in targets:
        names[layer] = layer
        for network in ("unet", "transformer"):
            names[f"lora_{network}_{layer.replace('.', '_')}"] = layer
        if original := _original_name(layer):
            names[f"lora_unet_{original.replace('.', '_')}"] = layer
    return names


def _original_name(layer: str, per_level: int = 3) -> str:
    """What the first code of SDXL called a layer of an attention block, of `per_level` blocks with what halves them."""
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)", layer):
        side, level, block, rest = found[1], int(found[2]), int(found[3]), found[4]
        place = level * per_level + block + (side == "down")
        return f"{'input' if side == 'down' else 'output'}_blocks.{place}.1.{rest}"
    if found := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", layer):
        return f"middle_block.1.{found[1]}"
    return ""


def _split(key: str, names: Mapping[str, str]) -> tuple[str | None, str]:
    """The layer that a key is of, None where it is of none, and what it holds of it."""
    for ending, kind in _ENDINGS.items():
        if key.endswith(ending):
            stem = _PREFIX.sub("", key.removesuffix(ending))
            stem = _PROCESSOR.sub(lambda found: f".to_{found[1]}" + ".0" * (found[1] == "out"), stem)
            if stem in names:
                return names[stem], kind
    return None, ""


def _low_rank(layer: str, parts: Mapping[str, Tensor], widths: tuple[int, int], scales: Scales) -> LowRank:
    if "down" not in parts or "up" not in parts:
        raise ModelError(f"the layer {layer} has only {', '.join(parts)}, wanted down and up")
    down, up = (parts[kind].float() for kind in ("down", "up"))
    if any(tensor.ndim not in (2, 4) or tensor.shape[2:].numel() != 1 for tensor in (down, up)):
        raise ModelError(f"the layer {layer} is a convolution of more than one pixel, which does not run here")
    down, up = down.flatten(1), up.flatten(1)
    if (down.shape[1], up.shape[0]) != widths or down.shape[0] != up.shape[1]:
        found = f"{up.shape[0]} x {up.shape[1]} and {down.shape[0]} x {down.shape[1]}"
        raise ModelError(f"the layer {layer} takes {widths[0]} values and gives {widths[1]}, its additions are {found}")
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    return LowRank(down.contiguous(), up * scales.of(layer, len(down), alpha))


def _scales(metadata: Mapping[str, str], config: Mapping[str, Any]) -> Scales:
    """What a diffusers file's metadata or peft's adapter_config.json say."""
    says = dict(config)
    if METADATA in metadata:
        own = json.loads(metadata[METADATA])
        says |= {_PREFIX.sub("", key): value for key, value in own.items() if _PREFIX.match(key)}
    alpha = says.get("lora_alpha")
    return Scales(None if alpha is None else float(alpha), says.get("alpha_pattern"), bool(says.get("use_rslora")))


def _digest(source: Source, name: str) -> str:
    return file_sha256(source.fetch([name]) / name)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
    return ", ".join(sorted(keys)[:SHOWN]) + more
