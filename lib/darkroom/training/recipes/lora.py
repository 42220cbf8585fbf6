"""An adapter (LoRA) of a Stable Diffusion model, from a few pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from darkroom.models.adapter_folder import Layout
from darkroom.models.catalog import address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.families import family_of
from darkroom.storage import Store
from darkroom.training.data import Kind
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.recipes.recipe import Recipe, Switch

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

BAR = "|"  # between prompts, in which there may be commas


@dataclass(frozen=True, kw_only=True)
class Lora(Recipe):
    """What is learned: rank, alpha (0: as the rank), targets (ends of layers' names).
    Pictures: resolution (0: the model's own), crops (1: the middle of each; more: so many others, at random), flip,
    repeats (of each in an epoch). Captions: trigger (before each), drop (how often one is withheld).
    Steps: schedule after the warmup's steps, down to nothing unless constant; noise_offset; snr_gamma (0: no weights,
    arXiv 2303.09556); clip (bound on the gradient's norm, 0: none); checkpointing (less memory for more time).
    Prior preservation (arXiv 2208.12242): prior pictures that the base makes of prior_prompts are learned beside the
    others, half of each batch, and count prior_weight.
    validation: prompts that are drawn every so many epochs. Several prompts have a | between.
    base: the model's revision, filled in; a given one must be that. layout: of the file."""

    name = "lora"
    reads: ClassVar[Kind] = "captions"
    lighter: ClassVar[str] = "--set checkpointing=true, or a smaller batch or resolution"

    model: str = "sd-xs"
    base: str = ""
    rank: int = 8
    alpha: float = 0.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    resolution: int = 0
    crops: int = 1
    flip: bool = False
    repeats: int = 1
    trigger: str = ""
    drop: float = 0.0
    epochs: int = 100
    batch: int = 4
    learning_rate: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    noise_offset: float = 0.0
    snr_gamma: float = 0.0
    checkpointing: bool = False
    prior: int = 0
    prior_prompts: str = ""
    prior_weight: float = 1.0
    validation: str = ""
    validation_every: int = 1
    validation_steps: int = 20
    validation_guidance: float = 5.0
    layout: Layout = "diffusers"
    compile: Switch = "off"  # minutes for a training that may be over by then
    graphs: Switch = "off"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "rank", "crops", "repeats", "epochs", "validation_every", "validation_steps")
        self._at_least(0, "alpha", "resolution", "warmup", "weight_decay", "clip", "noise_offset", "snr_gamma", "prior")
        self._shares("drop")
        if bool(self.prior) != bool(self.prior_prompts):
            raise ValueError("prior says how many pictures the base makes, prior_prompts of what: wanted both or none")
        if self.prior and self.batch < 2:
            raise ValueError("half of each batch is of the prior pictures; --set batch=2 or more")

    @property
    def prompts(self) -> list[str]:
        """That are drawn."""
        return _prompts(self.validation)

    @property
    def prior_list(self) -> list[str]:
        """Prompts of prior pictures."""
        return _prompts(self.prior_prompts)

    @property
    def scale(self) -> float:
        """alpha, where none is given the rank."""
        return self.alpha or float(self.rank)

    def settled(self) -> Lora:
        """With the model's address as any worker opens it, and its revision. ModelError."""
        model = open_model(self.model)
        if self.base and not model.revision.startswith(self.base):
            raise ModelError(f"{self.model} has the revision {model.revision}, and --set base={self.base} was given")
        return replace(self, model=address(self.model, model), base=model.revision)

    def check(self, data: Mapping[str, Any]) -> None:
        from darkroom.training.lora import check_model

        check_model(self, self.opened())
        pictures = data["splits"]["train"]["rows"] * self.repeats
        own = self.batch - self.batch // 2 if self.prior else self.batch
        if pictures < own:
            raise ValueError(
                f"{data['name']} has {data['splits']['train']['rows']} pictures, {self.repeats} times each, and a "
                f"batch wants {own} of them; --set repeats=..., or a smaller batch"
            )

    def opened(self) -> Cascade:
        """The base. ModelError for a model that takes no adapter of this kind, or is another than was asked for."""
        from darkroom.models.cascade import Cascade  # transformers, which few recipes want

        model = open_model(self.model)
        if not isinstance(model, Cascade) or not model.stages[0].encodes or model.stages[0].inpaints or _walks(model):
            raise ModelError(
                f"`train lora` makes adapters of Stable Diffusion 1, 2 and XL as they paint pictures from noise; "
                f"{model.name} is none of them"
            )
        if self.base and model.revision != self.base:
            raise ModelError(f"{self.model} has the revision {model.revision} now, and had {self.base}")
        return model

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step (from 0) of so many."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, steps - self.warmup)
        falling = {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}
        return self.learning_rate * falling[self.schedule]

    def speed(self, worker: Worker) -> dict[str, bool]:
        """bf16 by itself on GPUs alone: on a processor the model is small."""
        found = super().speed(worker)
        return found | ({"bf16": False} if self.bf16 == "auto" and worker.device.type == "cpu" else {})

    def train(self, data: str, store: Store, worker: Worker, say: Say) -> None:
        from darkroom.training.lora import train_adapter

        train_adapter(self, data, store, worker, say)


def _walks(model: Cascade) -> bool:
    """Whether a transformer walks a flow there, as in SD3 and Flux, which is trained by another loss."""
    family = family_of(model.sources[0])
    return family is not None and family.transformer


def _prompts(text: str) -> list[str]:
    return [prompt.strip() for prompt in text.split(BAR) if prompt.strip()]
