"""Model directories without safetensors and PyArrow. The format: a header's length, the header as JSON, raw tensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the host."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        flat = torch.frombuffer(body[begin:end], dtype=_TYPES[about["dtype"]]) if end > begin else torch.empty(0)
        tensors[name] = flat.reshape(about["shape"]).clone()
    return tensors


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes float and integer tensors, on any device."""
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous().numpy().tobytes()
        about = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(raw)]}
        header[name], at = about, at + len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_model(folder: Path, name: str, network: dict, process: dict, training: dict, metrics: dict, weights) -> None:
    """A network's model directory, as `darkroom.models.network` describes it; config.json is written last."""
    write_safetensors(folder / "model.safetensors", weights)
    classes = [str(label) for label in range(network["num_classes"])]
    config = {"name": name, "kind": "network", "network": network, "process": process, "classes": classes}
    (folder / "config.json").write_text(json.dumps({**config, "training": training, "metrics": metrics}, indent=1))
