"""IF's safety checker and watermark, as its pipelines come with them, except that no picture is ever blacked out.

A stage's folder of diffusers' layout holds them in safety_checker/ (with the pictures' way into it in
feature_extractor/) and watermarker/. diffusers looks at the finished pictures of each pipeline; a cascade run here is
looked at once, at the last stage that a row goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker, IFWatermarker
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor

from darkroom.models.errors import ModelError
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.storage import to_uint8

THRESHOLD = 0.5  # of both heads, as in IF's pipelines
FLAGS = ("nsfw", "watermark")


@dataclass(frozen=True, eq=False)
class Safety:
    """What a stage's folder has of them; None for what it lacks."""

    checker: IFSafetyChecker | None
    processor: CLIPImageProcessor | None
    watermarker: IFWatermarker | None
    device: torch.device

    @torch.inference_mode()
    def flag(self, images: Tensor) -> list[list[str]]:
        """float32 [N, 3, S, S], about [-1, 1] -> of each picture the flags it earned, among FLAGS; none without a
        checker. `watermark` says that a picture seems to hold one, as those of stock agencies do."""
        if self.checker is None or not len(images):
            return [[] for _ in images]
        stored = torch.from_numpy(_stored(images)).permute(0, 3, 1, 2).to(self.device)
        pixels = self.processor(stored, return_tensors="pt")["pixel_values"]
        seen = self.checker.vision_model(pixels).image_embeds
        found = [head(seen).flatten() > THRESHOLD for head in (self.checker.p_head, self.checker.w_head)]
        return [[name for name, hit in zip(FLAGS, hits, strict=True) if hit] for hits in torch.stack(found, 1).tolist()]

    def watermark(self, images: Tensor) -> Tensor:
        """The pictures with IF's mark in the lower right corner, rounded to 8 bits; without a watermarker as they are.

        float32 [N, 3, S, S], about [-1, 1]; results lie on the host.
        """
        if self.watermarker is None or not len(images):
            return images
        marked = self.watermarker.apply_watermark([Image.fromarray(one) for one in _stored(images)])
        return torch.from_numpy(np.stack([np.asarray(one) for one in marked])).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_safety(folder: Path, device: torch.device | str = "cpu") -> Safety:
    """What lies in a stage's folder; where nothing does, a Safety that flags and marks nothing. ModelError if damaged.

    In float32: the checker looks at each picture once, and its verdict should not hang on a dtype.
    """
    device = torch.device(device)
    try:
        with naming_out_of_memory():
            return Safety(*_checker(folder, device), _watermarker(folder), device)
    except torch.OutOfMemoryError:
        raise  # of the device, and nothing is damaged
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the safety checker or watermark in {folder} cannot be loaded: {error}") from error


def _checker(folder: Path, device: torch.device) -> tuple[IFSafetyChecker | None, CLIPImageProcessor | None]:
    own = folder / "safety_checker"
    if not own.is_dir():
        return None, None
    checker = IFSafetyChecker(CLIPConfig.from_pretrained(own, local_files_only=True))
    # Not by from_pretrained: diffusers' class lacks what transformers 5 wants of one (all_tied_weights_keys).
    missing, unknown = checker.load_state_dict(load_file(own / "model.safetensors"), strict=False)
    unknown = [name for name in unknown if not name.endswith("position_ids")]  # a buffer in files of transformers 4
    if missing or unknown:
        raise ValueError(f"{own}/model.safetensors lacks {missing[:3]} and has {unknown[:3]} too many")
    processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
    return checker.eval().requires_grad_(False).to(device), processor


def _watermarker(folder: Path) -> IFWatermarker | None:
    own = folder / "watermarker"
    if not own.is_dir():
        return None
    return IFWatermarker.from_pretrained(own, local_files_only=True, low_cpu_mem_usage=False, use_safetensors=True)


def _stored(images: Tensor) -> np.ndarray:
    """uint8 [N, S, S, 3], as pictures are stored."""
    return to_uint8(images.float().cpu()).permute(0, 2, 3, 1).contiguous().numpy()
