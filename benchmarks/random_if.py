"""DeepFloyd IF with random weights at its true shapes, for measurements: nothing is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from mix import Row, Studio, prompts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from darkroom.models.deepfloyd import UNET_SHAPES
from darkroom.models.memory import Memory, measure
from darkroom.models.predictors import UNetPredictor
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.engine import Predictor
from darkroom.sampling.stage import Stage

logging.set_verbosity_error()  # it warns of casting, which no module here minds
POSITIONS = 77
UPSCALED = 256  # the x4 upscaler's latents are as large as the picture that it enlarges
SCHEDULER = {  # of IF's first stage
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
TINY = {
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "cross_attention_dim": 64,
    "encoder_hid_dim": 32,
    "attention_head_dim": 8,
    "addition_embed_type_num_heads": 2,
    "time_embedding_dim": None,
}


def shape_of(name: str, tiny: bool) -> dict[str, Any]:
    """The configuration of a UNet by its name; tiny: of the same kind, for a processor."""
    return UNET_SHAPES[name] | (TINY if tiny and name != "x4-upscaler" else {})


def process_of(shape: dict[str, Any]) -> Diffusion:
    most = 1.5 if shape["in_channels"] == 3 else 1.0
    return Diffusion.cosine(learned_variance=True, threshold=(0.95, most))


def make_predictor(
    shape: dict[str, Any], device: torch.device, dtype: torch.dtype, fused: bool = False
) -> UNetPredictor:
    """Weights as the network's own initialisation has them, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(shape)
    return UNetPredictor(unet.eval().requires_grad_(False).to(dtype), process_of(shape), device, fused=fused)


def inputs(shape: dict[str, Any], capacity: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the engine asks at one pass."""
    size = UPSCALED if shape["in_channels"] == 7 else shape["sample_size"]
    width = shape.get("encoder_hid_dim") or shape["cross_attention_dim"]
    x = torch.randn(capacity, shape["in_channels"], size, size, device=device)
    times = torch.arange(capacity, device=device) * 10 % 1000
    condition = torch.randn(capacity, POSITIONS, width, device=device).to(dtype)
    return x, times, condition, torch.full((capacity,), 250, device=device)


def needs(shape: dict[str, Any], capacity: int, dtype: torch.dtype) -> tuple[float, float, Memory]:
    """Parameters, FLOPs of one evaluation (2 a multiply-add) and memory of one pass, from the meta device."""
    meta = torch.device("meta")
    with meta:
        unet = UNet2DConditionModel.from_config(shape).eval().requires_grad_(False).to(dtype)
    predictor = UNetPredictor(unet, process_of(shape), meta)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        predictor(*inputs(shape, 1, meta, dtype))
    memory = measure(unet, lambda: predictor(*inputs(shape, capacity, meta, dtype)))
    return sum(p.numel() for p in unet.parameters()), counted.get_total_flops(), memory


class LayoutChanges(TorchDispatchMode):
    """Counts, by operator, answers whose dimensions lie in another order than those of the first tensor given that has
    as many: each is a permuting copy, or hides one. What a compiler makes of it is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        answer, before = func(*args, **kwargs or {}), list(_flat(args))
        places = {_place(one) for one in before}
        for made in _flat((answer,)):
            first = next((one for one in before if one.ndim == made.ndim > 2), made)
            # One that lies where something given lies is a view, or written in place, and moves nothing.
            if _place(made) not in places and _order(made) != _order(first):
                self.seen[func.overloadpacket.__name__] += 1
        return answer


def _flat(given: Iterable[Any]) -> Iterator[Tensor]:
    for one in given:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _flat(one)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions by how far apart their neighbours lie, the farthest first; those of one element left out."""
    dimensions = [at for at, size in enumerate(tensor.shape) if size > 1]
    return tuple(sorted(dimensions, key=lambda at: -tensor.stride(at)))


def studio_of(predictor: Predictor, shape: dict[str, Any], rows: list[Row], dtype: torch.dtype) -> Studio:
    """A first stage whose prompts are embedded at random, each as itself."""

    def embedding(prompt: str) -> Tensor:
        drawn = np.random.default_rng(list(prompt.encode())).standard_normal((POSITIONS, shape["encoder_hid_dim"]))
        return torch.from_numpy(drawn).to(dtype)

    stage = Stage(1, shape["sample_size"], 3, predictor.process)
    studio = Studio(predictor, stage, SCHEDULER, {prompt: embedding(prompt) for prompt in prompts(rows)})
    studio.stride = rows[0]["stride"]
    return studio


def plain(row: Row, stride: int) -> Row:
    """A row of the mix as plans take it, without the manifest's own reading, which wants more packages."""
    start = {"start": min(row["start"], 1000 // stride - 1)} if "start" in row else {}
    return {"guidance": 7.0, "negative_prompt": ""} | row | {"stride": stride} | start
