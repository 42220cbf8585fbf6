"""SD3 and Flux at toy size: the real classes, with random weights, in the layout in which diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from toy_deepfloyd import WIDTH, save_clip_tokenizer, save_t5_tokenizer, small_t5, write_json
from toy_sd import FACTOR, SIDE, vae

Kind = Literal["sd3", "sd3-small", "flux-dev", "flux-schnell", "flux-fill", "flux-kontext"]
CHANNELS = 16  # of the state
FIRST, SECOND, POOLED = 8, 16, 12  # widths of CLIP's embeddings, and of the second's pooled one
_CLIP = {"num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 2 * 256 + 2, "intermediate_size": 16}
_CLIP |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0}


def save_toy_mmdit(folder: Path, kind: Kind) -> Path:
    """A pipeline of small pictures. sd3-small: without its T5, and with a shift that hangs on the size."""
    torch.manual_seed(get_args(Kind).index(kind))
    parts = _sd3(kind) if kind.startswith("sd3") else _flux(kind)
    named = {"flux-fill": "FluxFillPipeline", "flux-kontext": "FluxKontextPipeline"}
    index: dict[str, object] = {
        "_class_name": named.get(kind, "FluxPipeline"),
        "_diffusers_version": diffusers.__version__,
    }
    index |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if kind.startswith("sd3"):
        index |= {"_class_name": "StableDiffusion3Pipeline", "text_encoder_3": [None, None]}
        index["tokenizer_3"] = [None, None]
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(part).__name__]
        if name.startswith("text"):
            index[name.replace("text_encoder", "tokenizer")] = _save_tokenizer(folder, name, part)
    write_json(folder / "model_index.json", index)
    return folder


def _save_tokenizer(folder: Path, name: str, encoder: nn.Module) -> list[str]:
    place = folder / name.replace("text_encoder", "tokenizer")
    if type(encoder).__name__.startswith("T5"):
        save_t5_tokenizer(place)
        return ["transformers", "T5Tokenizer"]
    save_clip_tokenizer(place, pad="!" if name.endswith("_2") else "<|endoftext|>")
    return ["transformers", "CLIPTokenizer"]


def _sd3(kind: Kind) -> dict[str, nn.Module]:
    first = CLIPTextConfig(hidden_size=FIRST, projection_dim=FIRST, **_CLIP)
    second = CLIPTextConfig(hidden_size=SECOND, projection_dim=POOLED, **_CLIP)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=FIRST + POOLED,
        pos_embed_max_size=16,
        dual_attention_layers=() if kind == "sd3" else (0,),
        qk_norm=None if kind == "sd3" else "rms_norm",
    )
    shift = {"shift": 3.0} if kind == "sd3" else {"use_dynamic_shifting": True}
    parts = {
        "transformer": transformer,
        "vae": _vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(**shift),
        "text_encoder": CLIPTextModelWithProjection(first),
        "text_encoder_2": CLIPTextModelWithProjection(second),
    }
    return parts | ({"text_encoder_3": small_t5()} if kind == "sd3" else {})


def _flux(kind: Kind) -> dict[str, nn.Module]:
    dev = kind != "flux-schnell"
    transformer = FluxTransformer2DModel(
        in_channels=4 * (2 * CHANNELS + FACTOR**2 if kind == "flux-fill" else CHANNELS),
        out_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=FIRST,
        guidance_embeds=dev,
        axes_dims_rope=(2, 2, 4),
    )
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if dev else {"shift": 1.0}
    return {
        "transformer": transformer,
        "vae": _vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(**shift),
        "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=FIRST, projection_dim=FIRST, **_CLIP)),
        "text_encoder_2": small_t5(),
    }


def _vae() -> AutoencoderKL:
    scales = {"scaling_factor": 1.5305, "shift_factor": 0.0609}
    return vae(latent_channels=CHANNELS, use_quant_conv=False, use_post_quant_conv=False, **scales)
