"""Trains the embedded cascade `if-xs`, phase by phase: stage I together with its text encoder; stage I again, the text
encoder frozen, with more weight on the noisy times at which a digit's shape is settled; both once more, so that words
which looked alike (three and five) come apart; both with still more weight on noisy times; stage I alone, half of it at
the noisiest times, which settle what is ink and what is paper ("a white six" against "a black six"); stage II.

Everything random (digits, colours, prompts, times, noise) comes from generators keyed by (seed, phase, step), so a
training that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from darkroom.models import if_xs
from darkroom.training.objectives import LearnedRangeDiffusion
from darkroom.training.painted_digits import Painting, paint, vocabulary


@dataclass(frozen=True)
class Recipe:
    """Steps and weights are per phase (words has shape_weight too); a weight is the most that a noisy time counts.
    noise_levels: the range of the noise put on stage II's low-resolution picture."""

    stage1_steps: int = 5600
    shape_steps: int = 2200
    words_steps: int = 1200
    roles_steps: int = 1800
    paper_steps: int = 900
    stage2_steps: int = 2200
    copy_steps: int = 700
    shape_weight: float = 20.0
    roles_weight: float = 300.0
    paper_weight: float = 3000.0
    batch: int = 64
    learning_rate: float = 1.5e-3
    warmup: int = 200
    noise_levels: int = 500
    seed: int = 7
    checkpoint_every: int = 200


@dataclass(frozen=True)
class Phase:
    """One run of the loop. `key` seeds its random numbers beside the recipe's seed; no two phases share one.
    noisiest: the share of each batch that is drawn from the noisiest tenth of the times."""

    name: str
    key: int
    steps: int
    shape_weight: float = 1.0
    noisiest: float = 0.0
    gamma: float = 5.0
    ema: float = 0.999


@dataclass
class Digits:
    """images uint8 [N, 28, 28], labels uint8 [N]."""

    images: np.ndarray
    labels: np.ndarray


class Stage(nn.Module):
    """A stage's UNet and, at stage I, the text encoder that learns with it."""

    def __init__(self, number: int, tokenizer: PreTrainedTokenizerFast, text_encoder: T5EncoderModel | None) -> None:
        super().__init__()
        self.number, self.tokenizer = number, tokenizer
        self.unet: UNet2DConditionModel = if_xs.build_unet(number)
        self.text_encoder = if_xs.build_text_encoder(len(tokenizer)) if text_encoder is None else text_encoder
        if text_encoder is not None:
            self.freeze_text_encoder()

    def freeze_text_encoder(self) -> None:
        """From here on it gives what it will give when sampling: no gradient, no dropout."""
        self.text_encoder.eval().requires_grad_(False)

    def embed(self, prompts: list[str]) -> Tensor:
        """B sentences -> [B, 12, 64]."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=if_xs.TEXT_LENGTH, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state

    def loss(
        self, painting: Painting, objective: LearnedRangeDiffusion, noise_levels: int, noisiest: float = 0.0
    ) -> Tensor:
        """The stage's loss on one batch, at times and noise from torch's global generator."""
        x0 = painting.small if self.number == 1 else painting.large
        t = torch.randint(1000, (len(x0),))
        few = round(noisiest * len(x0))
        t[:few] = 900 + t[:few] // 10
        epsilon = torch.randn(x0.shape)
        x, more = objective.noise(x0, t, epsilon), {}
        if self.number == 2:
            level = torch.randint(noise_levels, (len(x0),))
            upscaled = F.interpolate(painting.small, size=x0.shape[-2:], mode="bilinear", align_corners=True)
            x = torch.cat([x, objective.noise(upscaled, level, torch.randn(x0.shape))], dim=1)
            more = {"class_labels": level}
        x = x.contiguous(memory_format=torch.channels_last)
        output = self.unet(x, t, encoder_hidden_states=self.embed(painting.prompts), **more).sample
        return objective.loss(output, x0, t, epsilon)


def train(digits: Digits, out: Path, recipe: Recipe, log: Callable[[str], None] = print) -> None:
    """Trains both stages and leaves a cascade folder at `out`; run again, it goes on from the last checkpoint."""
    tokenizer = if_xs.build_tokenizer(vocabulary())
    torch.manual_seed(recipe.seed)
    first = Stage(1, tokenizer, None)
    _train_phase(Phase("stage1", 1, recipe.stage1_steps), first, digits, out, recipe, log)
    first.freeze_text_encoder()
    _train_phase(Phase("shape", 3, recipe.shape_steps, recipe.shape_weight), first, digits, out, recipe, log)
    first.text_encoder.requires_grad_(True)
    _train_phase(Phase("words", 4, recipe.words_steps, recipe.shape_weight), first, digits, out, recipe, log)
    _train_phase(Phase("roles", 5, recipe.roles_steps, recipe.roles_weight), first, digits, out, recipe, log)
    first.freeze_text_encoder()
    paper = Phase("paper", 6, recipe.paper_steps, recipe.paper_weight, noisiest=0.5)
    _train_phase(paper, first, digits, out, recipe, log)
    torch.manual_seed(recipe.seed)  # or it would begin otherwise when the phases before it were already done
    second = Stage(2, tokenizer, first.text_encoder)
    _train_phase(Phase("stage2", 2, recipe.stage2_steps), second, digits, out, recipe, log)
    copy = Phase("copy", 7, recipe.copy_steps, recipe.roles_weight, gamma=math.inf, ema=0.99)
    _train_phase(copy, second, digits, out, recipe, log)
    save_cascade(first, second, out)


def save_cascade(first: Stage, second: Stage, out: Path) -> None:
    """Writes the diffusers layout: stage1/ and stage2/ (unet, scheduler), text_encoder/, tokenizer/."""
    for stage in (first, second):
        folder = out / f"stage{stage.number}"
        stage.unet.save_pretrained(folder / "unet")
        if_xs.build_scheduler().save_pretrained(folder / "scheduler")
    if_xs.build_scheduler().save_pretrained(out / "stage2" / "image_noising_scheduler")
    first.text_encoder.save_pretrained(out / "text_encoder")
    first.tokenizer.save_pretrained(out / "tokenizer")


def _train_phase(
    phase: Phase, stage: Stage, digits: Digits, out: Path, recipe: Recipe, log: Callable[[str], None]
) -> None:
    """One phase to its end, from its checkpoint if there is one; leaves the averaged weights in `stage`."""
    folder, steps = out / "checkpoints" / phase.name, phase.steps
    learned = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(learned.values(), lr=recipe.learning_rate, weight_decay=0.01)
    average = {name: p.detach().clone() for name, p in learned.items()}
    step = _resume(folder, learned, average, optimizer)
    stage.unet.to(memory_format=torch.channels_last)
    objective = LearnedRangeDiffusion(if_xs.build_scheduler().alphas_cumprod, phase.shape_weight, phase.gamma)
    losses, since = [], time.monotonic()
    while step < steps:
        rng = np.random.default_rng([recipe.seed, phase.key, step])
        chosen = rng.integers(len(digits.images), size=recipe.batch)
        painting = paint(digits.images[chosen], digits.labels[chosen], rng)
        torch.manual_seed(int(rng.integers(2**62)))
        loss = stage.loss(painting, objective, recipe.noise_levels, phase.noisiest)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"phase {phase.name}, step {step}: the loss is {loss.item()}; last good checkpoint in {folder}"
            )
        _update(optimizer, loss, learned, average, _learning_rate(step, steps, recipe), phase.ema)
        losses.append(loss.item())
        step += 1
        if step % recipe.checkpoint_every == 0 or step == steps:
            rate = recipe.batch * len(losses) / (time.monotonic() - since)
            log(f"{phase.name}  step {step}/{steps}  loss {np.mean(losses):.4f}  {rate:.0f} images/s")
            _checkpoint(folder, step, learned, average, optimizer, losses)
            losses, since = [], time.monotonic()
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(average[name])


def _learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _update(optimizer, loss: Tensor, learned: dict, average: dict, learning_rate: float, ema: float) -> None:
    optimizer.param_groups[0]["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learned.values(), 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(average.values()), list(learned.values()), 1 - ema)


def _checkpoint(folder: Path, step: int, learned: dict, average: dict, optimizer, losses: list[float]) -> None:
    """Weights, average and Adam's moments in one safetensors file, replaced whole; losses appended beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in learned.items()}
    tensors |= {f"average/{name}": p.contiguous() for name, p in average.items()}
    for name, p in learned.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[p][moment].contiguous()
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise FloatingPointError(f"step {step}: {broken[0]} is no longer finite; last good checkpoint in {folder}")
    save_file(tensors, folder / "new.safetensors", metadata={"step": str(step)})
    (folder / "new.safetensors").replace(folder / "last.safetensors")
    with open(folder / "losses.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "losses": [round(loss, 5) for loss in losses]}) + "\n")


def _resume(folder: Path, learned: dict, average: dict, optimizer) -> int:
    """Loads the last checkpoint into the given tensors; returns the step it stands at, 0 if there is none."""
    path = folder / "last.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[f"weight/{name}"])
            average[name].copy_(tensors[f"average/{name}"])
            moments = {moment: tensors[f"{moment}/{name}"] for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step


def recipe_record(recipe: Recipe) -> dict:
    """The recipe as the model's config.json states it."""
    return asdict(recipe)
