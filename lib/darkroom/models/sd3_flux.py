"""SD3 and Flux by name: their repositories, and the commits that are meant. All but Flux schnell's weights are under
licences of their own, and all are behind a page on which they are accepted."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, tuple[str, ...]] = {
    "sd3": ("hf://stabilityai/stable-diffusion-3-medium-diffusers@ea42f8cef0f178587cf766dc8129abd379c90671",),
    "sd35": ("hf://stabilityai/stable-diffusion-3.5-medium@b940f670f0eda2d07fbb75229e779da1ad11eb80",),
    "sd35-large": ("hf://stabilityai/stable-diffusion-3.5-large@ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",),
    "flux-dev": ("hf://black-forest-labs/FLUX.1-dev@3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",),
    "flux-schnell": ("hf://black-forest-labs/FLUX.1-schnell@741f7c3ce8b383c54771c7003378a50191e9efe9",),
    "flux-fill": ("hf://black-forest-labs/FLUX.1-Fill-dev@358293da0354175698b67ec8299acf928313a78a",),
    "flux-kontext": ("hf://black-forest-labs/FLUX.1-Kontext-dev@af58063aa431f4d2bbc11ae46f57451d4416a170",),
}

_SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
}

# transformer/config.json as far as it shapes the network, for measurements on random weights. Nothing is loaded by
# these.
TRANSFORMER_SHAPES: dict[str, dict[str, Any]] = {
    "sd3": _SD3,
    "sd35": _SD3 | {"pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"},
    "sd35-large": _SD3
    | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
    "flux-dev": _FLUX | {"guidance_embeds": True},
    "flux-schnell": _FLUX,
}
PARAMETERS = {"sd3": 2028e6, "sd35": 2243e6, "sd35-large": 8057e6, "flux-dev": 11901e6}  # of the transformer alone

VAE_SHAPE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
