"""The two text encoders of Stable Diffusion XL (arXiv 2307.01952): their embeddings side by side, and a pooled one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.models.families import read_index
from darkroom.models.memory import Memory
from darkroom.models.sources import Source
from darkroom.models.texts import Encoding, JoinedTextEncoder
from darkroom.sampling.prompt_keys import PromptKey
from darkroom.sampling.stage import CONDITION, POOLED, Fields


@dataclass(frozen=True)
class PairedEncoding:
    """As `Encoding`. An embedding is kept as one tensor [positions + 1, width of both]: the pooled one, of the second
    encoder alone, is its last row, filled up with zeros.

    zeros: whether no negative prompt at all is zeros, and not the empty text.
    """

    first: Encoding
    second: Encoding
    zeros: bool

    @classmethod
    def of(cls, source: Source) -> PairedEncoding:
        second = Encoding(source, None, "none", "text_encoder_2", "tokenizer_2")
        zeros = read_index(source).get("force_zeros_for_empty_prompt", True)
        return cls(Encoding(source, None, "none"), second, zeros)

    @property
    def config(self) -> dict[str, Any]:
        return {"first": self.first.config, "second": self.second.config}

    @property
    def positions(self) -> int:
        return self.first.positions

    @property
    def most_tokens(self) -> int:
        """See `Encoding.most_tokens`."""
        return self.first.most_tokens

    @property
    def layers(self) -> int | None:
        """See `Encoding.layers`: of the encoder that has fewer. One is left out whatever a row says."""
        return min(part.layers or 0 for part in (self.first, self.second)) - 1

    @property
    def shape(self) -> tuple[int, int]:
        (positions, first), (_, second) = self.first.shape, self.second.shape
        return positions + 1, first + second

    @cached_property
    def pooled(self) -> int:
        """Width of the pooled embedding."""
        return self.second.config.get("projection_dim", 512)

    def key(self, dtype: str) -> str:
        """16 hex: all that an embedding depends on besides the text."""
        return hashlib.sha256(f"{self.digest()} {dtype}".encode()).hexdigest()[:16]

    def digest(self) -> str:
        return hashlib.sha256(f"{self.first.digest()} {self.second.digest()} {self.zeros}".encode()).hexdigest()

    def fields(self, embedding: Tensor) -> Fields:
        """What a model is told, of an embedding as it is kept."""
        return {CONDITION: embedding[:-1], POOLED: embedding[-1, : self.pooled]}

    def tokens(self, keys: Sequence[str]) -> list[int]:
        """How many tokens each prompt takes, the longer one where it has two."""
        seconds = [PromptKey.read(key).second for key in keys]
        counts = self.first.tokens(keys)
        return [
            count if second is None else max(count, *self.second.tokens([second]))
            for count, second in zip(counts, seconds, strict=True)
        ]

    def load(self, device: torch.device, dtype: str) -> PairedTextEncoder:
        parts = [part.load_module(device, dtype) for part in (self.first, self.second)]
        return PairedTextEncoder(self, parts, device, dtype)

    def memory(self, dtype: str, prompts: int) -> Memory:
        """Of both, one after the other."""
        first, second = (part.memory(dtype, prompts) for part in (self.first, self.second))
        return Memory(first.weights + second.weights, max(first.activations, second.activations))


class PairedTextEncoder(JoinedTextEncoder):
    """SDXL's two."""

    encoding: PairedEncoding

    def _encode(self, keys: list[PromptKey]) -> Tensor:
        first, second = self.encoding.first, self.encoding.second
        left, _ = self._read(first, self.encoders[0], [key.prompt for key in keys], keys)
        seconds = [key.prompt if key.second is None else key.second for key in keys]
        right, pooled = self._read(second, self.encoders[1], seconds, keys)
        assert pooled is not None, "the second encoder projects"
        both = torch.cat([left, right], dim=-1)
        last = F.pad(pooled, (0, both.shape[-1] - pooled.shape[-1]))
        kept = torch.cat([both, last[:, None]], dim=1)
        if self.encoding.zeros:
            kept[[at for at, key in enumerate(keys) if key.nothing]] = 0
        return kept.to(self.dtype).cpu()

    def _read(
        self, encoding: Encoding, encoder: nn.Module, prompts: list[str], keys: list[PromptKey]
    ) -> tuple[Tensor, Tensor | None]:
        """The layer before the last, without the final norm, or one further down; and the pooled embedding, if any."""
        tokens = encoding.tokenize(prompts).to(self.device)
        answer = encoder(tokens.input_ids, output_hidden_states=True)
        layers = answer.hidden_states
        chosen = torch.stack([layers[-(key.clip_skip + 2)][at] for at, key in enumerate(keys)])
        return chosen, getattr(answer, "text_embeds", None)
