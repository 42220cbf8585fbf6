"""Stable Diffusion at toy size: the real classes, with random weights, in the layout in which diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from toy_deepfloyd import save_clip_tokenizer, write_json

Kind = Literal["sd", "inpaint", "sdxl"]
SIDE, FACTOR = 8, 4  # of the state, and pixels for each of its elements
WIDTH, SECOND_WIDTH, POOLED, SIZE_WIDTH = 16, 24, 12, 8
CLASSES = {
    "sd": "StableDiffusionPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}
_CLIP = {"num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 2 * 256 + 2, "intermediate_size": 16}
_CLIP |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0}


def save_toy_sd(folder: Path, kind: Kind = "sd", **scheduler: Any) -> Path:
    """A pipeline of 32 pixels. scheduler: what its scheduler_config.json has other than a DDIM that ends at 0."""
    torch.manual_seed({"sd": 0, "inpaint": 1, "sdxl": 2}[kind])
    unet(kind).save_pretrained(folder / "unet")
    vae().save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(hidden_size=WIDTH, projection_dim=WIDTH, **_CLIP)).save_pretrained(
        folder / "text_encoder"
    )
    save_clip_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    DDIMScheduler(**betas | scheduler).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": CLASSES[kind],
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if kind == "sdxl":
        _save_second_encoder(folder)
        index |= {
            "force_zeros_for_empty_prompt": True,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        }
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    else:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", index)
    return folder


def _save_second_encoder(folder: Path) -> None:
    config = CLIPTextConfig(hidden_size=SECOND_WIDTH, projection_dim=POOLED, **_CLIP)
    CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    save_clip_tokenizer(folder / "tokenizer_2", pad="!")


def unet(kind: Kind) -> UNet2DConditionModel:
    sized = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_WIDTH,
    }
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=9 if kind == "inpaint" else 4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH + SECOND_WIDTH if kind == "sdxl" else WIDTH,
        use_linear_projection=kind == "sdxl",
        **(sized if kind == "sdxl" else {}),
    )


def vae(**shape: Any) -> AutoencoderKL:
    """shape: what is to be otherwise."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE * FACTOR,
        **{"latent_channels": 4, **shape},
    )
