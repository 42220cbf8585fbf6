"""DeepFloyd IF by name: its repositories, the commits that are meant, and the shapes of its networks."""

from __future__ import annotations

from typing import Any

_I_XL = "hf://DeepFloyd/IF-I-XL-v1.0@c03d510e9b75bce9f9db5bb85148c1402ad7e694"
_II_L = "hf://DeepFloyd/IF-II-L-v1.0@609476ce702b2d94aff7d1f944dcc54d4f972901"
_X4 = "hf://stabilityai/stable-diffusion-x4-upscaler@572c99286543a273bfd17fac263db5a77be12c4c"

# A source per stage. Where no commit is written, main is resolved once, when a run starts; the run's record and the
# address that its workers open hold the commit.
PRESETS: dict[str, tuple[str, ...]] = {
    "deepfloyd-xl": (_I_XL, _II_L, _X4),
    "deepfloyd-l": ("hf://DeepFloyd/IF-I-L-v1.0", _II_L, _X4),
    "deepfloyd-m": ("hf://DeepFloyd/IF-I-M-v1.0", "hf://DeepFloyd/IF-II-M-v1.0", _X4),
}

_IF = {
    "act_fn": "gelu",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_norm": "group_norm",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "resnet_time_scale_shift": "scale_shift",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 64,
    "out_channels": 6,
}


def _base(width: int) -> dict[str, Any]:
    crossed = 3
    return _IF | {
        "sample_size": 64,
        "in_channels": 3,
        "layers_per_block": 3,
        "block_out_channels": [width * multiple for multiple in (1, 2, 3, 4)],
        "cross_attention_dim": 4 * width,
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * crossed,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * crossed + ["ResnetUpsampleBlock2D"],
    }


def _super_resolution(width: int, multiples: tuple[int, ...]) -> dict[str, Any]:
    crossed, plain = 2, 3
    widths = [width * multiple for multiple in multiples]
    return _IF | {
        "sample_size": 256,
        "in_channels": 6,
        "layers_per_block": [2, 2, 3, 5, 5],
        "block_out_channels": widths,
        "cross_attention_dim": widths[-1],
        "time_embedding_dim": widths[-1],
        "down_block_types": ["ResnetDownsampleBlock2D"] * plain + ["SimpleCrossAttnDownBlock2D"] * crossed,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * crossed + ["ResnetUpsampleBlock2D"] * plain,
        "class_embed_type": "timestep",
        "time_embedding_act_fn": "gelu",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1 / 0.7071,
        "mid_block_scale_factor": 1 / 0.7071,
        "only_cross_attention": True,
    }


# unet/config.json as far as it shapes the network, for measurements on random weights. Nothing is loaded by these.
# KNOWN are XL's widths (its model card quotes them) and the way of building (diffusers' scripts/convert_if.py); the
# others' widths are INFERRED from the published parameter counts, which they meet within 8 %; the upscaler's are those
# of Stable Diffusion 2's x4 configuration.
UNET_SHAPES: dict[str, dict[str, Any]] = {
    "IF-I-XL": _base(704),
    "IF-I-L": _base(320),
    "IF-I-M": _base(192),
    "IF-II-L": _super_resolution(192, (1, 2, 4, 6, 6)),
    "IF-II-M": _super_resolution(160, (1, 2, 3, 4, 4)),
    "x4-upscaler": {
        "sample_size": 128,
        "in_channels": 7,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": [256, 512, 512, 1024],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
        "attention_head_dim": 8,
        "cross_attention_dim": 1024,
        "only_cross_attention": [True, True, True, False],
        "use_linear_projection": True,
        "num_class_embeds": 1000,
    },
}
KNOWN = ("IF-I-XL",)
PARAMETERS = {"IF-I-XL": 4.3e9, "IF-I-L": 900e6, "IF-I-M": 400e6, "IF-II-L": 1.2e9, "IF-II-M": 450e6}  # as published

# text_encoder/config.json of every IF repository, google/t5-v1_1-xxl: 4.8 B parameters.
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}
