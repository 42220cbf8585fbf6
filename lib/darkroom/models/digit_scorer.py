"""Scores painted digits by the embedded MNIST classifier: the judge that fits `if-xs` and the MNIST networks."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from darkroom.models.classifier import EMBEDDED, ClassifierNetwork, mnist_classifier
from darkroom.models.errors import ModelError
from darkroom.models.painted_ink import COLOUR_SPREAD, COLOURS, DIGITS, Reading, read_digits

_NUMBERS = {word: number for number, word in enumerate(DIGITS)} | {str(n): n for n in range(10)}


class DigitScorer:
    """log P(digit) + log P(colour), each over the names that it knows; the colour only where the prompt names one.

    P(digit) is the classifier's, of the map of ink (how far each pixel is from the paper's colour towards the ink's).
    P(colour) is a softmax of the ink's squared distance to the named colours. So a score is the log of a likelihood,
    at most 0; a blank picture has the same score for every prompt, log(1/10) for its digit.

    It reads one digit on plain paper, 24 x 24, 48 x 48 or 28 x 28 pixels. It has learnt MNIST and nothing else: of a
    picture that shows no digit it still says which it is most like, and it cannot tell a digit from its lookalike. The
    paper ("on white") is not judged. A prompt must name exactly one digit, as a word or a numeral ("label 7" does).
    """

    name: ClassVar = "digits"
    temperature: ClassVar = 1.0  # they are log likelihoods already

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def revision(self) -> str:
        """16 hex of SHA-256 over the weights and what the colours are."""
        says = repr((COLOURS, COLOUR_SPREAD)).encode()
        return hashlib.sha256((EMBEDDED / "model.safetensors").read_bytes() + says).hexdigest()[:16]

    def load(self) -> None:
        _ = self._network

    def complaint(self, prompt: str) -> str:
        found = _digits(prompt)
        if len(found) == 1:
            return ""
        told = " and ".join(DIGITS[digit] for digit in found) if found else "none"
        return f"the scorer 'digits' wants a prompt that names one digit; {prompt!r} names {told}"

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        for complaint in filter(None, map(self.complaint, prompts)):
            raise ModelError(complaint)
        try:
            seen = read_digits(images.to(self.device), self._network)
        except ValueError as error:
            raise ModelError(f"the scorer 'digits': {error}") from None
        return torch.stack([_score(prompt, seen) for prompt in prompts], dim=1).float().cpu()

    @cached_property
    def _network(self) -> ClassifierNetwork:
        return mnist_classifier().load().to(self.device)


def _digits(prompt: str) -> list[int]:
    """The digits that a prompt names, each once, in order of appearance; "12" names none."""
    words = re.findall(r"[a-z]+|\d+", prompt.lower())
    return list(dict.fromkeys(_NUMBERS[word] for word in words if word in _NUMBERS))


def _score(prompt: str, seen: Reading) -> Tensor:
    """[N]. The first colour that is named is the ink's: "a red six on white"."""
    score = seen.digits[:, _digits(prompt)[0]]
    named = [word for word in re.findall(r"[a-z]+", prompt.lower()) if word in COLOURS]
    paper = re.search(rf"\bon (?:{'|'.join(COLOURS)})\b", prompt.lower())
    if not named or (paper and len(named) == 1):
        return score
    return score + seen.colours[:, list(COLOURS).index(named[0])]
