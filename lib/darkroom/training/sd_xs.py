"""Trains the embedded latent model `sd-xs`, phase by phase: the autoencoder; the UNet together with its text encoder,
on latents of pictures that are painted anew for every step: first of the simplest, on which words mean a shape and a
colour and nothing else (the paper, most of a picture, would leave no room for them in an embedding), then of all kinds;
both once more while the learning rate comes down; at last a control network that follows edges, beside them."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.models import sd_xs
from darkroom.models.edges import THRESHOLDS, canny
from darkroom.sampling.diffusion import Diffusion
from darkroom.storage import Store, write_folder
from darkroom.training import phases
from darkroom.training.data import load_images
from darkroom.training.draws import Draw
from darkroom.training.epochs import Say
from darkroom.training.feeds import Worker
from darkroom.training.objectives import Objective
from darkroom.training.painted_scenes import World, paint, vocabulary
from darkroom.training.phases import Painter, Phase, train_phase, warm_up

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel
    from transformers import CLIPTokenizer

CONTROL = "controlnet-canny"  # the control network's folder, as diffusers saves one
FIRST_LOG_VARIANCE = -6.0
SCALE_PICTURES, SCALE_KEY = 512, 0  # whose latents get a variance of 1, as Stable Diffusion's have


class Settings(phases.Settings, Protocol):
    """What is read of the recipe, `darkroom.training.recipes.sd_xs`, which imports this module."""

    vae_batch: int
    vae_learning_rate: float
    vae_steps: int
    words_steps: int
    draw_steps: int
    polish_steps: int
    control_steps: int
    kl_weight: float

    def record(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Painted:
    """A worker's share of a step: pictures float32 [b, 3, 48, 48] in [-1, 1], b prompts."""

    pictures: Tensor
    prompts: list[str]
    draw: Draw

    @property
    def rows(self) -> int:
        return len(self.prompts)


class Autoencoding(Objective):
    """Pictures through a narrow place and back: |y - x|^2 and, weighted, KL(q(z|x) || N(0, 1)) per latent value.

    Squares, because the median of a pixel is paper: by |y - x| there is no ink for hundreds of steps.
    """

    def __init__(self, kl_weight: float) -> None:
        super().__init__(sd_xs.build_vae())
        self.kl_weight = kl_weight
        with torch.no_grad():  # the latents' noise is small at first, or it would hide what the pictures say
            self.network.quant_conv.bias[sd_xs.LATENT_CHANNELS :] = FIRST_LOG_VARIANCE

    def inputs(self, batch: Painted) -> tuple[Tensor, ...]:
        side = sd_xs.LATENT_SIDE
        return batch.pictures, batch.draw.normal((sd_xs.LATENT_CHANNELS, side, side))

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        posterior = self.network.encode(pictures).latent_dist
        decoded = self.network.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return F.mse_loss(decoded.float(), pictures) + self.kl_weight * divergence


class LatentDiffusion(Objective):
    """UNet and text encoder: |network(z_t, t, prompt) - v|^2 on latents of a trained autoencoder.

    A time is drawn as the larger of two: what a prompt asks for is settled at noisy ones.
    """

    def __init__(self, tokenizer: CLIPTokenizer, vae: AutoencoderKL, device: torch.device) -> None:
        encoder = sd_xs.build_text_encoder(tokenizer)
        super().__init__(nn.ModuleDict({"unet": sd_xs.build_unet(), "text_encoder": encoder}))
        self._outside = {"vae": vae.to(device).eval().requires_grad_(False)}  # not among the parameters to be learned
        self.tokenizer = tokenizer
        self.process = Diffusion(sd_xs.build_scheduler().alphas_cumprod.to(device), prediction="v")

    @property
    def vae(self) -> AutoencoderKL:
        return self._outside["vae"]

    @property
    def core(self) -> nn.Module:
        return self.network["unet"]

    def inputs(self, batch: Painted) -> tuple[Tensor, ...]:
        z0 = encode(self.vae, batch.pictures) * self.vae.config.scaling_factor
        t = torch.maximum(*(batch.draw.integers(self.process.num_timesteps) for _ in range(2)))
        return z0, t, batch.draw.normal(z0.shape[1:]), self._tokens(batch.prompts).to(z0.device)

    def _tokens(self, prompts: list[str]) -> Tensor:
        """B sentences -> token ids, int64 [B, 24]."""
        length = sd_xs.TEXT_LENGTH
        return self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    def forward(self, z0: Tensor, t: Tensor, epsilon: Tensor, ids: Tensor) -> Tensor:
        z_t = self.process.noise(z0, t, epsilon)
        text = self.network["text_encoder"](ids).last_hidden_state
        predicted = self.ask(z_t, t, encoder_hidden_states=text).sample.float()
        return F.mse_loss(predicted, self.process.target(z0, t, epsilon))


class FollowingEdges(Objective):
    """A control network beside the trained UNet (ControlNet, arXiv 2302.05543): the UNet's loss, with the edges of the
    picture as hint. Of the rest nothing learns."""

    def __init__(self, latent: LatentDiffusion) -> None:
        super().__init__(sd_xs.build_control(latent.network["unet"]))
        self._outside = {"latent": latent.requires_grad_(False).eval()}  # not among the parameters to be learned

    def inputs(self, batch: Painted) -> tuple[Tensor, ...]:
        return *self._outside["latent"].inputs(batch), edges(batch.pictures)

    def forward(self, z0: Tensor, t: Tensor, epsilon: Tensor, ids: Tensor, hint: Tensor) -> Tensor:
        latent = self._outside["latent"]
        z_t = latent.process.noise(z0, t, epsilon)
        text = latent.network["text_encoder"](ids).last_hidden_state
        down, middle = self.ask(z_t, t, encoder_hidden_states=text, controlnet_cond=hint, return_dict=False)
        predicted = latent.network["unet"](
            z_t,
            t,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return F.mse_loss(predicted.float(), latent.process.target(z0, t, epsilon))


def edges(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] -> hints of the same shape, 0 or 1."""
    whole = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    maps = np.stack([canny(picture, *THRESHOLDS) for picture in whole])
    return torch.from_numpy(maps).permute(0, 3, 1, 2).float().div(255).to(pictures.device)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """The means of the latents, not yet scaled, [B, 4, 12, 12]."""
    return vae.encode(pictures).latent_dist.mean.contiguous()


def train_latent(recipe: Settings, data: str, store: Store, worker: Worker, say: Say) -> None:
    """Trains all parts and leaves a Stable Diffusion pipeline's folder in `store`, with the control network's in it;
    run again, it goes on from the last checkpoint."""
    data_set = load_images(data, "train")
    world = World(data_set.images[..., 0], data_set.labels)

    def train(
        phase: Phase, objective: Objective, recipe: Settings = recipe, world: World = world, rate: Any = None
    ) -> dict[str, Any]:
        feed = Painter(lambda key: _paint(world, recipe.batch, key, worker), recipe, phase)
        return train_phase(phase, objective, feed, recipe, store, worker, say, rate)

    def warm(step: int) -> float:
        return warm_up(step, recipe)

    torch.manual_seed(recipe.seed)
    autoencoding = Autoencoding(recipe.kl_weight)
    own = replace(recipe, batch=recipe.vae_batch, learning_rate=recipe.vae_learning_rate)
    train(Phase("vae", 1, recipe.vae_steps, average=0.99), autoencoding, own)
    vae = scaled(autoencoding.network, world, recipe.seed, worker)
    torch.manual_seed(recipe.seed)  # or it would begin otherwise when the phase before it was already done
    latent = LatentDiffusion(sd_xs.build_tokenizer(vocabulary()), vae, worker.device)
    train(Phase("words", 4, recipe.words_steps), latent, world=world.first_words(), rate=warm)
    train(Phase("draw", 2, recipe.draw_steps), latent, rate=warm)
    ran = train(Phase("polish", 3, recipe.polish_steps), latent)
    torch.manual_seed(recipe.seed)
    following = FollowingEdges(latent)
    train(Phase("control", 5, recipe.control_steps), following)
    if worker.rank == 0:
        training = {"recipe": recipe.record(), "data": {"train": data_set.digest}, "ran": ran}
        save_control(following.network, store)
        save_pipeline(latent, store, {"name": "sd-xs", "kind": "pipeline", "training": training})


def scaled(vae: AutoencoderKL, world: World, seed: int, worker: Worker) -> AutoencoderKL:
    """The autoencoder, which now knows by what its latents are to be multiplied."""
    vae.eval()
    pictures = _paint(world, SCALE_PICTURES, (seed, SCALE_KEY), Worker(0, 1, worker.device)).pictures
    latents = torch.cat([encode(vae, part) for part in pictures.split(64)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


def save_pipeline(latent: LatentDiffusion, store: Store, about: dict[str, Any]) -> None:
    """Writes a folder that any tool for Stable Diffusion opens, and config.json, last, which says how it was made.

    UNet and autoencoder are kept in half precision. The text encoder is not: transformers would run it as it lies.
    """
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(latent.vae).half(),
        text_encoder=latent.network["text_encoder"],
        tokenizer=latent.tokenizer,
        unet=copy.deepcopy(latent.network["unet"]).half(),
        scheduler=sd_xs.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        pipeline.save_pretrained(out)
        sd_xs.save_merges(latent.tokenizer, out / "tokenizer")
        write_folder(store, out)
    store.write("config.json", json.dumps(about, indent=1).encode())


def save_control(network: ControlNetModel, store: Store) -> None:
    """In half precision, as diffusers saves one."""
    with tempfile.TemporaryDirectory() as name:
        copy.deepcopy(network).half().save_pretrained(Path(name) / CONTROL)
        write_folder(store, Path(name))


def _paint(world: World, batch: int, key: tuple[int, ...], worker: Worker) -> Painted:
    """The whole batch is painted by every worker, which keeps its share: painting costs little beside a step."""
    painting = paint(world, batch, np.random.default_rng(key))
    share, device = worker.share(batch), worker.device
    return Painted(painting.pictures[share].to(device), painting.prompts[share], Draw(key, batch, share, device))
