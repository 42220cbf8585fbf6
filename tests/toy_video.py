"""CogVideoX and Wan at toy size: the real classes, with random weights, in the layout in which diffusers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import diffusers
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from toy_deepfloyd import EXTRA_IDS, PIECES, WIDTH, save_t5_tokenizer, small_t5, write_json

Kind = Literal["cogvideox-2b", "cogvideox-5b", "wan", "wan22"]
WIDE, HIGH, FRAMES = 48, 32, 17  # of a video that names nothing
CHANNELS = 4


def save_toy_video(folder: Path, kind: Kind) -> Path:
    """A pipeline of small videos. 5b: it turns queries and keys by a token's place, and is walked by its DPM solver."""
    torch.manual_seed(get_args(Kind).index(kind))
    if kind == "wan":
        return _save(folder, "WanPipeline", _wan())
    if kind == "wan22":
        experts = _wan() | {"transformer_2": wan_transformer()}
        return _save(folder, "WanPipeline", experts, boundary_ratio=0.875)
    turns = kind == "cogvideox-5b"
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=WIDE // 8,
        sample_height=HIGH // 8,
        sample_frames=FRAMES,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=turns,
    )
    noised = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = CogVideoXDPMScheduler if turns else CogVideoXDDIMScheduler
    parts = {
        "transformer": transformer,
        "vae": cogvideox_vae(),
        "scheduler": scheduler(snr_shift_scale=1.0 if turns else 3.0, clip_sample=False, **noised),
        "text_encoder": small_t5(),
    }
    return _save(folder, "CogVideoXPipeline", parts)


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=96,  # of which a tile is half, and pieces that overlap must be whole latents
        sample_width=80,
        scaling_factor=0.7,
    )


def _wan() -> dict[str, Any]:
    umt5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return {
        "transformer": wan_transformer(),
        "vae": AutoencoderKLWan(
            base_dim=4,
            z_dim=CHANNELS,
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.8, 1.2, 1, 2],
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=PIECES + EXTRA_IDS, feed_forward_proj="gated-gelu", **umt5)
        ),
    }


def wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )


def _save(folder: Path, name: str, parts: dict[str, Any], **more: object) -> Path:
    index: dict[str, object] = {"_class_name": name, "_diffusers_version": diffusers.__version__, **more}
    for part, module in parts.items():
        module.save_pretrained(folder / part)
        index[part] = ["transformers" if part.startswith("text") else "diffusers", type(module).__name__]
    vae = json.loads((folder / "vae/config.json").read_text())
    # The hub's were written before there were these.
    write_json(folder / "vae/config.json", {key: vae[key] for key in vae if not key.startswith("scale_factor")})
    save_t5_tokenizer(folder / "tokenizer")
    write_json(folder / "model_index.json", index | {"tokenizer": ["transformers", "T5Tokenizer"]})
    return folder
