"""Stable Diffusion with random weights at SD 1.5's true shape, as its users have it on disk, and what hangs on it.

    python benchmarks/gpu_check_sd.py FOLDER [--tiny]

FOLDER/model is the pipeline in half precision, FOLDER/a0.safetensors and a1.safetensors are LoRA files of rank 16 in
diffusers' layout, FOLDER/canny is a control network none of whose layers says nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from adapters import random_adapter  # noqa: E402
from random_sd import random_pipeline  # noqa: E402

ADAPTERS, CONTROL = ("a0", "a1"), "canny"
PICTURE = ROOT / "manifests" / "inputs" / "three-blue-on-white.png"
RANK = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = random_pipeline("sd15", device, torch.float16, given.tiny)
    pipe.save_pretrained(given.folder / "model")
    for name in ADAPTERS:
        layers = random_adapter(name, pipe.unet, RANK).layers
        down = {f"unet.{layer}.lora_A.weight": low.down / low.down.shape[1] ** 0.5 for layer, low in layers.items()}
        up = {f"unet.{layer}.lora_B.weight": low.up / RANK for layer, low in layers.items()}
        save_file(down | up, given.folder / f"{name}.safetensors")
    levels = (8, 16, 32, 64) if given.tiny else (16, 32, 96, 256)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=levels)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    net.to(device, torch.float16).save_pretrained(given.folder / CONTROL)
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file()) / 1e9
    print(f"{size:.2f} GB, random weights, made in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
