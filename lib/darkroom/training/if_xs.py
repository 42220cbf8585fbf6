"""Trains the embedded cascade `if-xs`, phase by phase: stage I with its text encoder, first on a world of ten pictures
on one paper, until words are bound to what they name, then on all that is painted; stage II, the text encoder frozen.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.models import if_xs
from darkroom.storage import Store, write_folder
from darkroom.training import phases
from darkroom.training.data import Images, load_images
from darkroom.training.draws import Draw
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.objectives import LearnedRangeDiffusion, Objective
from darkroom.training.painted_digits import BACKGROUNDS, ENLARGED_WEIGHTS, KIND_WEIGHTS, paint, vocabulary
from darkroom.training.phases import Painter, train_phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

NOISIEST = 8  # one in so many of stage I's times is of the noisiest tenth
STAGE1 = {"guidance_interval": [0.0, 0.8]}  # guided to the end, strokes of small digits run together: arXiv 2404.07724
STAGE2 = {"steps": 34, "guidance": 1.0, "noise_level": 100, "start": 9}  # stage II follows these, not a row's own


class Settings(phases.Settings, Protocol):
    """What is read of the recipe, `darkroom.training.recipes.if_xs`, which imports this module."""

    noise_levels: int
    words_steps: int
    stage1_steps: int
    stage2_steps: int

    def record(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Phase(phases.Phase):
    """kinds: of what is painted, see `paint`; words: one digit of each, on white."""

    kinds: tuple[float, ...] = KIND_WEIGHTS
    words: bool = False


@dataclass(frozen=True, eq=False)
class Painted:
    """A worker's share of a step: small float32 [b, 3, 24, 24], large [b, 3, 48, 48], b prompts; seed: of dropout."""

    small: Tensor
    large: Tensor
    prompts: list[str]
    draw: Draw
    seed: int

    @property
    def rows(self) -> int:
        return len(self.prompts)


class StageTraining(Objective):
    """A stage's UNet and, at stage I, the text encoder that learns with it, under the loss of the present phase."""

    def __init__(self, number: int, tokenizer: PreTrainedTokenizerFast, text_encoder: T5EncoderModel | None) -> None:
        frozen = text_encoder is not None
        text_encoder = text_encoder or if_xs.build_text_encoder(len(tokenizer))
        super().__init__(nn.ModuleDict({"unet": if_xs.build_unet(number), "text_encoder": text_encoder}))
        self.number, self.tokenizer = number, tokenizer
        self.noise_levels = 0
        self.diffusion: LearnedRangeDiffusion | None = None
        self.set_frozen(frozen)

    def set_frozen(self, frozen: bool) -> None:
        """Whether the text encoder gives what it will give when sampling: no gradient, no dropout."""
        self.frozen = frozen
        self.network["text_encoder"].requires_grad_(not frozen)

    def train(self, mode: bool = True) -> StageTraining:
        super().train(mode)
        self.network["text_encoder"].train(mode and not self.frozen)
        return self

    @property
    def core(self) -> nn.Module:
        return self.network["unet"]

    def inputs(self, batch: Painted) -> tuple[Tensor, ...]:
        x0 = batch.small if self.number == 1 else batch.large
        torch.manual_seed(batch.seed)  # dropout knows the global generator only
        t = self._times(batch.draw)
        tensors = (x0, t, batch.draw.normal(x0.shape[1:]), *self._tokens(batch.prompts, x0.device))
        if self.number == 1:
            return tensors
        return *tensors, batch.small, batch.draw.integers(self.noise_levels), batch.draw.normal(x0.shape[1:])

    def _times(self, draw: Draw) -> Tensor:
        """int64 [b]. Of stage I the later of two, as what is where is settled at noisy times, and some of them
        of the noisiest tenth, where it is settled what is ink and what is paper; of stage II any."""
        t = draw.integers(1000)
        if self.number == 1:
            t = torch.maximum(t, draw.integers(1000))
            t = torch.where(draw.among_first(draw.batch // NOISIEST), 900 + t // 10, t)
        return t

    def _tokens(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """B sentences -> token ids and attention mask, int64 [B, 12]."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=if_xs.TEXT_LENGTH, return_tensors="pt"
        ).to(device)
        return tokens.input_ids, tokens.attention_mask

    def forward(self, x0: Tensor, t: Tensor, epsilon: Tensor, ids: Tensor, mask: Tensor, *low: Tensor) -> Tensor:
        """low, at stage II: the small picture, and the level and values of its noise."""
        assert self.diffusion is not None, "no phase was begun"
        x, more = self.diffusion.process.noise(x0, t, epsilon), {}
        if low:
            small, level, noise = low
            upscaled = F.interpolate(small, size=x0.shape[-2:], mode="bilinear", align_corners=True)
            x, more = (
                torch.cat([x, self.diffusion.process.noise(upscaled, level, noise)], dim=1),
                {"class_labels": level},
            )
        x = x.contiguous(memory_format=torch.channels_last)
        text = self.network["text_encoder"](ids, attention_mask=mask).last_hidden_state
        output = self.ask(x, t, encoder_hidden_states=text, **more).sample
        return self.diffusion.loss(output, x0, t, epsilon)


def train_cascade(recipe: Settings, data: str, store: Store, worker: Worker, say: Say) -> None:
    """Trains both stages and leaves a cascade's folder in `store`; run again, it goes on from the last checkpoint."""
    digits = load_images(data, "train")

    def train(stage: StageTraining, phase: Phase, frozen: bool) -> dict[str, Any]:
        stage.set_frozen(frozen)
        return _train_phase(phase, stage, digits, recipe, store, worker, say)

    tokenizer = if_xs.build_tokenizer(vocabulary())
    torch.manual_seed(recipe.seed)
    first = StageTraining(1, tokenizer, None)
    train(first, Phase("words", 1, recipe.words_steps, (1.0,), words=True), False)
    train(first, Phase("stage1", 2, recipe.stage1_steps), False)
    torch.manual_seed(recipe.seed)  # or it would begin otherwise when the phases before it were already done
    second = StageTraining(2, tokenizer, first.network["text_encoder"])
    ran = train(second, Phase("stage2", 3, recipe.stage2_steps, ENLARGED_WEIGHTS), True)
    if worker.rank == 0:
        save_cascade(first, second, store)
        config = {
            "name": "if-xs",
            "kind": "cascade",
            "stages": [STAGE1, STAGE2],
            "training": {"recipe": recipe.record(), "data": {"train": digits.digest}, "ran": ran},
        }
        store.write("config.json", json.dumps(config, indent=1).encode())  # last: without it the folder is no model


def save_cascade(first: StageTraining, second: StageTraining, store: Store) -> None:
    """Writes the diffusers layout: stage1/ and stage2/ (unet, scheduler), text_encoder/, tokenizer/."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        for stage in (first, second):
            folder = out / f"stage{stage.number}"
            stage.network["unet"].save_pretrained(folder / "unet")
            if_xs.build_scheduler().save_pretrained(folder / "scheduler")
        if_xs.build_scheduler().save_pretrained(out / "stage2" / "image_noising_scheduler")
        first.network["text_encoder"].save_pretrained(out / "text_encoder")
        first.tokenizer.save_pretrained(out / "tokenizer")
        write_folder(store, out)


def _train_phase(
    phase: Phase, stage: StageTraining, digits: Images, recipe: Settings, store: Store, worker: Worker, say: Say
) -> dict[str, Any]:
    """One phase to its end; see `phases.train_phase`."""
    alphas = if_xs.build_scheduler().alphas_cumprod.to(worker.device)
    stage.noise_levels, stage.diffusion = recipe.noise_levels, LearnedRangeDiffusion(alphas)
    feed = Painter(lambda key: _paint(digits, phase, recipe.batch, key, worker), recipe, phase)
    return train_phase(phase, stage, feed, recipe, store, worker, say)


def _paint(digits: Images, phase: Phase, batch: int, key: tuple[int, ...], worker: Worker) -> Painted:
    """The whole batch is painted by every worker, which keeps its share: painting costs little beside a step."""
    rng, device, share = np.random.default_rng(key), worker.device, worker.share(batch)
    known = np.unique(digits.labels, return_index=True)[1] if phase.words else np.arange(len(digits.labels))
    chosen = known[rng.integers(len(known), size=batch)]
    backgrounds = ("white",) if phase.words else BACKGROUNDS
    painting = paint(digits.images[chosen, :, :, 0], digits.labels[chosen], rng, phase.kinds, backgrounds)
    small, large = (pictures[share].to(device) for pictures in (painting.small, painting.large))
    seed = int(rng.integers(2**62)) + share.start  # each worker drops of its own rows alone
    return Painted(small, large, painting.prompts[share], Draw(key, batch, share, device), seed)
