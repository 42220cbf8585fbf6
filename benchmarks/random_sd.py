"""Stable Diffusion with random weights, as pipelines of diffusers, for measurements: nothing is loaded.

sd-xs: as this project trains it; sd15, sdxl: at their true shapes, or tiny, for a processor.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from darkroom.models import sd_xs
from darkroom.models.stable_diffusion import UNET_SHAPES
from darkroom.training.painted_scenes import vocabulary

POSITIONS = 77
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
CLIPS = {  # hidden_size, num_hidden_layers, num_attention_heads
    "sd15": [(768, 12, 12)],
    "sdxl": [(768, 12, 12), (1280, 32, 20)],
}
SCALING = {"sd15": 0.18215, "sdxl": 0.13025}
TINY_CLIP = (32, 2, 2)
SHAPES = ("sd-xs", *CLIPS)


def random_pipeline(shape: str, device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Any:
    """The pipeline on the device, in that dtype; its VAE too."""
    torch.manual_seed(0)
    with torch.device(device):
        pipe = _small() if shape == "sd-xs" else _of_shape(shape, tiny)
    return pipe.to(device, dtype)


def _small() -> StableDiffusionPipeline:
    tokenizer = _tokenizer(sd_xs.TEXT_LENGTH)
    parts = {"vae": sd_xs.build_vae(), "unet": sd_xs.build_unet(), "scheduler": sd_xs.build_scheduler()}
    return _pipeline(tokenizer, sd_xs.build_text_encoder(tokenizer), **parts)


def _pipeline(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, **parts: Any) -> StableDiffusionPipeline:
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(tokenizer=tokenizer, text_encoder=encoder.eval(), **parts, **nothing)


def _of_shape(shape: str, tiny: bool) -> Any:
    sizes = [TINY_CLIP for _ in CLIPS[shape]] if tiny else CLIPS[shape]
    tokenizer = _tokenizer(POSITIONS)
    encoders = [_encoder(tokenizer, *size, projected=place > 0) for place, size in enumerate(sizes)]
    parts = {"vae": _vae(shape, tiny), "unet": _unet(shape, tiny)}
    if len(encoders) == 1:
        return _pipeline(tokenizer, *encoders, scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True), **parts)
    return StableDiffusionXLPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        add_watermarker=False,
        **parts,
    )


def _tokenizer(length: int) -> CLIPTokenizer:
    tokenizer = sd_xs.build_tokenizer(vocabulary())
    tokenizer.model_max_length = length
    return tokenizer


def _encoder(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, projected: bool) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _unet(shape: str, tiny: bool) -> UNet2DConditionModel:
    config = dict(UNET_SHAPES[shape])
    if tiny:
        width = TINY_CLIP[0] * len(CLIPS[shape])
        config |= {"sample_size": 8, "layers_per_block": 1, "cross_attention_dim": width, "attention_head_dim": 2}
        # The last level may be one element large, of which a norm wants more than one channel a group.
        config |= {"block_out_channels": [*[32] * (len(config["block_out_channels"]) - 2), 64, 64]}
    if tiny and "transformer_layers_per_block" in config:
        config |= {"transformer_layers_per_block": 1, "addition_time_embed_dim": 8}
        config |= {"projection_class_embeddings_input_dim": 6 * 8 + TINY_CLIP[0]}
    return UNet2DConditionModel.from_config(config).eval().requires_grad_(False)


def _vae(shape: str, tiny: bool) -> AutoencoderKL:
    widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    return AutoencoderKL(
        sample_size=8 * UNET_SHAPES[shape]["sample_size"],
        latent_channels=4,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if tiny else 2,
        scaling_factor=SCALING[shape],
    ).eval()
