"""CogVideoX and Wan by name: their repositories, and the shapes of their networks. A run keeps the commit that their
main branch stood at when it began: no commit of theirs was to be had where this was written."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, tuple[str, ...]] = {
    "cogvideox-2b": ("hf://zai-org/CogVideoX-2b",),
    "cogvideox-5b": ("hf://zai-org/CogVideoX-5b",),
    "wan21-1.3b": ("hf://Wan-AI/Wan2.1-T2V-1.3B-Diffusers",),
    "wan21-14b": ("hf://Wan-AI/Wan2.1-T2V-14B-Diffusers",),
    "wan22-14b": ("hf://Wan-AI/Wan2.2-T2V-A14B-Diffusers",),
}

_COGVIDEOX = {
    "_class_name": "CogVideoXTransformer3DModel",
    "num_attention_heads": 30,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "time_embed_dim": 512,
    "text_embed_dim": 4096,
    "num_layers": 30,
    "sample_width": 90,
    "sample_height": 60,
    "sample_frames": 49,
    "patch_size": 2,
    "max_text_seq_length": 226,
    "use_rotary_positional_embeddings": False,
}
_WAN = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, 2, 2],
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
}

# transformer/config.json as far as it shapes the network, for measurements on random weights. Nothing is loaded by
# these.
TRANSFORMER_SHAPES: dict[str, dict[str, Any]] = {
    "cogvideox-2b": _COGVIDEOX,
    "cogvideox-5b": _COGVIDEOX
    | {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
    "wan21-1.3b": _WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan21-14b": _WAN,
}
PARAMETERS = {"cogvideox-2b": 1694e6, "cogvideox-5b": 5570e6, "wan21-1.3b": 1419e6, "wan21-14b": 14289e6}
VAE_SHAPES: dict[str, dict[str, Any]] = {
    "cogvideox": {
        "_class_name": "AutoencoderKLCogVideoX",
        "block_out_channels": [128, 256, 256, 512],
        "down_block_types": ["CogVideoXDownBlock3D"] * 4,
        "up_block_types": ["CogVideoXUpBlock3D"] * 4,
        "latent_channels": 16,
        "layers_per_block": 3,
        "temporal_compression_ratio": 4,
        "scaling_factor": 1.15258426,
    },
    "wan21": {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16},
}
