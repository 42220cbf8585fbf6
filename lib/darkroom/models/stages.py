"""What a stage of a cascade is, read from the files of its folder, in diffusers' pipeline layout.

unet/ scheduler/                      every stage
image_noising_scheduler/              a super-resolution stage in pixels (IFSuperResolutionPipeline)
vae/ low_res_scheduler/               one in latents (StableDiffusionUpscalePipeline)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from darkroom.models.errors import ModelError
from darkroom.models.sources import Source, read_json
from darkroom.models.weights import config_of
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import CONDITION, NOISE_LEVEL, Stage

Kind = Literal["base", "super_resolution", "upscaler"]
# What diffusers' pipelines do unless they are told otherwise. A base stage follows the row.
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "base": {},
    "super_resolution": {"steps": 50, "guidance": 4.0, "noise_level": 250},
    "upscaler": {"steps": 75, "guidance": 9.0, "noise_level": 20},
}
_NOISING = {"super_resolution": "image_noising_scheduler", "upscaler": "low_res_scheduler"}
FOLDERS = ("unet", "scheduler", "image_noising_scheduler", "low_res_scheduler", "vae")
_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {"fixed_small": False, "fixed_small_log": False, "learned_range": True}


def read_stage(source: Source, number: int, below: int | None, own: Mapping[str, Any] | None = None) -> Stage:
    """The stage whose files these are. below: the picture size of the stage before it, None for the first.

    own: its steps, guidance, noise level and start, where a cascade's config.json says them; else diffusers' defaults.
    Raises ModelError.
    """
    kind, unet = stage_kind(source), config_of(source, "unet")
    if (kind == "base") != (below is None):
        wanted, got = ("paint from noise", "enlarges") if below is None else ("enlarge a picture", "paints from noise")
        raise ModelError(f"stage {number} must {wanted}, and the one in {source.address} {got}")
    process = _process(source, "scheduler")
    how = DEFAULTS[kind] if own is None else dict(own)
    if kind == "upscaler":
        assert below is not None
        factor = vae_factor(config_of(source, "vae"))
        # Its state has the size of the picture that it enlarges, whatever size its UNet was trained at.
        how = {"factor": factor, "sampler": "ddim", **how}
        return Stage(number, factor * below, unet["out_channels"], process, noising=_noising(source, kind), **how)
    channels = unet["out_channels"] // (2 if process.learned_variance else 1)
    size = unet.get("sample_size") or 4 * (below or 16)
    return Stage(number, size, channels, process, noising=_noising(source, kind, process), **how)


def stage_kind(source: Source) -> Kind:
    """Which of the three a folder holds, by its files and its UNet's channels. Raises ModelError."""
    unet, names = config_of(source, "unet"), source.names()
    if "in_channels" not in unet or "out_channels" not in unet:
        raise ModelError(f"{source.address}/unet/config.json is no UNet's: it wants 'in_channels' and 'out_channels'")
    if "vae/config.json" in names:
        encoder = read_json(source, "text_encoder/config.json")
        if "CLIPTextModel" not in encoder.get("architectures", ["CLIPTextModel"]):
            raise ModelError(f"{source.address} works on latents but is no x4 upscaler: it reads text by {encoder}")
        if unet["in_channels"] != unet["out_channels"] + 3:
            raise ModelError(
                f"{source.address} works on latents but does not enlarge pictures: its UNet takes "
                f"{unet['in_channels']} channels, and {unet['out_channels']} + 3 are wanted"
            )
        return "upscaler"
    if "image_noising_scheduler/scheduler_config.json" in names or unet.get("class_embed_type") == "timestep":
        return "super_resolution"
    return "base"


def unet_fields(unet: Mapping[str, Any], length: int) -> dict[str, Tensor]:
    """What a UNet is told beside state and time, zeros of one question's shapes, by name and in the order of its call.

    unet: its configuration; length: positions of an embedding.
    """
    width = unet.get("encoder_hid_dim") or unet["cross_attention_dim"]
    return {CONDITION: torch.zeros(length, width), NOISE_LEVEL: torch.tensor(0)}


def vae_factor(config: Mapping[str, Any]) -> int:
    """Pixels of the picture per latent along a side: each block but the last halves."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def _noising(source: Source, kind: Kind, process: Process | None = None) -> Process | None:
    """What noises the low-resolution picture; None where the stage's own process does the same."""
    folder = _NOISING.get(kind)
    if folder is None or f"{folder}/scheduler_config.json" not in source.names():
        return None
    noising = _process(source, folder)
    return None if process is not None and noising.schedule == process.schedule else noising


def _process(source: Source, folder: str) -> Process:
    name = f"{folder}/scheduler_config.json"
    try:
        return process_from_scheduler(read_json(source, name))
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"{source.address}/{name}: {error}") from None


def process_from_scheduler(config: Mapping[str, Any]) -> Diffusion:
    """The process of a `scheduler_config.json` as DDPMScheduler understands it; DDIM's reads alike.

    Raises ValueError for one we lack.
    """
    prediction = _known(_PREDICTIONS, config.get("prediction_type", "epsilon"), "prediction_type")
    learned = _known(_VARIANCES, config.get("variance_type", "fixed_small"), "variance_type")
    how: dict[str, Any] = {"prediction": prediction, "learned_variance": learned}
    if config.get("thresholding"):
        how["threshold"] = (config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", True):
        how["clip"] = config.get("clip_sample_range", 1.0)
    steps = config.get("num_train_timesteps", 1000)
    schedule = config.get("beta_schedule", "linear")
    if schedule == "squaredcos_cap_v2":
        return Diffusion.cosine(steps, **how)
    makers = {"linear": Diffusion.linear, "scaled_linear": Diffusion.scaled_linear}
    if schedule in makers:
        return makers[schedule](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02), **how)
    raise ValueError(f"beta_schedule {schedule!r} is not one we know (squaredcos_cap_v2, {', '.join(makers)})")


def _known(table: Mapping[str, Any], given: str, what: str) -> Any:
    if given not in table:
        raise ValueError(f"{what} {given!r} is not one we know ({', '.join(table)})")
    return table[given]
