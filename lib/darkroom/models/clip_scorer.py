"""Scores pictures by a CLIP model (arXiv 2103.00020) in transformers' layout."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
from transformers.utils import logging as transformers_logging

from darkroom.models.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BATCH = 64  # pictures at a time
_TEXTS = 4096  # prompts whose embeddings are kept
# What has a say in a score; other files (README, weights of other frameworks) may come and go.
_SAYS = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
         "merges.txt", "special_tokens_map.json", "*.safetensors")  # fmt: skip


class ClipScorer:
    """Cosine of a picture's embedding and a prompt's, in [-1, 1].

    A picture is judged as it is stored, in 8 bits, and brought to CLIP's size by the folder's preprocessor_config.json.
    Prompts are cut at the tokens CLIP has room for (77 in the published ones). Weights are safetensors only.
    """

    name: ClassVar = "clip"

    def __init__(self, uri: str, device: torch.device, dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise ModelError(f"the scorer's dtype is {dtype!r}, wanted {', '.join(DTYPES)}")
        self.uri, self.device, self.dtype = uri, device, DTYPES[dtype]
        kind = _read_config(self.folder).get("model_type")
        if kind != "clip":
            raise ModelError(f"clip:{uri} is no CLIP: the model_type in its config.json is {kind!r}, wanted 'clip'")
        for wanted in ("preprocessor_config.json", "tokenizer_config.json", "*.safetensors"):
            if not any(self.folder.glob(wanted)):
                raise ModelError(f"clip:{uri} has no file {wanted}, which a CLIP in transformers' layout has")
        self._texts: dict[str, Tensor] = {}

    @cached_property
    def folder(self) -> Path:
        return local_folder(self.uri)

    @cached_property
    def revision(self) -> str:
        """16 hex of SHA-256 over everything that has a say in a score."""
        digest = hashlib.sha256()
        for path in sorted(path for pattern in _SAYS for path in self.folder.glob(pattern)):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while part := file.read(1 << 24):
                    digest.update(part)
        return digest.hexdigest()[:16]

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
        stored = ((images.to(self.device).float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
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
            raise ModelError(f"the CLIP in {self.uri} cannot be loaded: {error}") from error
        return model.eval().requires_grad_(False).to(self.device)

    @cached_property
    def _tokenizer(self) -> AutoTokenizer:
        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def _processor(self) -> CLIPImageProcessor:
        return CLIPImageProcessor.from_pretrained(self.folder, local_files_only=True)


def local_folder(uri: str) -> Path:
    """The folder itself. ModelError if it is not there."""
    if uri.startswith("s3://"):
        raise ModelError(f"a CLIP is opened from a local folder only, got {uri}: copy it")
    path = Path(uri.removeprefix("file://"))
    if not path.is_dir():
        raise ModelError(f"no CLIP in {uri}: it is no folder")
    return path


def _read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ModelError(f"no CLIP in {folder}: it has no config.json") from None
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not JSON: {error}") from None


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)
