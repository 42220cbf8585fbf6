"""Weights from safetensors files straight onto a device: the module is built without memory, then given its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from darkroom.models import DTYPES as NAMES
from darkroom.models import EIGHT_BITS, WEIGHT_DTYPES
from darkroom.models.errors import ModelError
from darkroom.models.quantized import compute_in_bfloat16, in_eight_bits, layers_in_eight_bits
from darkroom.models.sources import Source, read_json
from darkroom.sampling.device import computes_in_bfloat16

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NAMES}
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # what the two libraries call their weights

_LONGEST_HEADER = 100_000_000  # bytes, as the format's own reader has it
_VARIANT = "fp16"
# Names that files older than today's classes have: the CLIP text model without its wrapper, attention of early VAEs.
_OLD_NAMES = [
    (re.compile(r"^text_model\."), ""),
    (re.compile(r"\.query\.(weight|bias)$"), r".to_q.\1"),
    (re.compile(r"\.key\.(weight|bias)$"), r".to_k.\1"),
    (re.compile(r"\.value\.(weight|bias)$"), r".to_v.\1"),
    (re.compile(r"\.proj_attn\.(weight|bias)$"), r".to_out.0.\1"),
]
_POSITIONS = "position_ids"  # 0, 1, 2, ...: kept by old files, and made by today's classes themselves


def check_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """What is computed in where weights are of that dtype. ModelError where there is none of the name, or the device
    does not compute in it."""
    if dtype not in WEIGHT_DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one we know ({', '.join(WEIGHT_DTYPES)})")
    held, dtype = dtype, EIGHT_BITS.get(dtype, dtype)
    if device.type == "cpu" and dtype == "float16":
        raise ModelError("float16 was asked for on a processor, which lacks it: use float32 (or bfloat16), or a GPU")
    if dtype == "bfloat16" and not computes_in_bfloat16(device):
        name = torch.cuda.get_device_name(device)
        asked = held if held == dtype else f"{held}, which is computed with in bfloat16,"
        raise ModelError(f"{asked} was asked for on a {name}, which lacks bfloat16: use float16 or float32")
    return DTYPES[dtype]


def weight_files(source: Source, folder: str, stem: str, dtype: str) -> list[str]:
    """The files that hold the weights of a folder, "" for the source's own, the index of a sharded one first.

    Of the half precision files and the full ones, those that fit the dtype; the others where only they are there.
    """
    names = source.names()
    start = f"{folder}/{stem}" if folder else stem
    full = [f"{start}.safetensors", f"{start}.safetensors.index.json"]
    half = [
        f"{start}.{_VARIANT}.safetensors",
        f"{start}.safetensors.index.{_VARIANT}.json",
        f"{start}.{_VARIANT}.safetensors.index.json",
    ]
    for name in full + half if dtype == "float32" else half + full:
        if name in names:
            return [name] if name.endswith(".safetensors") else [name, *_shards(source, folder, name)]
    raise ModelError(f"the model has no file {source.address}/{full[0]}, nor an index of several such files")


def _shards(source: Source, folder: str, index: str) -> list[str]:
    placed = read_json(source, index).get("weight_map")
    if not isinstance(placed, dict):
        raise ModelError(f"{source.address}/{index} has no 'weight_map', which says in which file a tensor lies")
    start = f"{folder}/" if folder else ""
    return [f"{start}{name}" for name in sorted(set(placed.values()))]


def load_module(
    source: Source,
    folder: str,
    stem: str,
    build: Callable[[], nn.Module],
    device: torch.device,
    dtype: str,
    keep_float32: tuple[str, ...] = (),
    always_float32: tuple[str, ...] = (),
) -> nn.Module:
    """The module that `build` makes, with the weights of the source's folder, in eval mode and without gradients.

    keep_float32: names of submodules that stay in float32 where the dtype is float16; always_float32: of submodules and
    parameters that do in either half. What the dtype holds in eight bits comes to the device in them, see `quantized`.
    Raises ModelError for files that are missing, damaged or another module's, and a dtype that the device lacks.
    """
    wanted = check_dtype(dtype, device)
    files = weight_files(source, folder, stem, dtype)
    root = source.fetch(files)
    with torch.device("meta"):
        module = build()
    kept = (*always_float32, *(keep_float32 if dtype == "float16" else ()))
    layers = layers_in_eight_bits(module, dtype)
    held = {f"{name}.weight": dtype for name in layers}
    tensors = _tensors([root / name for name in files if name.endswith(".safetensors")], device)
    _assign(module, tensors, wanted, kept, held)
    compute_in_bfloat16(layers.values(), dtype)
    return module.eval().requires_grad_(False)


def in_dtype(
    module: nn.Module, dtype: str, keep_float32: tuple[str, ...] = (), always_float32: tuple[str, ...] = ()
) -> nn.Module:
    """The module with its weights in a dtype, as `load_module` leaves them."""
    nn.Module.to(module, DTYPES[EIGHT_BITS.get(dtype, dtype)])  # not diffusers' own, which warns of what is not so here
    kept = (*always_float32, *(keep_float32 if dtype == "float16" else ()))
    for name, parameter in module.named_parameters():
        if any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.float()
    layers = layers_in_eight_bits(module, dtype).values()
    for layer in layers:
        layer.weight = nn.Parameter(in_eight_bits(layer.weight.data, dtype), requires_grad=False)
    compute_in_bfloat16(layers, dtype)
    return module


ReadPart = Callable[[int, int], bytes]  # of a file, as many bytes as the second number says from the first on


def read_header(read: ReadPart) -> tuple[int, dict[str, Any]]:
    """Of a safetensors file that need not lie here whole: where the tensors' bytes begin, and the directory of them,
    their metadata under "__metadata__". ValueError for a damaged one."""
    length = int.from_bytes(read(0, 8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError("its directory is longer than the format allows")
    return 8 + length, json.loads(read(8, length))


def read_tensor(read: ReadPart, header: tuple[int, dict[str, Any]], name: str) -> Tensor:
    """One tensor of a safetensors file. KeyError, ValueError or SafetensorError for a damaged one."""
    start, directory = header
    begin, end = directory[name]["data_offsets"]
    alone = json.dumps({name: {**directory[name], "data_offsets": [0, end - begin]}}).encode()
    return load(len(alone).to_bytes(8, "little") + alone + read(start + begin, end - begin))[name]


def _tensors(paths: list[Path], device: torch.device) -> Iterator[tuple[Path, str, Tensor]]:
    """Every tensor of the files, one after the other, on the device: no more than one is there in two dtypes."""
    for path in paths:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    yield path, name, file.get_tensor(name)
        except FileNotFoundError:
            raise ModelError(f"the model has no file {path}") from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged ({error}): fetch it again") from None


def _assign(
    module: nn.Module,
    tensors: Iterator[tuple[Path, str, Tensor]],
    dtype: torch.dtype,
    kept: tuple[str, ...],
    held: Mapping[str, str],
) -> None:
    """held: what is in eight bits, and in which."""
    wanted, given = module.state_dict(), {}
    path = Path()
    for path, name, tensor in tensors:
        own = _todays_name(name, wanted)
        if own is None:
            if name.endswith(_POSITIONS):
                continue
            raise ModelError(f"{path} holds a tensor {name!r}, for which the model's config.json has no place")
        shape = wanted[own].shape
        if _without_ones(tensor.shape) != _without_ones(shape):
            raise ModelError(
                f"{path}: the tensor {name!r} is {list(tensor.shape)}, and config.json wants {list(shape)}"
            )
        weight = tensor.reshape(shape).to(_own_dtype(own, tensor, dtype, kept))
        given[own] = in_eight_bits(weight, held[own]) if own in held else weight
    _share(module, given)
    if missing := sorted(wanted.keys() - given.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{path.parent} lacks the tensor {missing[0]!r}{more}, which the model's config.json wants")
    module.load_state_dict(given, assign=True)
    _make_positions(module, next(iter(given.values())).device)


def _without_ones(shape: torch.Size) -> list[int]:
    """A linear layer was a convolution of one pixel in some older files."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _own_dtype(name: str, tensor: Tensor, dtype: torch.dtype, kept: tuple[str, ...]) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if any(part in kept for part in name.split(".")) else dtype


def _todays_name(name: str, wanted: Mapping[str, Tensor]) -> str | None:
    if name in wanted:
        return name
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name if name in wanted else None


def _share(module: nn.Module, given: dict[str, Tensor]) -> None:
    """Parameters that are one in the module lie in the files once."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        present = next((name for name in names if name in given), None)
        given.update({name: given[present] for name in names if present is not None})


def _make_positions(module: nn.Module, device: torch.device) -> None:
    """Buffers that no file holds have no memory yet."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            assert name.endswith(_POSITIONS), f"nothing is known of the buffer {name}"
            owner = module.get_submodule(name.rpartition(".")[0])
            positions = torch.arange(buffer.shape[-1], device=device, dtype=buffer.dtype).expand(buffer.shape)
            owner.register_buffer(_POSITIONS, positions, persistent=False)


def config_of(source: Source, folder: str) -> dict:
    """A part's config.json. ModelError where the folder is missing."""
    if not any(name.startswith(f"{folder}/") for name in source.names()):
        raise ModelError(f"the model in {source.address} has no folder {folder!r}; a cascade needs it")
    return read_json(source, f"{folder}/config.json")
