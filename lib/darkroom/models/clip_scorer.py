"""Scores pictures by a CLIP model (arXiv 2103.00020) in transformers' layout."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
from transformers.utils import logging as transformers_logging

from darkroom.models.errors import ModelError
from darkroom.models.sources import open_source, read_json
from darkroom.models.weights import DTYPES
from darkroom.storage import to_uint8

_BATCH = 64  # pictures at a time
_TEXTS = 4096  # prompts whose embeddings are kept


class ClipScorer:
    """Cosine of a picture's embedding and a prompt's, in [-1, 1].

    A picture is judged as it is stored, in 8 bits, and brought to CLIP's size by the folder's preprocessor_config.json.
    Prompts are cut at the tokens CLIP has room for (77 in the published ones). Weights are safetensors only.
    """

    name: ClassVar = "clip"

    def __init__(self, address: str, device: torch.device, dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise ModelError(f"the scorer's dtype is {dtype!r}, wanted {', '.join(DTYPES)}")
        self.source, self.device, self.dtype = open_source(address), device, DTYPES[dtype]
        kind = read_json(self.source, "config.json").get("model_type")
        if kind != "clip":
            raise ModelError(f"{address} is no CLIP: the model_type in its config.json is {kind!r}, wanted 'clip'")
        names = self.source.names()
        for wanted in ("preprocessor_config.json", "tokenizer_config.json", "model.safetensors"):
            if wanted not in names and f"{wanted}.index.json" not in names:
                raise ModelError(f"{address} has no file {wanted}, which a CLIP in transformers' layout has")
        self._texts: dict[str, Tensor] = {}

    @cached_property
    def folder(self) -> Path:
        """Where the files lie on this machine; a bucket's are fetched."""
        return self.source.fetch(sorted(name for name in self.source.names() if _is_used(name)))

    @cached_property
    def revision(self) -> str:
        """16 hex over everything in the folder."""
        return self.source.digest([""])[:16]

    @cached_property
    def temperature(self) -> float:
        """CLIP's own, which it learnt: 1 / exp(logit_scale), 0.01 in the published ones."""
        return 1.0 / self._model.logit_scale.float().exp().item()

    def load(self) -> None:
        _ = self._model, self._tokenizer, self._processor

    def complaint(self, prompt: str) -> str:
        return "" if prompt.strip() else "the scorer 'clip' cannot judge by an empty prompt"

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ModelError(f"the scorer 'clip' takes pictures [N, 3, S, S], got {list(images.shape)}")
        pictures = torch.cat([self._see(part) for part in images.split(_BATCH)])
        texts = torch.stack([self._read(prompt) for prompt in prompts])
        return (pictures @ texts.T).cpu()

    def pixels(self, images: Tensor) -> Tensor:
        """float32 [N, 3, S, S] in [-1, 1] -> what the vision tower takes, on the device."""
        stored = to_uint8(images.to(self.device).float())
        return self._processor(stored.expand(-1, 3, -1, -1), return_tensors="pt")["pixel_values"]

    def _see(self, images: Tensor) -> Tensor:
        """[N, W], of length 1."""
        seen = self._model.get_image_features(pixel_values=self.pixels(images).to(self.dtype))
        return _unit(seen.pooler_output)

    def _read(self, prompt: str) -> Tensor:
        """[W], of length 1. Each prompt is read once, and alone, so that its neighbours have no say in it."""
        if prompt not in self._texts:
            if len(self._texts) == _TEXTS:
                self._texts.clear()
            length = self._model.config.text_config.max_position_embeddings
            tokens = self._tokenizer([prompt], truncation=True, max_length=length, return_tensors="pt")
            tokens = {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}
            self._texts[prompt] = _unit(self._model.get_text_features(**tokens).pooler_output)[0]
        return self._texts[prompt]

    @cached_property
    def _model(self) -> CLIPModel:
        transformers_logging.disable_progress_bar()
        try:
            model = CLIPModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=self.dtype
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"the CLIP in {self.source.address} cannot be loaded: {error}") from error
        return model.eval().requires_grad_(False).to(self.device)

    @cached_property
    def _tokenizer(self) -> AutoTokenizer:
        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def _processor(self) -> CLIPImageProcessor:
        return CLIPImageProcessor.from_pretrained(self.folder, local_files_only=True)


def _is_used(name: str) -> bool:
    """Not what other frameworks read, and no pickles."""
    weights = re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)
    return bool(weights) or (name.endswith((".json", ".txt")) and "/" not in name)


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)
