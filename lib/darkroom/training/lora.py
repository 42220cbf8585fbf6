"""Trains an adapter of a Stable Diffusion model: its UNet, VAE and text encoders stay as they are, and are never part
of what workers exchange or checkpoints hold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from darkroom.models.adapter_files import read_adapter
from darkroom.models.adapter_folder import Layout, save_adapter
from darkroom.models.adapters import adaptable_layers
from darkroom.models.predictors import UNetPredictor
from darkroom.models.weights import config_of
from darkroom.sampling.diffusion import Diffusion
from darkroom.storage import Store, encode_png
from darkroom.training import lora_examples
from darkroom.training.captions import read_captions
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.data import read_record
from darkroom.training.draws import Draw
from darkroom.training.epochs import Say, say_nothing
from darkroom.training.feeds import Worker
from darkroom.training.loop import fit
from darkroom.training.lora_examples import (
    NOTHING,
    Examples,
    ExamplesFeed,
    Learned,
    Shown,
    caption_key,
    counted,
    encode_texts,
    make_examples,
    shown,
)
from darkroom.training.lora_layers import LowRankLayers, chosen_layers
from darkroom.training.lora_pictures import Wishes, in_a_row
from darkroom.training.network_training import write_curves
from darkroom.training.objectives import Objective
from darkroom.training.steps import Optimization

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

FIXED_TIMES, FIXED_PICTURES = 8, 16  # of which a loss is measured that no draw of a step moves
AT_ONCE = 4  # of these: all would take more of a GPU than small batches of a training do
SHEET = "validation/epoch-{:04d}.png"


class Settings(lora_examples.Settings, Protocol):
    """What is read of the recipe, `darkroom.training.recipes.lora`, which imports this module."""

    model: str
    base: str
    rank: int
    targets: tuple[str, ...]
    trigger: str
    epochs: int
    keep_last: int
    weight_decay: float
    clip: float
    noise_offset: float
    snr_gamma: float
    checkpointing: bool
    validation_every: int
    validation_steps: int
    validation_guidance: float
    layout: Layout

    @property
    def prompts(self) -> list[str]: ...
    @property
    def prior_list(self) -> list[str]: ...
    @property
    def scale(self) -> float: ...
    def opened(self) -> Cascade: ...
    def rate(self, step: int, steps: int) -> float: ...
    def speed(self, worker: Worker) -> dict[str, bool]: ...
    def record(self) -> dict[str, Any]: ...


class AdapterDiffusion(Objective):
    """|unet(z_t, t, caption) - target|^2 on latents, by the low-rank layers on a UNet that is no parameter of it."""

    def __init__(self, layers: LowRankLayers, predictor: UNetPredictor, noise_offset: float, snr_gamma: float) -> None:
        """noise_offset: deviation of what is added to a whole channel's noise; snr_gamma: of `_snr_weights`."""
        super().__init__(layers)
        self._outside = {"predictor": predictor}  # not among the modules: it is neither learned nor kept
        self.noise_offset = noise_offset
        self.time_weights = _snr_weights(self.process, snr_gamma).to(predictor.device)

    @property
    def predictor(self) -> UNetPredictor:
        return self._outside["predictor"]

    @property
    def process(self) -> Diffusion:
        return self.predictor.process

    @property
    def core(self) -> nn.Module:
        return self.predictor.unet

    def inputs(self, batch: Learned) -> tuple[Tensor, ...]:
        z0 = self.predictor.latents.scaled(batch.mean + batch.deviation * batch.draw.normal(batch.mean.shape[1:]))
        t = batch.draw.integers(self.process.num_timesteps)
        epsilon = batch.draw.normal(z0.shape[1:])
        if self.noise_offset:
            epsilon = epsilon + self.noise_offset * batch.draw.normal((z0.shape[1], 1, 1))
        return z0, t, epsilon, batch.weights, *batch.told

    def forward(self, z0: Tensor, t: Tensor, epsilon: Tensor, weights: Tensor, *told: Tensor) -> Tensor:
        return (weights * self.time_weights[t] * self.errors(z0, t, epsilon, told)).mean()

    def errors(self, z0: Tensor, t: Tensor, epsilon: Tensor, told: tuple[Tensor, ...], compiled: bool = True) -> Tensor:
        """Mean squared error of each row, [b]."""
        z_t = self.process.noise(z0, t, epsilon).contiguous(memory_format=torch.channels_last)
        ask = self.ask if compiled else self.core
        predicted = ask(z_t, t, **self.predictor.given(told)).sample.float()
        return (predicted - self.process.target(z0, t, epsilon)).square().mean(dim=(1, 2, 3))


def _snr_weights(process: Diffusion, gamma: float) -> Tensor:
    """How much each time counts, float32 [T]: 1, or min(SNR, gamma) as a weight of the error of x0 (arXiv 2303.09556,
    section 3.4), which in those of epsilon and v is 1 / SNR and 1 / (SNR + 1) of it."""
    if not gamma:
        return torch.ones(process.num_timesteps)
    alpha_bar = process.alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    by = {"epsilon": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[process.prediction]
    return (snr.clamp(max=gamma) / by).float()


def check_model(recipe: Settings, model: Cascade) -> None:
    """ValueError where the recipe cannot train an adapter of the model; no weight is loaded."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config_of(model.sources[0], "unet"))
    chosen_layers(unet, recipe.targets)
    factor, side = model.stages[0].step, _side(recipe, model)
    if side % factor:
        raise ValueError(f"resolution is {side}, and {model.name} makes pictures whose sides are multiples of {factor}")
    Wishes.of([*recipe.prompts, *recipe.prior_list], model, side, recipe.validation_steps, recipe.validation_guidance)


def _side(recipe: Settings, model: Cascade) -> int:
    return recipe.resolution or model.stages[0].size


@dataclass(frozen=True)
class _Setting:
    """All that a training stands on. recipe: its resolution filled in; texts: what the model is told, by keys."""

    recipe: Settings
    model: Cascade
    predictor: UNetPredictor
    examples: Examples
    objective: AdapterDiffusion
    wishes: Wishes
    texts: Mapping[str, Any]


def train_adapter(recipe: Settings, data: str, store: Store, worker: Worker, say: Say) -> None:
    """Trains to the end, from the last checkpoint if there is one; rank 0 leaves the adapter's folder in `store`."""
    began = time.monotonic()
    setting = _prepare(recipe, data, worker, say if worker.rank == 0 else say_nothing)
    if worker.rank == 0:
        count = len(setting.examples.captions)
        say(f"{count} pictures are encoded, {count * setting.examples.means.shape[1]} latents, "
            f"in {time.monotonic() - began:.1f} s")  # fmt: skip
    feed = ExamplesFeed(setting.examples, setting.predictor.fields, recipe, worker)
    base_loss = fixed_loss(setting.objective, setting.examples) if worker.rank == 0 else 0.0
    last = fit(
        setting.objective,
        feed,
        _optimization(recipe, feed.steps, worker),
        worker,
        store,
        {"kind": "adapter"},
        say,
        validate=(lambda weights: fixed_loss(setting.objective, setting.examples)) if worker.rank == 0 else None,
        noted=lambda checkpoint: _noted(setting, store, checkpoint),
    )
    if worker.rank == 0:
        with torch.no_grad():
            setting.objective.network.load_state_dict(last.weights)
        _save(setting, data, store, last, base_loss)


def _prepare(recipe: Settings, data: str, worker: Worker, say: Say = say_nothing, sampled: bool = False) -> _Setting:
    """Networks, and the pictures encoded. sampled: those alone that `fixed_loss` asks of."""
    model = recipe.opened()
    recipe = replace(recipe, resolution=_side(recipe, model))
    dtype = "bfloat16" if recipe.speed(worker)["bf16"] and worker.device.type == "cuda" else "float32"
    predictor = model.predictor(1, worker.device, dtype)
    layers = _hang(recipe, predictor.unet)
    layers.to(worker.device)
    if recipe.checkpointing:
        predictor.unet.enable_gradient_checkpointing()
    wishes, priors = (
        Wishes.of(prompts, model, recipe.resolution, recipe.validation_steps, recipe.validation_guidance)
        for prompts in (recipe.prompts, _in_turn(recipe.prior_list, recipe.prior))
    )
    read = counted(read_captions(data), read_record(data, "captions")["splits"]["train"]["rows"], "captions read", say)
    captions = [caption_key(picture.text, recipe.trigger) for picture in read]
    count, only = len(captions), _fixed_rows(len(captions)).tolist() if sampled else range(len(captions))
    keys = [*(captions[number] for number in only), *wishes.keys, *priors.keys]
    keys += [*(row["prompt"] for row in priors.rows), NOTHING]
    texts = encode_texts(model, keys, worker.device, say)
    drawn = counted(priors.draw(predictor, texts), len(priors.rows), "pictures of the base drawn", say)
    prior = [Shown(pixels, row["prompt"], count + number)
             for number, (row, pixels) in enumerate(zip(priors.rows, drawn, strict=True))]  # fmt: skip
    assert predictor.latents is not None
    own = shown(read_captions(data), recipe.trigger, only)
    pictures = counted(chain(own, prior), len(only) + len(prior), "pictures encoded", say)
    examples = make_examples(pictures, len(prior), texts, predictor.latents.whole(), recipe)
    objective = AdapterDiffusion(layers, predictor, recipe.noise_offset, recipe.snr_gamma)
    return _Setting(recipe, model, predictor, examples, objective, wishes, texts)


def _hang(recipe: Settings, unet: nn.Module) -> LowRankLayers:
    torch.manual_seed(recipe.seed)  # every worker begins from the same matrices
    return LowRankLayers(unet, chosen_layers(unet, recipe.targets), recipe.rank, recipe.scale)


def _in_turn(prompts: list[str], count: int) -> list[str]:
    return [prompts[number % len(prompts)] for number in range(count)]


def _optimization(recipe: Settings, steps: int, worker: Worker) -> Optimization:
    return Optimization(
        epochs=recipe.epochs,
        rate=lambda step: recipe.rate(step, recipe.epochs * steps),
        weight_decay=recipe.weight_decay,
        clip=recipe.clip or None,
        keep_last=recipe.keep_last,
        **recipe.speed(worker),
    )


@torch.no_grad()
def fixed_loss(objective: AdapterDiffusion, examples: Examples) -> float:
    """Mean squared error on pictures drawn evenly from the own ones, at times spread evenly, with noise that never
    changes: comparable between adapters of one model that are measured on the same pictures.

    Uncompiled: of another shape than a step's batch, it would be compiled anew, for minutes, while other workers wait.
    """
    predictor, rows = objective.predictor, _fixed_rows(examples.own)
    count = len(rows)
    first = torch.zeros_like(rows)
    names, device = predictor.fields, predictor.device
    told = tuple(tensor.to(device) for tensor in examples.fields(names, rows, first, examples.captions[rows]))
    z0 = predictor.latents.scaled(examples.means[rows, 0].to(device))
    times, errors = objective.process.num_timesteps, list[float]()
    for number in range(FIXED_TIMES):
        noise = Draw((0, number), count, slice(0, count), torch.device("cpu")).normal(z0.shape[1:]).to(device)
        t = torch.full((count,), (2 * number + 1) * times // (2 * FIXED_TIMES), device=device)
        for at in range(0, count, AT_ONCE):
            some = slice(at, at + AT_ONCE)
            own = tuple(part[some] for part in told)
            with torch.autocast(device.type, torch.bfloat16, enabled=predictor.dtype == torch.bfloat16):
                errors += objective.errors(z0[some], t[some], noise[some], own, compiled=False).tolist()
    return sum(errors) / len(errors)


def _fixed_rows(count: int) -> Tensor:
    """Some of so many pictures, spread evenly."""
    return torch.linspace(0, count - 1, min(FIXED_PICTURES, count)).round().long()


def adapter_loss(recipe: Settings, folder: str, data: str) -> float:
    """`fixed_loss` of the adapter in a folder, trained by that recipe, on an ingested data set, on this machine's
    processor. ModelError, ValueError, StorageError."""
    setting = _prepare(recipe, data, Worker(0, 1, torch.device("cpu")), sampled=True)
    found = read_adapter("adapter", folder, adaptable_layers(setting.predictor.unet))
    setting.objective.network.load_folded(found.layers)
    return fixed_loss(setting.objective, setting.examples)


def _noted(setting: _Setting, store: Store, checkpoint: Checkpoint) -> None:
    """The curves so far and, where they are due, the pictures of the validation prompts."""
    recipe = setting.recipe
    write_curves(store, checkpoint, recipe.batch)
    due = checkpoint.epoch % recipe.validation_every == 0 or checkpoint.epoch == recipe.epochs
    if setting.wishes.rows and due:
        pictures = list(setting.wishes.draw(setting.predictor, dict(setting.texts)))
        store.write(SHEET.format(checkpoint.epoch), encode_png(in_a_row(pictures)))


def _save(setting: _Setting, data: str, store: Store, last: Checkpoint, base_loss: float) -> None:
    recipe, record = setting.recipe, read_record(data, "captions")
    layers: LowRankLayers = setting.objective.network
    split = record["splits"]["train"]
    loss = last.curves["losses"][-(last.step // last.epoch) :].mean().item()
    about = {
        "name": record["name"],
        "base": {"model": recipe.model, "name": setting.model.name, "revision": setting.model.revision},
        "trigger": recipe.trigger,
        "adapter": {"rank": recipe.rank, "alpha": recipe.scale, "targets": recipe.targets, "layers": len(layers.names),
                    "parameters": sum(p.numel() for p in layers.parameters())},
        "metrics": {"loss": loss, "validation_loss": last.curves["validation"][-1].item(), "base_loss": base_loss},
        "training": {
            "recipe": recipe.record(),
            "data": {"uri": data, "name": record["name"], "train": split["digest"]},
            "epochs": last.epoch,
            "steps": last.step,
            "images": split["rows"],
            "ran": last.config.get("ran", {}),
        },
    }  # fmt: skip
    save_adapter(store, layers.folded(), recipe.layout, about, layers.convolutions)
