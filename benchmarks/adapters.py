"""What adapters cost: a pass of a Stable Diffusion UNet with them against one without, in turns, in one process.

    python benchmarks/adapters.py                            sd-xs' UNet on this machine's processor
    python benchmarks/adapters.py --device cuda --shape sd15 --dtype bfloat16 --capacity 16

Each slot has an adapter of its own to all of attention's linear layers, as LoRA files have; a row with several has more
slots. Weights are random. before: a run without adapters.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from darkroom.models.adapter_files import Adapter, LowRank
from darkroom.models.adapters import NUMBERS, SCALES, adaptable_layers, adapter_fields
from darkroom.models.predictors import UNetPredictor
from darkroom.models.sd_xs import build_unet
from darkroom.models.weights import DTYPES, in_dtype
from darkroom.sampling.diffusion import Diffusion

ENDS = ("to_q", "to_k", "to_v", "to_out.0")
SD15 = {  # runwayml/stable-diffusion-v1-5, unet/config.json
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
LENGTHS = {"sd-xs": 24, "sd15": 77}


def random_adapter(name: str, unet: UNet2DConditionModel, rank: int) -> Adapter:
    layers = {own: widths for own, widths in adaptable_layers(unet).items() if own.endswith(ENDS)}
    return Adapter(
        name, "", {own: LowRank(torch.randn(rank, into), torch.randn(out, rank)) for own, (into, out) in layers.items()}
    )


def predictor(asked: argparse.Namespace, adapters: int) -> UNetPredictor:
    torch.manual_seed(0)
    unet = build_unet() if asked.shape == "sd-xs" else UNet2DConditionModel(**SD15)
    unet = in_dtype(unet, asked.dtype).eval().requires_grad_(False)
    hung = [random_adapter(f"a{n}", unet, asked.rank) for n in range(adapters)]
    return UNetPredictor(unet, Diffusion.scaled_linear(), torch.device(asked.device), adapters=hung)


def inputs(asked: argparse.Namespace, model: UNetPredictor, slots: int, adapters: int) -> list[Tensor]:
    config, capacity = model.unet.config, asked.capacity
    side, length = config.sample_size, LENGTHS[asked.shape]
    parts = [
        torch.randn(capacity, 4, side, side),
        torch.zeros(capacity),
        torch.randn(capacity, length, config.cross_attention_dim),
        torch.zeros(capacity, dtype=torch.int64),
    ]
    if adapters:
        names = [f"a{n}" for n in range(adapters)]
        rows = [{names[(row + n) % adapters]: 0.7 for n in range(slots)} for row in range(capacity)]
        fields = [adapter_fields(row, names) for row in rows]
        parts += [torch.stack([own[name] for own in fields]) for name in (NUMBERS, SCALES)]
    return [part.to(asked.device) for part in parts]


@torch.inference_mode()
def seconds(call: Callable[[], Tensor], device: str) -> float:
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=LENGTHS, default="sd-xs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--capacity", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=8, help="of the run")
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    arms = {"before": (0, 0), "1 of a row": (1, asked.adapters), "2 of a row": (2, asked.adapters)}
    calls = {}
    for name, (slots, adapters) in arms.items():
        model = predictor(asked, adapters)
        calls[name] = partial(model, *inputs(asked, model, slots, adapters))
    for call in calls.values():
        seconds(call, asked.device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(asked.rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, asked.device))
    print(f"{asked.shape}, {asked.dtype} on {asked.device}, {asked.capacity} evaluations a pass, rank {asked.rank}")
    print(f"{'adapters':<12}{'ms a pass':>11}{'of before':>11}")
    for name, own in times.items():
        ratio = statistics.median(one / base for one, base in zip(own, times["before"], strict=True))
        print(f"{name:<12}{1000 * statistics.median(own):>11.1f}{ratio:>11.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
