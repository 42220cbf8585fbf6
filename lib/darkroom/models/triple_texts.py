"""How SD3 and Flux read: by CLIPs and a T5, whose embeddings stand one behind the other, and a pooled one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.models.memory import Memory
from darkroom.models.sources import Source
from darkroom.models.texts import Encoding, JoinedTextEncoder
from darkroom.models.weights import config_of
from darkroom.sampling.prompt_keys import PromptKey
from darkroom.sampling.stage import CONDITION, POOLED, Fields

SD3_LENGTH, FLUX_LENGTH = 256, 512  # of T5's embeddings, as the pipelines have them unless they are told otherwise


@dataclass(frozen=True)
class TripleEncoding:
    """As `Encoding`. An embedding is kept as one tensor [positions + 1, width]: the pooled one is its last row.

    clips: SD3's two, whose embeddings stand side by side before T5's, filled up with zeros to its width; of Flux' one
    only the pooled one counts. t5: None where a folder has none, and zeros stand for it; length: of its embeddings.
    """

    clips: tuple[Encoding, ...]
    t5: Encoding | None
    length: int
    width: int

    @classmethod
    def of_sd3(cls, source: Source) -> TripleEncoding:
        clips = (Encoding(source, None, "none"), Encoding(source, None, "none", "text_encoder_2", "tokenizer_2"))
        there = "text_encoder_3/config.json" in source.names()
        t5 = Encoding(source, SD3_LENGTH, "none", "text_encoder_3", "tokenizer_3") if there else None
        return cls(clips, t5, SD3_LENGTH, config_of(source, "transformer")["joint_attention_dim"])

    @classmethod
    def of_flux(cls, source: Source) -> TripleEncoding:
        t5 = Encoding(source, FLUX_LENGTH, "none", "text_encoder_2", "tokenizer_2")
        width = config_of(source, "transformer")["joint_attention_dim"]
        return cls((Encoding(source, None, "none"),), t5, FLUX_LENGTH, width)

    @property
    def parts(self) -> tuple[Encoding, ...]:
        """Every encoder."""
        return self.clips if self.t5 is None else (*self.clips, self.t5)

    @property
    def attends_to_clip(self) -> bool:
        """Whether the model sees the CLIPs' positions, and not their pooled embedding alone."""
        return len(self.clips) > 1

    @property
    def config(self) -> dict[str, Any]:
        return {part.folder: part.config for part in self.parts}

    @property
    def positions(self) -> int:
        return self.length + (self.clips[0].positions if self.attends_to_clip else 0)

    @property
    def most_tokens(self) -> int:
        """See `Encoding.most_tokens`: of T5, which reads most."""
        return self.parts[-1].most_tokens

    @property
    def layers(self) -> int | None:
        """See `PairedEncoding.layers`."""
        return min(clip.layers or 0 for clip in self.clips) - 1 if self.attends_to_clip else None

    @property
    def shape(self) -> tuple[int, int]:
        return self.positions + 1, self.width

    @cached_property
    def pooled(self) -> int:
        """Width of the pooled embedding."""
        return sum(clip.config["projection_dim" if self.attends_to_clip else "hidden_size"] for clip in self.clips)

    def key(self, dtype: str) -> str:
        """16 hex: all that an embedding depends on besides the text."""
        return hashlib.sha256(f"{self.digest()} {dtype} {self.length}".encode()).hexdigest()[:16]

    def digest(self) -> str:
        return hashlib.sha256(" ".join(part.digest() for part in self.parts).encode()).hexdigest()

    def fields(self, embedding: Tensor) -> Fields:
        """What a model is told, of an embedding as it is kept."""
        return {CONDITION: embedding[:-1], POOLED: embedding[-1, : self.pooled]}

    def tokens(self, keys: Sequence[str]) -> list[int]:
        """How many tokens each prompt takes of the encoder that reads most."""
        return self.parts[-1].tokens([self._texts(PromptKey.read(key))[-1] for key in keys])

    def load(self, device: torch.device, dtype: str) -> TripleTextEncoder:
        return TripleTextEncoder(self, [part.load_module(device, dtype) for part in self.parts], device, dtype)

    def memory(self, dtype: str, prompts: int) -> Memory:
        """Of all, one after the other."""
        own = [part.memory(dtype, prompts) for part in self.parts]
        return Memory(sum(one.weights for one in own), max(one.activations for one in own))

    def _texts(self, key: PromptKey) -> list[str]:
        """What each part reads: a second prompt is for the second."""
        texts = [key.prompt] * len(self.parts)
        if key.second is not None:
            texts[1:2] = [key.second]
        return texts


class TripleTextEncoder(JoinedTextEncoder):
    """CLIPs and a T5."""

    encoding: TripleEncoding

    def _encode(self, keys: list[PromptKey]) -> Tensor:
        texts = list(zip(*map(self.encoding._texts, keys), strict=True))
        count = len(self.encoding.clips)
        layers, pooled = zip(*(self._read_clip(at, list(texts[at]), keys) for at in range(count)), strict=True)
        parts = [self._wide(torch.cat(layers, dim=-1))] if self.encoding.attends_to_clip else []
        last = self._wide(torch.cat(pooled, dim=-1)[:, None])
        return torch.cat([*parts, self._read_t5(texts, len(keys)), last], dim=1).to(self.dtype).cpu()

    def _read_clip(self, at: int, prompts: list[str], keys: list[PromptKey]) -> tuple[Tensor, Tensor]:
        """The layer before the last, or one further down, without the final norm; and the pooled embedding: SD3's is
        projected."""
        tokens = self.encoding.clips[at].tokenize(prompts).to(self.device)
        answer = self.encoders[at](tokens.input_ids, output_hidden_states=True)
        chosen = torch.stack([answer.hidden_states[-(key.clip_skip + 2)][n] for n, key in enumerate(keys)])
        return chosen, answer.text_embeds if self.encoding.attends_to_clip else answer.pooler_output

    def _read_t5(self, texts: list[tuple[str, ...]], count: int) -> Tensor:
        """Every position, padding included, which no mask hides from it."""
        if self.encoding.t5 is None:
            return torch.zeros(count, self.encoding.length, self.encoding.width, device=self.device, dtype=self.dtype)
        tokens = self.encoding.t5.tokenize(list(texts[-1])).to(self.device)
        return self.encoders[-1](tokens.input_ids).last_hidden_state.to(self.dtype)

    def _wide(self, embeddings: Tensor) -> Tensor:
        return F.pad(embeddings, (0, self.encoding.width - embeddings.shape[-1]))
