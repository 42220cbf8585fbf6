"""Which family a pipeline of diffusers is of: by the `_class_name` of its model_index.json, as shapes are ambiguous.

An inpainting UNet has as many channels beside its state as an upscaler's might, and one of depth one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from darkroom.models.errors import ModelError
from darkroom.models.sources import Source, read_json
from darkroom.models.weights import config_of

Kind = Literal["base", "super_resolution", "upscaler", "latent", "latent_inpainting"]
INDEX = "model_index.json"


@dataclass(frozen=True)
class Family:
    """What the pipelines of a class are. latent: their states are latents, which a VAE makes pictures of; paired: two
    encoders read text; transformer: what answers is a transformer, and no UNet; video: it makes videos."""

    name: str
    latent: bool = False
    paired: bool = False
    transformer: bool = False
    video: bool = False


_IF, _X4 = Family("DeepFloyd IF"), Family("the x4 upscaler")
_SD, _SDXL = Family("Stable Diffusion", latent=True), Family("Stable Diffusion XL", latent=True, paired=True)
SD3 = Family("Stable Diffusion 3", latent=True, transformer=True)
FLUX = Family("Flux", latent=True, transformer=True)
COGVIDEOX = Family("CogVideoX", latent=True, transformer=True, video=True)
WAN = Family("Wan", latent=True, transformer=True, video=True)
FAMILIES: dict[str, Family] = {
    "IFPipeline": _IF,
    "IFImg2ImgPipeline": _IF,
    "IFInpaintingPipeline": _IF,
    "IFSuperResolutionPipeline": _IF,
    "IFImg2ImgSuperResolutionPipeline": _IF,
    "IFInpaintingSuperResolutionPipeline": _IF,
    "StableDiffusionUpscalePipeline": _X4,
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLImg2ImgPipeline": _SDXL,
    "StableDiffusionXLInpaintPipeline": _SDXL,
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3,
    "StableDiffusion3InpaintPipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxInpaintPipeline": FLUX,
    "FluxFillPipeline": FLUX,
    "FluxKontextPipeline": FLUX,
    "CogVideoXPipeline": COGVIDEOX,
    "WanPipeline": WAN,
}


def read_index(source: Source) -> dict[str, Any]:
    """A folder's model_index.json; empty where it has none, as the folders of our own cascades."""
    return read_json(source, INDEX) if INDEX in source.names() else {}


def family_of(source: Source) -> Family | None:
    """The family of a folder; None where only its files tell. ModelError for a class that we do not run."""
    name = read_index(source).get("_class_name")
    if name is None:
        return None
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"{source.address} is a {name}, which is none of the pipelines that run here: {known}")
    return FAMILIES[name]


def stage_kind(source: Source) -> Kind:
    """What a folder's stage is, by its family, its files and its UNet's channels. Raises ModelError."""
    family = family_of(source)
    if family is not None and family.video:
        return "latent"
    if family is not None and family.transformer:
        return _transformer_kind(source, family)
    unet = config_of(source, "unet")
    if "in_channels" not in unet or "out_channels" not in unet:
        raise ModelError(f"{source.address}/unet/config.json is no UNet's: it wants 'in_channels' and 'out_channels'")
    if family is not None and family.latent:
        return _latent_kind(source, family, unet)
    names = source.names()
    if "vae/config.json" in names:
        _check_upscaler(source, unet)
        return "upscaler"
    if "image_noising_scheduler/scheduler_config.json" in names or unet.get("class_embed_type") == "timestep":
        return "super_resolution"
    return "base"


def network_folder(source: Source) -> str:
    """Where a pipeline's network lies."""
    return "transformer" if "transformer/config.json" in source.names() else "unet"


def _transformer_kind(source: Source, family: Family) -> Kind:
    config, vae = config_of(source, "transformer"), config_of(source, "vae")
    channels = vae["latent_channels"]
    if read_index(source)["_class_name"] == "FluxFillPipeline":
        # Beside a state, latents of the picture without what is painted, and the mask: a channel for each pixel.
        pixels = 4 ** (len(vae["block_out_channels"]) - 1)
        taken, given = 4 * (2 * channels + pixels), 4 * channels
        if (config.get("in_channels"), config.get("out_channels")) != (taken, given):
            raise ModelError(
                f"the transformer of {source.address} takes {config.get('in_channels')} channels and gives "
                f"{config.get('out_channels')}; of a FluxFillPipeline, wanted {taken} and {given}"
            )
        return "latent_inpainting"
    wanted = channels if family is SD3 else 4 * channels
    if config.get("in_channels") != wanted or (config.get("out_channels") or wanted) != wanted:
        given = f"{config.get('in_channels')} channels and gives {config.get('out_channels')}"
        raise ModelError(
            f"the transformer of {source.address} takes {given}; of {family.name}, wanted {wanted} of both"
        )
    return "latent"


def _latent_kind(source: Source, family: Family, unet: Mapping[str, Any]) -> Kind:
    if unet.get("time_cond_proj_dim") is not None:
        raise ModelError(
            f"{source.address} has its guidance embedded (time_cond_proj_dim), which does not run here yet"
        )
    if family.paired and "text_encoder/config.json" not in source.names():
        raise ModelError(f"{source.address} has no first text encoder: refiners of {family.name} do not run here yet")
    channels, state = unet["in_channels"], unet["out_channels"]
    if channels == state:
        return "latent"
    if channels == 2 * state + 1:
        return "latent_inpainting"
    raise ModelError(
        f"the UNet of {source.address} takes {channels} channels; of {family.name}, wanted {state}, or {2 * state + 1} "
        "of one that paints pictures in"
    )


def _check_upscaler(source: Source, unet: Mapping[str, Any]) -> None:
    encoder = read_json(source, "text_encoder/config.json")
    if "CLIPTextModel" not in encoder.get("architectures", ["CLIPTextModel"]):
        raise ModelError(f"{source.address} works on latents but is no x4 upscaler: it reads text by {encoder}")
    if unet["in_channels"] != unet["out_channels"] + 3:
        raise ModelError(
            f"{source.address} works on latents but does not enlarge pictures: its UNet takes "
            f"{unet['in_channels']} channels, and {unet['out_channels']} + 3 are wanted; a model_index.json would say "
            "what it is"
        )
