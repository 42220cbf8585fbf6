"""What a stage of videos is, read from the files of its folder in diffusers' layout: transformer/ scheduler/ vae/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.models.errors import ModelError
from darkroom.models.sources import Source, read_json
from darkroom.models.weights import config_of
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.stage import Stage
from darkroom.sampling.video import Video

COGVIDEOX_FPS = 8  # frames a second that it was trained at: arXiv 2408.06072
PAIR = 2  # latent frames that CogVideoX' VAE decodes at a time: of an odd number alone the first stands for one frame
_COGVIDEOX_SAMPLERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}


def read_video_stage(source: Source, number: int) -> Stage:
    """The stage of a CogVideoXPipeline. Raises ModelError."""
    config, vae = config_of(source, "transformer"), config_of(source, "vae")
    if config.get("patch_size_t") is not None:
        raise ModelError(
            f"{source.address} is of CogVideoX 1.5 (its transformer has a patch_size_t), which does not run here: "
            "wanted CogVideoX 2b or 5b"
        )
    channels = vae["latent_channels"]
    if (taken := (config["in_channels"], config["out_channels"])) != (channels, channels):
        raise ModelError(
            f"the transformer of {source.address} takes {taken[0]} channels and gives {taken[1]}; to make videos from "
            f"text, wanted {channels} of both"
        )
    factor, compression = 2 ** (len(vae["block_out_channels"]) - 1), int(vae["temporal_compression_ratio"])
    width, height = factor * config["sample_width"], factor * config["sample_height"]
    return Stage(
        number,
        max(width, height),
        channels,
        _process(source),
        factor=factor,
        patch=config["patch_size"],
        rectangle=(width, height),
        video=Video(config["sample_frames"], compression, PAIR * compression, COGVIDEOX_FPS),
    )


def _process(source: Source) -> Diffusion:
    name = "scheduler/scheduler_config.json"
    config = read_json(source, name)
    try:
        return cogvideox_process(config)
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
        bool(config.get("rescale_betas_zero_snr", False)),
        prediction="v",
        sampler=_COGVIDEOX_SAMPLERS[name],
        grid=grid,
    )


def is_of_videos(config: Mapping[str, Any]) -> bool:
    """Whether a network's config.json is of a transformer of videos."""
    return config.get("_class_name") == "CogVideoXTransformer3DModel"
