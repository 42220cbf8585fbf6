"""Scorers: how well a picture shows what a prompt says."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from darkroom.models.errors import ModelError


class Scorer(Protocol):
    """What judges pictures by prompts. Weights are read at the first question, or by `load`.

    name, revision: what judged, to be recorded beside every score.
    temperature: what scores are divided by before a softmax compares them.
    """

    name: str
    revision: str
    temperature: float

    def load(self) -> None:
        """Reads the weights. ModelError where they are missing or damaged."""

    def complaint(self, prompt: str) -> str:
        """Why this prompt cannot be judged by, as the end of a sentence; "" where it can. Reads no weights."""

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """images float32 [N, 3, S, S] in [-1, 1], anywhere (beyond it they are clamped) -> float32 [N, len(prompts)],
        on the host; higher is a better likeness. ModelError for what it cannot judge."""


def open_scorer(uri: str, device: torch.device | str = "cpu", dtype: str = "float32") -> Scorer:
    """The scorer of that name: "digits", or "clip:ADDRESS", a CLIP of transformers' layout in a local folder, at an s3://
    uri or at hf://owner/name.

    dtype: of CLIP's weights, "float32", "bfloat16" or "float16". ModelError for an unknown name, or where the folder
    holds no CLIP.
    """
    kind, _, where = uri.partition(":")
    if uri == "digits":
        from darkroom.models.digit_scorer import DigitScorer

        return DigitScorer(torch.device(device))
    if kind == "clip" and where:
        # Here and not at the top: transformers costs seconds, which the digits' scorer need not pay.
        from darkroom.models.clip_scorer import ClipScorer

        return ClipScorer(where, torch.device(device), dtype)
    raise ModelError(f"no scorer {uri!r}: wanted digits, or clip: and a folder, s3://bucket/prefix or hf://owner/name")
