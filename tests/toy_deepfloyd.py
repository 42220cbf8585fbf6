"""DeepFloyd IF and the x4 upscaler at toy size: the real classes, with random weights, in the real files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from diffusers.pipelines.deepfloyd_if.watermark import IFWatermarker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

WIDTH = 32  # of a T5 embedding; it has 77 positions, as IF's has
CLIP_WIDTH = 16
PIECES = 120
EXTRA_IDS = 100  # T5's tokenizer puts as many sentinels behind its pieces
CORPUS = """a lithograph of waterfalls
an oil painting of an old man
an oil painting of people around a campfire
a photo of the amalfi coast
a high quality photo
a man wearing a hat
a red one on white and a blue two on black, green three""".splitlines()


def save_toy_deepfloyd(
    folder: Path, stages: int = 3, *, sizes: tuple[int, ...] = (8, 16), fp16: bool = False, safety: bool = True
) -> Path:
    """stage1/, stage2/ (IF-I, IF-II of these sizes) and stage3/ (the upscaler, 4 x the size before) in a folder.

    A subfolder is a pipeline of diffusers, which can open it. fp16: with the half precision files beside the full ones.
    """
    torch.manual_seed(0)
    for number in range(1, min(stages, 2) + 1):
        _save_if(folder / f"stage{number}", number, sizes[number - 1], fp16, safety)
    if stages == 3:
        _save_upscaler(folder / "stage3", sizes[1], fp16)
    return folder


def _save_if(folder: Path, number: int, size: int, fp16: bool, safety: bool) -> None:
    _save(_if_unet(size, upscales=number > 1), folder / "unet", fp16)
    scheduler = {
        "variance_type": "learned_range",
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "epsilon",
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.95,
        "sample_max_value": 1.5 if number == 1 else 1.0,
    }
    DDPMScheduler(**scheduler).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "IFPipeline" if number == 1 else "IFSuperResolutionPipeline",
        "requires_safety_checker": safety,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "tokenizer": ["transformers", "T5Tokenizer"] if number == 1 else [None, None],
        "text_encoder": ["transformers", "T5EncoderModel"] if number == 1 else [None, None],
    }
    if number == 1:
        save_t5_tokenizer(folder / "tokenizer")
        _save(small_t5(), folder / "text_encoder", fp16, max_shard_size="20KB")
    else:
        index["image_noising_scheduler"] = ["diffusers", "DDPMScheduler"]
        DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    write_json(folder / "model_index.json", index | _save_safety(folder, safety))


def _save_safety(folder: Path, wanted: bool) -> dict[str, list[str | None]]:
    if not wanted:
        return dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"), [None, None])
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16, "projection_dim": 16}
    config = CLIPConfig(vision_config=vision, text_config=_CLIP_TEXT, projection_dim=16)
    IFSafetyChecker(config).save_pretrained(folder / "safety_checker")
    crop = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder / "feature_extractor")
    watermarker = IFWatermarker()
    watermarker.watermark_image[..., :] = torch.tensor([255.0, 0.0, 255.0, 255.0])
    watermarker.save_pretrained(folder / "watermarker")
    return {
        "safety_checker": ["deepfloyd_if", "IFSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "watermarker": ["deepfloyd_if", "IFWatermarker"],
    }


def _save_upscaler(folder: Path, size: int, fp16: bool) -> None:
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=7,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=CLIP_WIDTH,
        only_cross_attention=(True, False),
        use_linear_projection=True,
        num_class_embeds=1000,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=4 * size,
        scaling_factor=0.08333,
    )
    _save(unet, folder / "unet", fp16)
    _save(vae, folder / "vae", fp16)
    _save(CLIPTextModel(CLIPTextConfig(**_CLIP_TEXT)), folder / "text_encoder", fp16)
    for path in (folder / "text_encoder").glob("*.safetensors"):
        # As in the hub's file, which is older than today's class.
        save_file({f"text_model.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    save_clip_tokenizer(folder / "tokenizer")
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.0001, "beta_end": 0.02}
    sampling = {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    DDIMScheduler(**betas, **sampling).save_pretrained(folder / "scheduler")
    DDPMScheduler(**betas).save_pretrained(folder / "low_res_scheduler")
    index = {
        "_class_name": "StableDiffusionUpscalePipeline",
        "max_noise_level": 350,
        "low_res_scheduler": ["diffusers", "DDPMScheduler"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)


def _if_unet(size: int, upscales: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=6 if upscales else 3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        class_embed_type="timestep" if upscales else None,
    )


def small_t5() -> T5EncoderModel:
    shape = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=PIECES + EXTRA_IDS, feed_forward_proj="gated-gelu", **shape))


_CLIP_TEXT = {"hidden_size": CLIP_WIDTH, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_CLIP_TEXT |= {"vocab_size": 2 * 256 + 2, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0}


def save_t5_tokenizer(folder: Path) -> None:
    """What lies in IF's tokenizer folder: pieces and two small files, and no tokenizer.json."""
    folder.mkdir(parents=True)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=pieces,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    sentinels = [f"<extra_id_{number}>" for number in range(EXTRA_IDS)]
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": sentinels, **tokens})
    config = {"additional_special_tokens": sentinels, "extra_ids": EXTRA_IDS, "model_max_length": 512}
    write_json(
        folder / "tokenizer_config.json", config | tokens | {"sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer"}
    )


def save_clip_tokenizer(folder: Path, pad: str = "!") -> None:
    """CLIP's byte-level tokenizer without a merge: a letter is a token. pad: of Stable Diffusion's, the end's mark."""
    folder.mkdir(parents=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # As GPT-2 has it: bytes that do not print are shown as the characters from 256 on.
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    ends = [letter + "</w>" for letter in letters]
    tokens = [*letters, *ends, "<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    marks["pad_token"] = pad
    write_json(folder / "special_tokens_map.json", marks)
    config = {"model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer", **marks}
    write_json(folder / "tokenizer_config.json", config)


def _save(model: Any, folder: Path, fp16: bool, **how: Any) -> None:
    model.save_pretrained(folder, **how)
    if fp16:
        model.half().save_pretrained(folder, variant="fp16", **how)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))
