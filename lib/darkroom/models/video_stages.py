"""What a stage of videos is, read from the files of its folder in diffusers' layout: transformer/ scheduler/ vae/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from darkroom.models.errors import ModelError
from darkroom.models.families import WAN, family_of, read_index
from darkroom.models.flow_schedulers import flow_from_scheduler, unipc_flow_from_scheduler
from darkroom.models.sources import Source, read_json
from darkroom.models.weights import config_of
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.flow import Flow
from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import Stage
from darkroom.sampling.video import Expert, Video

COGVIDEOX_FPS = 8  # frames a second that it was trained at: arXiv 2408.06072
PAIR = 2  # latent frames that CogVideoX' VAE decodes at a time: of an odd number alone the first stands for one frame
SECOND_EXPERT = "transformer_2"
WAN_SIZE, WAN_FRAMES, WAN_FPS = (832, 480), 81, 16  # in no file, but in its pipeline: arXiv 2503.20314
TEXT_WIDTHS = {  # by the class of a transformer, what its config.json calls the width of an embedding
    "CogVideoXTransformer3DModel": "text_embed_dim",
    "WanTransformer3DModel": "text_dim",
}
_COGVIDEOX_SAMPLERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}


def read_video_stage(source: Source, number: int) -> Stage:
    """The stage of a CogVideoXPipeline or a WanPipeline. Raises ModelError."""
    config, vae = config_of(source, "transformer"), config_of(source, "vae")
    return (_wan_stage if family_of(source) is WAN else _cogvideox_stage)(source, number, config, vae)


def _cogvideox_stage(source: Source, number: int, config: Mapping[str, Any], vae: Mapping[str, Any]) -> Stage:
    if config.get("patch_size_t") is not None:
        raise ModelError(
            f"{source.address} is of CogVideoX 1.5 (its transformer has a patch_size_t), which does not run here: "
            "wanted CogVideoX 2b or 5b"
        )
    _check_channels(source, config, vae["latent_channels"])
    factor, compression = 2 ** (len(vae["block_out_channels"]) - 1), int(vae["temporal_compression_ratio"])
    width, height = factor * config["sample_width"], factor * config["sample_height"]
    return Stage(
        number,
        max(width, height),
        vae["latent_channels"],
        _process(source, cogvideox_process),
        factor=factor,
        patch=config["patch_size"],
        rectangle=(width, height),
        video=Video(config["sample_frames"], compression, PAIR * compression, COGVIDEOX_FPS, guidance=6.0),
    )


def _wan_stage(source: Source, number: int, config: Mapping[str, Any], vae: Mapping[str, Any]) -> Stage:
    index, (patch_frames, patch, _) = read_index(source), config["patch_size"]
    if index.get("expand_timesteps") or patch_frames != 1:
        raise ModelError(f"{source.address} is told a time for each token (Wan 2.2 TI2V), which does not run here")
    boundary = index.get("boundary_ratio")
    if boundary is not None and f"{SECOND_EXPERT}/config.json" not in source.names():
        raise ModelError(f"{source.address} has a boundary_ratio of {boundary} and no folder {SECOND_EXPERT!r}")
    _check_channels(source, config, vae["z_dim"])
    # Files older than these words are of the first VAE.
    factor, compression = vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)
    return Stage(
        number,
        max(WAN_SIZE),
        vae["z_dim"],
        _process(source, wan_process),
        factor=factor,
        patch=patch,
        rectangle=WAN_SIZE,
        video=Video(WAN_FRAMES, compression, compression, WAN_FPS, guidance=5.0),
        expert=None if boundary is None else Expert(1000 * boundary, is_first=True),
    )


def experts_of(stage: Stage) -> tuple[Stage, ...]:
    """The stage alone or, of two experts, both."""
    if stage.expert is None:
        return (stage,)
    return stage, replace(stage, number=stage.number + 1, expert=replace(stage.expert, is_first=False))


def _check_channels(source: Source, config: Mapping[str, Any], channels: int) -> None:
    if (taken := (config["in_channels"], config["out_channels"])) != (channels, channels):
        raise ModelError(
            f"the transformer of {source.address} takes {taken[0]} channels and gives {taken[1]}; to make videos from "
            f"text, wanted {channels} of both"
        )


def _process(source: Source, read: Callable[[Mapping[str, Any]], Process]) -> Process:
    name = "scheduler/scheduler_config.json"
    config = read_json(source, name)
    try:
        return read(config)
    except ValueError as error:
        raise ModelError(f"{source.address}/{name}: {error}") from None


def cogvideox_process(config: Mapping[str, Any]) -> Diffusion:
    """The process of a `scheduler_config.json` of CogVideoX. Raises ValueError for one that we lack."""
    if (name := config.get("_class_name")) not in _COGVIDEOX_SAMPLERS:
        raise ValueError(f"it is of a {name}, wanted {' or '.join(_COGVIDEOX_SAMPLERS)}")
    wanted = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "trained_betas": None}
    given = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", **config}
    if wrong := [name for name, value in wanted.items() if given.get(name) != value]:
        raise ValueError("; ".join(f"{name} is {given.get(name)!r}, wanted {wanted[name]!r}" for name in wrong))
    grid = GridDefaults(
        spacing=config.get("timestep_spacing", "leading"),
        offset=config.get("steps_offset", 0),
        ends_noisy=not config.get("set_alpha_to_one", True),
    )
    return Diffusion.scaled_linear(
        config.get("num_train_timesteps", 1000),
        config.get("beta_start", 0.00085),
        config.get("beta_end", 0.012),
        config.get("snr_shift_scale", 3.0),
        0.0 if config.get("rescale_betas_zero_snr") else None,
        prediction="v",
        sampler=_COGVIDEOX_SAMPLERS[name],
        grid=grid,
    )


def wan_process(config: Mapping[str, Any]) -> Flow:
    """The process of a `scheduler_config.json` of Wan, by either of its schedulers. Raises ValueError."""
    if config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return flow_from_scheduler(config, ends_trained=True)
    return unipc_flow_from_scheduler(config)


def is_of_videos(config: Mapping[str, Any]) -> bool:
    """Whether a network's config.json is of a transformer of videos."""
    return config.get("_class_name") in TEXT_WIDTHS
