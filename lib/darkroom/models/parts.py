"""What the parts of a stage are, by the files of its folder: its text encoder, its network, its VAE. diffusers' classes
are imported where one of them is built: they cost three seconds, which whoever only plans need not pay."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from darkroom.models import texts
from darkroom.models.families import COGVIDEOX, SD3, WAN, family_of
from darkroom.models.paired_texts import PairedEncoding
from darkroom.models.sources import Source
from darkroom.models.texts import Encoding
from darkroom.models.triple_texts import TripleEncoding
from darkroom.models.video_stages import is_of_videos
from darkroom.sampling.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from darkroom.models.latents import Latents


def encoding_of(source: Source) -> Encoding:
    """How a stage's own text encoder reads."""
    family = family_of(source)
    if family is None or not family.latent:
        return Encoding(source, texts.IF_LENGTH, "lower strip")
    if family is WAN:
        return Encoding(source, texts.WAN_LENGTH, "blanks", padding="zeroed")
    if family is COGVIDEOX:
        return Encoding(source, texts.COGVIDEOX_LENGTH, "none", padding="seen")
    if family.transformer:
        return TripleEncoding.of_sd3(source) if family is SD3 else TripleEncoding.of_flux(source)
    return PairedEncoding.of(source) if family.paired else Encoding(source, None, "none")


def decoding_of(stage: Stage, config: dict[str, Any]) -> tuple[Callable[[], nn.Module], type[Latents]]:
    """What builds a stage's VAE, without weights, and what decodes by it."""
    if stage.video is not None:
        from darkroom.models.video_latents import VideoLatents, build_video_vae

        return lambda: build_video_vae(config), VideoLatents
    from diffusers import AutoencoderKL

    from darkroom.models.latents import Latents

    return lambda: AutoencoderKL.from_config(config), Latents


def build_network(folder: str, config: dict[str, Any]) -> nn.Module:
    """A stage's network, without weights."""
    if is_of_videos(config):
        from darkroom.models.video import build_video_transformer

        return build_video_transformer(config)
    if folder == "transformer":
        from darkroom.models.mmdit import build_transformer

        return build_transformer(config)
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(config)


def whole_parts_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Names of what stays in float32 of a stage's network, whatever it computes in."""
    if not is_of_videos(config):
        return ()
    from darkroom.models.video import whole_parts

    return whole_parts(config)


def measuring_of(folder: str, config: dict[str, Any]) -> ModuleType:
    """What knows how much a network of this folder needs."""
    from darkroom.models import mmdit, predictors, video

    if is_of_videos(config):
        return video
    return predictors if folder == "unet" else mmdit
