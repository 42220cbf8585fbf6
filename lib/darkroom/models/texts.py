"""Text encoders: T5 of DeepFloyd IF, CLIP of Stable Diffusion and the x4 upscaler, the small T5 of our own cascade."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer
from transformers.utils import logging

from darkroom.models.errors import ModelError
from darkroom.models.memory import Memory, measure
from darkroom.models.sources import Source
from darkroom.models.weights import TRANSFORMERS, config_of, in_dtype, load_module
from darkroom.sampling.prompt_keys import PromptKey

COGVIDEOX_LENGTH, WAN_LENGTH = 226, 512
IF_LENGTH = 77  # IF was trained on T5 embeddings of 77 positions, whatever T5 itself can take
BATCH = 16  # prompts a pass on a GPU
_TOKENIZERS = {"tokenizer.json": PreTrainedTokenizerFast, "spiece.model": T5Tokenizer, "vocab.json": CLIPTokenizer}

Cleaning = Literal["none", "lower strip", "blanks"]
Padding = Literal["masked", "seen", "zeroed"]


@dataclass(frozen=True)
class Encoding:
    """How a cascade reads text: the text_encoder/ and tokenizer/ of a source, and what is done before.

    folder, tokens_folder: of another encoder of the source. length: positions, padding included; None: the tokenizer's
    own. cleaning: IF's is lower case without outer spaces
    (diffusers' `_text_preprocessing`, which cleans captions further only where two more packages are installed).
    blanks: Wan's undoes HTML's entities and makes one blank of several (its pipeline mends broken Unicode besides,
    where one more package is installed).
    padding: whether T5 sees it, as CogVideoX reads, or a mask hides it; zeroed: and the model is told zeros for it.
    """

    source: Source
    length: int | None
    cleaning: Cleaning
    folder: str = "text_encoder"
    tokens_folder: str = "tokenizer"
    padding: Padding = "masked"

    @cached_property
    def config(self) -> dict[str, Any]:
        return config_of(self.source, self.folder)

    @property
    def is_clip(self) -> bool:
        return any(name.startswith("CLIPText") for name in self.config.get("architectures") or ())

    @property
    def projects(self) -> bool:
        """Whether it gives a pooled embedding too."""
        return "CLIPTextModelWithProjection" in (self.config.get("architectures") or ())

    @property
    def layers(self) -> int | None:
        """Of CLIP's layers, some of the last of which a row may leave out; None for other encoders."""
        return self.config.get("num_hidden_layers", 12) if self.is_clip else None

    @property
    def shape(self) -> tuple[int, int]:
        """Of an embedding, as it is kept."""
        return self.positions, self.config["hidden_size" if self.is_clip else "d_model"]

    @property
    def _kept(self) -> tuple[str, ...]:
        """transformers keeps T5's `wo` whole in half precision, whose range its values leave."""
        return () if self.is_clip else ("wo",)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; ModelError where its files are none that we know."""
        names = self.source.names()
        own = f"{self.tokens_folder}/"
        found = next((name for name in _TOKENIZERS if own + name in names), None)
        if found is None:
            known = ", ".join(_TOKENIZERS)
            raise ModelError(
                f"{self.source.address}/{self.tokens_folder} holds none of {known}: no tokenizer can be made of it"
            )
        folder = self.source.fetch(name for name in names if name.startswith(own))
        return _TOKENIZERS[found].from_pretrained(folder / self.tokens_folder, local_files_only=True)

    @property
    def positions(self) -> int:
        """Tokens that an embedding has, padding included."""
        return self.length or self.tokenizer.model_max_length

    @property
    def most_tokens(self) -> int:
        """Of a prompt that is read whole."""
        return self.positions

    def key(self, dtype: str) -> str:
        """16 hex: all that an embedding depends on besides the text."""
        says = f"{self.digest()} {dtype} {self.cleaning} {self.length}{_unless(self.padding, 'masked')}"
        return hashlib.sha256(says.encode()).hexdigest()[:16]

    def digest(self) -> str:
        """Of the encoder's and the tokenizer's files."""
        return self.source.digest((self.folder, self.tokens_folder))

    def clean(self, prompt: str) -> str:
        if self.cleaning == "blanks":
            return " ".join(html.unescape(html.unescape(prompt)).split())
        return prompt.lower().strip() if self.cleaning == "lower strip" else prompt

    def fields(self, embedding: Tensor) -> Tensor:
        """What a model is told, of an embedding as it is kept: all of it."""
        return embedding

    def tokens(self, keys: Sequence[str]) -> list[int]:
        """How many tokens each prompt takes, the end mark included, before anything is cut off. keys: of PromptKey."""
        prompts = [self.clean(PromptKey.read(key).prompt) for key in keys]
        return [len(self.tokenizer(prompt, verbose=False).input_ids) for prompt in prompts]

    def tokenize(self, prompts: list[str]) -> Any:
        """input_ids and attention_mask [N, positions]."""
        cleaned = [self.clean(prompt) for prompt in prompts]
        options = {"padding": "max_length", "truncation": True, "max_length": self.positions}
        return self.tokenizer(cleaned, return_tensors="pt", **options)

    def build(self) -> nn.Module:
        models = import_models()
        if self.is_clip:
            own = models.CLIPTextModelWithProjection if self.projects else models.CLIPTextModel
            return own(models.CLIPTextConfig.from_dict(self.config))
        if self.config.get("model_type") == "umt5":
            return models.UMT5EncoderModel(models.UMT5Config.from_dict(self.config))
        return models.T5EncoderModel(models.T5Config.from_dict(self.config))

    def load(self, device: torch.device, dtype: str) -> TextEncoder:
        """The encoder with its weights on the device."""
        return TextEncoder(self, self.load_module(device, dtype), device, dtype)

    def load_module(self, device: torch.device, dtype: str) -> nn.Module:
        logging.disable_progress_bar()
        return load_module(self.source, self.folder, TRANSFORMERS, self.build, device, dtype, self._kept)

    def memory(self, dtype: str, prompts: int) -> Memory:
        """What the encoder needs on a device to encode that many prompts at a time."""
        meta = torch.device("meta")
        with meta:
            encoder = in_dtype(self.build(), dtype, self._kept)
        # Without the mask, whose values the encoder wants to look at; it is as small as the tokens.
        return measure(encoder, lambda: encoder(torch.zeros(prompts, self.positions, dtype=torch.int64, device=meta)))


def _unless(word: str, usual: str) -> str:
    """The word, with a blank before, unless it is the usual one: keys of before it was there stay."""
    return "" if word == usual else f" {word}"


def import_models() -> ModuleType:
    """transformers, its text models imported: two seconds, which whoever only counts tokens need not wait."""
    import transformers
    from transformers import (  # noqa: F401 (each is imported when it is first asked for)
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5EncoderModel,
        UMT5EncoderModel,
    )

    return transformers


def in_passes(encode: Callable[[list[PromptKey]], Tensor], keys: Sequence[str], device: torch.device) -> Tensor:
    """What `encode` makes of N keys of PromptKey, [N, ...].

    A pass has one shape, filled up with empty prompts, so that an embedding does not depend on which prompts it was
    batched with. On a processor each is encoded alone, which is as fast.
    """
    count = 1 if device.type == "cpu" else BATCH
    read = [PromptKey.read(key) for key in keys]
    passes = [read[first : first + count] for first in range(0, len(read), count)]
    empty = PromptKey("")
    return torch.cat([encode(some + [empty] * (count - len(some)))[: len(some)] for some in passes])


class TextEncoder:
    """Prompts to what the UNet attends to: every position up to the length, padding included."""

    def __init__(self, encoding: Encoding, encoder: nn.Module, device: torch.device, dtype: str) -> None:
        self.encoding, self.encoder, self.device = encoding, encoder, device
        self.dtype = getattr(torch, dtype)
        # CLIP of the upscaler reads its padding as text; only where its config says so is it masked.
        masks = not encoding.is_clip or encoding.config.get("use_attention_mask", False)
        self._masks = masks and encoding.padding != "seen"

    @torch.inference_mode()
    def encode(self, keys: list[str]) -> Tensor:
        """N keys of PromptKey, of which a sentence is one -> [N, length, width] in the encoder's dtype, on the host."""
        return in_passes(self._encode, keys, self.device)

    def _encode(self, keys: list[PromptKey]) -> Tensor:
        tokens = self.encoding.tokenize([key.prompt for key in keys]).to(self.device)
        mask = tokens.attention_mask if self._masks else None
        if not any(key.clip_skip for key in keys):
            found = self.encoder(tokens.input_ids, attention_mask=mask).last_hidden_state.to(self.dtype)
            if self.encoding.padding == "zeroed":
                found = found * tokens.attention_mask[..., None]
            return found.cpu()
        assert self.encoding.is_clip, "only CLIP's layers are left out"
        layers = self.encoder(tokens.input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
        chosen = torch.stack([layers[-(key.clip_skip + 1)][at] for at, key in enumerate(keys)])
        return self.encoder.final_layer_norm(chosen).to(self.dtype).cpu()


class JoinedTextEncoder:
    """Several encoders, whose embeddings of a prompt are kept as one tensor; see `TextEncoder`."""

    def __init__(self, encoding: Any, encoders: list[nn.Module], device: torch.device, dtype: str) -> None:
        self.encoding, self.encoders, self.device = encoding, encoders, device
        self.dtype = getattr(torch, dtype)

    @torch.inference_mode()
    def encode(self, keys: list[str]) -> Tensor:
        """N keys of PromptKey -> [N, positions + 1, width] in the encoders' dtype, on the host; passes of one shape."""
        return in_passes(self._encode, keys, self.device)

    def _encode(self, keys: list[PromptKey]) -> Tensor:
        """Of one pass."""
        raise NotImplementedError
