"""Depth of a picture by any depth model of transformers (DPT, GLPN, ZoeDepth, Depth Anything, ...): near is white."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from darkroom.models.errors import ModelError, refuse_replaced
from darkroom.models.sources import folder_digest, open_source, read_json

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_FARTHER_IS_MORE = frozenset({"glpn", "zoedepth", "depth_pro"})  # others answer with the inverse of a distance


@dataclass(frozen=True)
class StoredDepth:
    """A depth model as it lies. address: that any process opens it by; digest: of its files."""

    address: str
    digest: str

    @classmethod
    def at(cls, address: str) -> StoredDepth:
        """What lies at that address now. ModelError where it is no depth model, StorageError."""
        source = open_source(address)
        if lacking := {CONFIG, PROCESSOR} - source.names():
            raise ModelError(f"{address} holds no depth model: it has no {' and no '.join(sorted(lacking))}")
        names = read_json(source, CONFIG).get("architectures") or []
        if not any("DepthEstimation" in name or name.startswith("DepthPro") for name in names):
            raise ModelError(f"{address} is no depth model: its {CONFIG} names {', '.join(names) or 'no architecture'}")
        return cls(source.pinned, folder_digest(source))


def depth_map(stored: StoredDepth, picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [H, W, 3], three equal channels: from 0, the farthest there is, to 255, the nearest."""
    processor, model = _opened(stored)
    with torch.inference_mode():
        given = processor(images=picture, return_tensors="pt")
        found = model(**given).predicted_depth.float()[:, None]
    return to_levels(found, picture.shape[:2], farther_is_more(model.config))


def to_levels(depth: torch.Tensor, size: tuple[int, int], farther_is_more: bool) -> np.ndarray:
    """Depths float32 [1, 1, h, w] at a size (height, width), see `depth_map`."""
    depth = F.interpolate(depth, size=size, mode="bicubic", align_corners=False)[0, 0]
    depth = -depth if farther_is_more else depth
    least, most = depth.min(), depth.max()
    levels = ((depth - least) / (most - least).clamp(min=1e-12) * 255).round().to(torch.uint8).numpy()
    return np.ascontiguousarray(np.broadcast_to(levels[..., None], (*size, 3)))


def farther_is_more(config: Any) -> bool:
    """Whether a model of this config answers with distances."""
    metric = getattr(config, "depth_estimation_type", "relative") == "metric"
    return metric or config.model_type in _FARTHER_IS_MORE


@lru_cache(maxsize=1)
def _opened(stored: StoredDepth) -> tuple[Any, Any]:
    """Processor and model on the processor, kept by this process. ModelError where the files are other ones by now."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    source = open_source(stored.address)
    refuse_replaced("the depth model", stored.address, stored.digest, folder_digest(source))
    folder = source.fetch([name for name in source.names() if name.endswith((".json", ".safetensors"))])
    own: dict[str, Any] = {"local_files_only": True}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, **own)
        model = AutoModelForDepthEstimation.from_pretrained(folder, use_safetensors=True, **own)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the depth model {stored.address} cannot be opened: {error}") from None
    return processor, model.eval().requires_grad_(False)
