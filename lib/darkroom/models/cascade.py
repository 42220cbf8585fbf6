"""A cascade of DeepFloyd IF's architecture in a folder of diffusers' layout: stages, text encoder, tokenizer.

config.json                          darkroom's own: name, stages with their steps, guidance, noise level; metrics
stage1/unet/ stage1/scheduler/       stage II and up also have image_noising_scheduler/
text_encoder/ tokenizer/
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel
from transformers.utils import logging as transformers_logging

from darkroom.models.diffusers_process import process_from_scheduler
from darkroom.models.errors import ModelError
from darkroom.sampling.plans import Stage
from darkroom.sampling.processes import Process

_LOCAL = {
    "local_files_only": True,
    "low_cpu_mem_usage": False,
}  # the latter wants another package, and saves nothing here


@dataclass(frozen=True)
class Cascade:
    """What can be known of a cascade without loading a weight."""

    folder: Path
    kind: ClassVar = "cascade"
    conditioning: ClassVar = "text"
    num_classes: ClassVar = None

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read_json(self.folder / "config.json")

    @property
    def name(self) -> str:
        return self.config["name"]

    @cached_property
    def revision(self) -> str:
        """Digest of everything that has a say in a picture: 16 hex of SHA-256 over the folder's models and settings."""
        digest = hashlib.sha256(json.dumps(self.config["stages"], sort_keys=True).encode())
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in (".json", ".safetensors") and path.parent != self.folder:
                digest.update(path.relative_to(self.folder).as_posix().encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(self._stage(number, own) for number, own in enumerate(self.config["stages"], start=1))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The picture sizes on offer, one a stage, ascending."""
        return tuple(stage.size for stage in self.stages)

    @property
    def default_size(self) -> int:
        """What a row gets that names no size: the first stage's."""
        return self.stages[0].size

    def predictor(self, number: int, device: torch.device) -> UNetPredictor:
        """Stage `number` (1, 2, ...) with its weights on the device, ready for the engine."""
        unet = UNet2DConditionModel.from_pretrained(self._part(f"stage{number}/unet"), **_LOCAL)
        return UNetPredictor(unet.eval().requires_grad_(False), self.stages[number - 1].process, device)

    def text_encoder(self, device: torch.device) -> TextEncoder:
        """The text encoder with its weights on the device."""
        transformers_logging.disable_progress_bar()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._part("tokenizer"), local_files_only=True)
        encoder = T5EncoderModel.from_pretrained(self._part("text_encoder"), local_files_only=True)
        return TextEncoder(tokenizer, encoder.eval().requires_grad_(False).to(device), device)

    def _stage(self, number: int, own: dict[str, Any]) -> Stage:
        unet = _read_json(self.folder / f"stage{number}/unet/config.json")
        process = process_from_scheduler(_read_json(self.folder / f"stage{number}/scheduler/scheduler_config.json"))
        channels = unet["out_channels"] // (2 if process.learned_variance else 1)
        return Stage(number, unet["sample_size"], channels, process, **own)

    def _part(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_dir():
            raise ModelError(f"the model in {self.folder} has no folder {name!r}; a cascade needs it")
        return path


class UNetPredictor:
    """A UNet as the engine asks it: see `darkroom.sampling.engine.Predictor`."""

    def __init__(self, unet: UNet2DConditionModel, process: Process, device: torch.device) -> None:
        self.unet = unet.to(device, memory_format=torch.channels_last)
        self.process, self.device = process, device
        self._takes_level = unet.config.class_embed_type is not None

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        more = {"class_labels": noise_level} if self._takes_level else {}
        x = x.contiguous(memory_format=torch.channels_last)
        return self.unet(x, timestep, encoder_hidden_states=condition, **more).sample.contiguous()


class TextEncoder:
    """Prompts to what the UNet attends to: every position up to the tokenizer's length, padding included."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, encoder: T5EncoderModel, device: torch.device) -> None:
        self.tokenizer, self.encoder, self.device = tokenizer, encoder, device

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> Tensor:
        """N sentences -> float32 [N, length, width], on the host.

        Each is encoded alone, so that an embedding does not depend on which prompts it was batched with.
        """
        return torch.cat([self._encode_one(prompt) for prompt in prompts])

    def _encode_one(self, prompt: str) -> Tensor:
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        states = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states.float().cpu()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"the model has no file {path}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
