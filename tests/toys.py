"""Small real things for tests: networks and a cascade with random weights, and predictors whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from darkroom.models.if_xs import build_scheduler, build_tokenizer
from darkroom.models.network import build_network, save_network
from darkroom.models.predictors import UNetPredictor
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.flow import Flow
from darkroom.sampling.processes import Process
from darkroom.storage import open_store
from toy_deepfloyd import save_toy_deepfloyd as save_toy_deepfloyd  # DeepFloyd IF's and the upscaler's own layout
from toy_sd import save_toy_sd as save_toy_sd  # Stable Diffusion's

SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
)
"""What is said where a device's memory ends."""


def make_row(task: str, **more: Any) -> dict[str, Any]:
    """A row in canonical form, as the plans take it."""
    return {"task": task, "seed": 0, "guidance": 7.0, "negative_prompt": "", **more}


def tiny_unet(size: int, *, channels: int = 3, super_resolution: bool = False, seed: int = 0) -> UNetPredictor:
    """IF's block types at toy width; text embeddings are [4, 32]."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=2 * channels if super_resolution else channels,
        out_channels=2 * channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        class_embed_type="timestep" if super_resolution else None,
    )
    process = Diffusion.cosine(learned_variance=True, threshold=(0.95, 1.5))
    return UNetPredictor(unet.eval().requires_grad_(False), process, torch.device("cpu"))


def save_toy_cascade(folder: Path, sizes: tuple[int, int] = (8, 16)) -> Path:
    """A cascade of two toy stages with random weights and a text encoder to go with them, in a folder."""
    for number, size in enumerate(sizes, start=1):
        unet = tiny_unet(size, super_resolution=number > 1, seed=number).unet
        unet.save_pretrained(folder / f"stage{number}/unet")
        build_scheduler().save_pretrained(folder / f"stage{number}/scheduler")
    build_scheduler().save_pretrained(folder / "stage2/image_noising_scheduler")
    tokenizer = build_tokenizer(["a", "red", "blue", "green", "one", "two", "three", "on", "white", "black"])
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    stages = [{}, {"steps": 4, "guidance": 4.0, "noise_level": 100}]
    (folder / "config.json").write_text(json.dumps({"name": "toy", "stages": stages}))
    return folder


def network_config(**network: Any) -> dict[str, Any]:
    """The config.json of a course UNet of 4 features that is a class-conditional flow, unless told otherwise."""
    course = {"architecture": "course-unet", "size": 28, "hidden": 4, "conditioning": "class", "num_classes": 10}
    return {"name": "toy-network", "kind": "network", "network": course | network, "process": Flow().to_config()}


def save_toy_network(uri: str, config: dict[str, Any] | None = None, seed: int = 0) -> str:
    """A network with random weights, statistics of its normalisations included, in a folder or at an s3:// uri."""
    config = config or network_config()
    torch.manual_seed(seed)
    network = build_network(config["network"])
    for name, parameter in network.named_parameters():
        if not parameter.any():  # a DDPM UNet begins with zeros, and would answer zero
            torch.nn.init.normal_(parameter, std=0.1)
        if name.startswith(("class", "unflatten", "up")):  # else a course UNet hardly hears its label
            parameter.data *= 2
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_network(open_store(uri), network.state_dict(), config)
    return uri


def signal_and_noise(process: Process, t: Tensor) -> Tensor:
    """Of x = signal x0 + noise eps at the times [B], whole or not: float32 [2, B, 1, 1, 1]."""
    return torch.tensor([process.level(time)[:2] for time in t.tolist()]).T[:, :, None, None, None]


class CountingPredictor:
    """A predictor from a function of (x, t, condition), or one that always knows the picture `truth`."""

    device = torch.device("cpu")

    def __init__(self, process: Process, predict: Callable[..., Tensor] | None, truth: Tensor | None = None) -> None:
        self.process, self.predict, self.truth = process, predict or self._exact, truth
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.predict(x, timestep, condition)

    def _exact(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        if self.process.kind == "flow":
            return (self.truth - x) / (1 - t[:, None, None, None]).clamp(min=1e-6)
        signal, spread = signal_and_noise(self.process, t)
        return (x - signal * self.truth) / spread
