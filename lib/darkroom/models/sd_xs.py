"""The architecture of `sd-xs`: Stable Diffusion's own classes, at a size that a CPU trains in an hour.

48 x 48 pixels are 4 x 12 x 12 latents of a small AutoencoderKL; the UNet attends to a prompt's 24 positions at 6 x 6
and 3 x 3, and predicts v (arXiv 2202.00512) on Stable Diffusion's noise schedule.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE, LATENT_SIDE, LATENT_CHANNELS = 48, 12, 4
TEXT_LENGTH = 24  # positions a prompt fills, begin, end and padding included
TEXT_WIDTH = 96
_BEGIN, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def build_unet() -> UNet2DConditionModel:
    """With random weights: [B, 4, 12, 12], t, [B, 24, 96] -> [B, 4, 12, 12]."""
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(32, 64, 80),
        down_block_types=("DownBlock2D", down, down),
        up_block_types=(up, up, "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,  # diffusers reads it as the number of heads
        cross_attention_dim=TEXT_WIDTH,
        # The prompt's pooled embedding also joins the time's, as in DeepFloyd IF, and both scale what a block computes:
        # by cross-attention alone a word is bound to its shape only after many thousands of steps.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def build_control(unet: UNet2DConditionModel) -> ControlNetModel:
    """A control network that begins as a copy of the UNet's way down: hints [B, 3, 48, 48] in [0, 1] beside its inputs.

    Not by `ControlNetModel.from_unet`, which leaves out how many heads pool the prompt.
    """
    options = inspect.signature(ControlNetModel).parameters
    network = ControlNetModel(
        **{name: value for name, value in unet.config.items() if name in options},
        conditioning_embedding_out_channels=(8, 16, 32),  # a hint comes down by 4 as the latents do, not by 8
    )
    weights = network.state_dict()
    weights.update((name, value) for name, value in unet.state_dict().items() if name in weights)
    network.load_state_dict(weights)
    return network


def build_vae() -> AutoencoderKL:
    """With random weights: [B, 3, 48, 48] in [-1, 1] -> latents [B, 4, 12, 12] and back. Its scaling factor is 1: what
    it should be is known when it is trained."""
    return AutoencoderKL(
        sample_size=SIDE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=1,  # norms of few channels keep a colour's sign alone: a picture of one ink comes back grey
        scaling_factor=1.0,
        force_upcast=False,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule and, as its second version has it, v prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder with random weights: token ids [B, 24] -> embeddings [B, 24, 96]."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for embedding, scale in ((encoder.get_input_embeddings(), 0.2), (_positions(encoder), 0.1)):
        # CLIP's 0.02 leaves words alike for the first thousand steps, of the few that this model has
        torch.nn.init.normal_(embedding.weight, std=scale)
    return encoder


def _positions(encoder: CLIPTextModel) -> torch.nn.Embedding:
    return next(part for name, part in encoder.named_modules() if name.endswith("position_embedding"))


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges of its own: each of the words is one token, any other falls into characters."""
    alphabet = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    merges = _merges(words)
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet), *map("".join, merges), _BEGIN, _END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, model_max_length=TEXT_LENGTH
    )


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (arXiv 1508.07909) until each word is one piece. The most frequent pair is joined first, of as
    frequent ones the first by name: that of `tokenizers` depends on the run there."""
    spelled, merges = [[*word[:-1], word[-1] + _WORD_END] for word in sorted(set(words))], []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        spelled = [_joined(pieces, merges[-1]) for pieces in spelled]
    return merges


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def save_merges(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """vocab.json and merges.txt, in which other tools than transformers look for a CLIP tokenizer."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = "\n".join(map(" ".join, model["merges"]))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
