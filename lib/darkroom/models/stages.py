"""What a stage of a cascade is, read from the files of its folder, in diffusers' pipeline layout.

unet/ scheduler/                      every stage, but for
transformer/ scheduler/ vae/          one that is a flow of latents (StableDiffusion3Pipeline, FluxPipeline), or videos
transformer_2/                        a second stage beside (WanPipeline with a boundary_ratio)
vae/                                  one whose states are latents (StableDiffusionPipeline)
image_noising_scheduler/              one that enlarges in pixels (IFSuperResolutionPipeline)
vae/ low_res_scheduler/               one that enlarges in latents (StableDiffusionUpscalePipeline)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from darkroom.models.errors import ModelError
from darkroom.models.families import SD3, Family, Kind, family_of, read_index, stage_kind
from darkroom.models.flow_schedulers import flow_from_scheduler
from darkroom.models.sources import Source, read_json
from darkroom.models.video_stages import TEXT_WIDTHS, is_of_videos, read_video_stage
from darkroom.models.weights import config_of
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import CONDITION, GUIDANCE, NOISE_LEVEL, POOLED, SIZES, Stage

# What diffusers' pipelines do unless they are told otherwise. A base stage follows the row.
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "base": {},
    "latent": {},
    "latent_inpainting": {},
    "super_resolution": {"steps": 50, "guidance": 4.0, "noise_level": 250},
    "upscaler": {"steps": 75, "guidance": 9.0, "noise_level": 20},
}
_NOISING = {"super_resolution": "image_noising_scheduler", "upscaler": "low_res_scheduler"}
FOLDERS = ("unet", "transformer", "transformer_2", "scheduler", "image_noising_scheduler", "low_res_scheduler", "vae")
SIZE_IDS = (
    6  # numbers that SDXL is told: original height and width, crop from the top and left, wanted height and width
)
FLUX_SIDE, PACKED = 128, 2  # of Flux: latents of a picture's side, and of a token's
_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_CLIPPING = ("DDPMScheduler", "DDIMScheduler")  # of which a file that says nothing bounds what a picture may hold
_SAMPLERS = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
}
# Of a scheduler_config.json, what would make other pictures and is not known here.
_NOT_OURS = ("trained_betas", "use_exponential_sigmas", "use_beta_sigmas")
# alpha_bar of the last timestep where a file brings it to no signal: diffusers' for solvers that divide by it.
NO_SIGNAL = 2.0**-24
_VARIANCES = {"fixed_small": False, "fixed_small_log": False, "learned_range": True}


# What was made before the files' samplers and grids were read stays as it was.
_AS_EVER: dict[Kind, dict[str, Any]] = {
    "base": {"sampler": "ddpm"},
    "super_resolution": {"sampler": "ddpm"},
    "upscaler": {"sampler": "ddpm", "grid": GridDefaults()},
}


# What pipelines of Stable Diffusion 1 and 2 make of any file, the first of which said neither.
_SETTLED = {"steps_offset": 1, "clip_sample": False}


def read_stage(source: Source, number: int, below: int | None, own: Mapping[str, Any] | None = None) -> Stage:
    """The stage whose files these are. below: the picture size of the stage before it, None for the first.

    own: its steps, guidance, noise level and start, or the guidance interval of rows that name none, where a cascade's
    config.json says them; else diffusers' defaults.
    Raises ModelError.
    """
    kind, family = stage_kind(source), family_of(source)
    if (kind in ("base", "latent", "latent_inpainting")) != (below is None):
        wanted, got = ("paint from noise", "enlarges") if below is None else ("enlarge a picture", "paints from noise")
        raise ModelError(f"stage {number} must {wanted}, and the one in {source.address} {got}")
    if family is not None and family.video:
        return read_video_stage(source, number)
    if family is not None and family.transformer:
        return _transformer_stage(source, number, family, kind == "latent_inpainting")
    unet = config_of(source, "unet")
    settled = _SETTLED if kind in ("latent", "latent_inpainting") and not _is_sized(unet) else {}
    process = _process(source, "scheduler", settled, **_AS_EVER.get(kind, {}))
    how = DEFAULTS[kind] if own is None else dict(own)
    if "guidance_interval" in how:
        begin, end = how["guidance_interval"]
        how["guidance_interval"] = (begin, end)
    if kind == "upscaler":
        assert below is not None
        factor = vae_factor(config_of(source, "vae"))
        # Its state has the size of the picture that it enlarges, whatever size its UNet was trained at.
        how = {"factor": factor, "sampler": "ddim", **how}
        return Stage(number, factor * below, unet["out_channels"], process, noising=_noising(source, kind), **how)
    if kind in ("latent", "latent_inpainting"):
        factor, how = vae_factor(config_of(source, "vae")), {"inpaints": kind == "latent_inpainting", **how}
        size = factor * unet["sample_size"]
        return Stage(number, size, unet["out_channels"], process, factor=factor, sized=_is_sized(unet), **how)
    channels = unet["out_channels"] // (2 if process.learned_variance else 1)
    size = unet.get("sample_size") or 4 * (below or 16)
    return Stage(number, size, channels, process, noising=_noising(source, kind, process), **how)


def _transformer_stage(source: Source, number: int, family: Family, fills: bool) -> Stage:
    """Of a flow of latents. fills: it is told where it paints. What Flux was trained at stands in no file, but in its
    pipelines."""
    config, vae = config_of(source, "transformer"), config_of(source, "vae")
    factor, name = vae_factor(vae), "scheduler/scheduler_config.json"
    try:
        process = flow_from_scheduler(read_json(source, name), ends_trained=family is SD3)
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"{source.address}/{name}: {error}") from None
    size, patch = factor * config.get("sample_size", FLUX_SIDE), config["patch_size"] if family is SD3 else PACKED
    embeds = bool(config.get("guidance_embeds", False))
    how = {"factor": factor, "patch": patch, "embeds_guidance": embeds, "distilled": family is not SD3}
    edits = read_index(source)["_class_name"] == "FluxKontextPipeline"
    how |= {"inpaints": fills, "folds": fills, "edits": edits}
    return Stage(number, size, vae["latent_channels"], process, **how)


def transformer_fields(config: Mapping[str, Any], length: int) -> dict[str, Tensor]:
    """As `unet_fields`, of transformers: those of videos are told a text alone."""
    if is_of_videos(config):
        return {CONDITION: torch.zeros(length, config[TEXT_WIDTHS[config["_class_name"]]])}
    fields = {CONDITION: torch.zeros(length, config["joint_attention_dim"])}
    fields[POOLED] = torch.zeros(config["pooled_projection_dim"])
    return fields | ({GUIDANCE: torch.tensor(0.0)} if config.get("guidance_embeds") else {})


def unet_fields(unet: Mapping[str, Any], length: int) -> dict[str, Tensor]:
    """What a UNet is told beside state and time, zeros of one question's shapes, by name and in the order of its call.

    unet: its configuration; length: positions of an embedding.
    """
    width = unet.get("encoder_hid_dim") or unet["cross_attention_dim"]
    fields = {CONDITION: torch.zeros(length, width), NOISE_LEVEL: torch.tensor(0)}
    if not _is_sized(unet):
        return fields
    pooled = unet["projection_class_embeddings_input_dim"] - SIZE_IDS * unet["addition_time_embed_dim"]
    return fields | {POOLED: torch.zeros(pooled), SIZES: torch.zeros(SIZE_IDS)}


def _is_sized(unet: Mapping[str, Any]) -> bool:
    """Whether a UNet is told a pooled embedding and sizes in pixels, as SDXL's."""
    return unet.get("addition_embed_type") == "text_time"


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


def _process(source: Source, folder: str, settled: Mapping[str, Any] | None = None, **own: Any) -> Process:
    """settled: what counts whatever the file says."""
    name = f"{folder}/scheduler_config.json"
    try:
        return process_from_scheduler(read_json(source, name) | dict(settled or {}), **own)
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"{source.address}/{name}: {error}") from None


def process_from_scheduler(config: Mapping[str, Any], **own: Any) -> Diffusion:
    """The process of a `scheduler_config.json` as DDPMScheduler understands it; DDIM's reads alike.

    own: what the process has whatever the file says. Raises ValueError for one we lack.
    """
    name = config.get("_class_name", "DDPMScheduler")
    if name not in _SAMPLERS and "beta_schedule" not in config:
        raise ValueError(f"it is of a {name}, whose noise is none of ours: wanted one of {', '.join(_SAMPLERS)}")
    if lacking := [word for word in _NOT_OURS if config.get(word)]:
        raise ValueError(f"{' and '.join(lacking)} do not run here")
    prediction = _known(_PREDICTIONS, config.get("prediction_type", "epsilon"), "prediction_type")
    learned = _known(_VARIANCES, config.get("variance_type", "fixed_small"), "variance_type")
    how: dict[str, Any] = {"prediction": prediction, "learned_variance": learned, "grid": grid_of(config)}
    how = how | {"sampler": sampler_of(config)} | own
    if config.get("thresholding"):
        how["threshold"] = (config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", name in _CLIPPING):
        how["clip"] = config.get("clip_sample_range", 1.0)
    steps = config.get("num_train_timesteps", 1000)
    schedule = config.get("beta_schedule", "linear")
    if schedule == "squaredcos_cap_v2":
        return Diffusion.cosine(steps, **how)
    if config.get("rescale_betas_zero_snr"):
        how["terminal"] = NO_SIGNAL
    makers = {"linear": Diffusion.linear, "scaled_linear": Diffusion.scaled_linear}
    if schedule in makers:
        return makers[schedule](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02), **how)
    raise ValueError(f"beta_schedule {schedule!r} is not one we know (squaredcos_cap_v2, {', '.join(makers)})")


def grid_of(config: Mapping[str, Any]) -> GridDefaults:
    """What a scheduler_config.json says of the times of a walk, which holds with every sampler: as diffusers' own
    `from_config` has it, what a file does not say is each sampler's own."""
    to_one = config.get("set_alpha_to_one")
    return GridDefaults(
        spacing=config.get("timestep_spacing"),
        offset=config.get("steps_offset", 0),
        ends_noisy=None if to_one is None else not to_one,
        karras=bool(config.get("use_karras_sigmas", False)),
    )


def sampler_of(config: Mapping[str, Any]) -> str:
    """The sampler that a scheduler_config.json is of; euler for one that we lack."""
    name = config.get("_class_name", "DDPMScheduler")
    if name == "DPMSolverMultistepScheduler" and str(config.get("algorithm_type", "")).startswith("sde"):
        return "dpmpp_2m_sde"
    return _SAMPLERS.get(name, "euler")


def _known(table: Mapping[str, Any], given: str, what: str) -> Any:
    if given not in table:
        raise ValueError(f"{what} {given!r} is not one we know ({', '.join(table)})")
    return table[given]
