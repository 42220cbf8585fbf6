"""Single-file checkpoints, as WebUI's users have them, to a pipeline in diffusers' layout: weights by diffusers' own
converters, all else (configurations, tokenizers, scheduler) from a pipeline of the same family.

Only safetensors: a .ckpt is a pickle, which is a program, and none is ever run here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as ldm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.models.errors import ModelError
from darkroom.models.families import INDEX, family_of
from darkroom.models.sources import Source
from darkroom.models.texts import Encoding
from darkroom.models.weights import DIFFUSERS, TRANSFORMERS, config_of

# What the first publishers' files call the second encoder, and the one of Stable Diffusion 2.
_OPEN_CLIP = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}
_CARRIED = ("tokenizer/", "tokenizer_2/", "scheduler/")

Tensors = Mapping[str, Tensor]


def convert_checkpoint(file: Path, like: Source, out: Path) -> None:
    """Writes the pipeline of a checkpoint to a new folder, model_index.json last. like: a pipeline of its family.

    ModelError for what is no such file, and where it lacks a tensor that the configurations of `like` want.
    """
    family = family_of(like)
    if family is None or not family.latent:
        raise ModelError(f"{like.address} is no pipeline of Stable Diffusion, whose configurations would fit {file}")
    tensors = _read(file)
    _carry(like, out)
    unet, vae = config_of(like, "unet"), config_of(like, "vae")
    _write(like, out, "unet", DIFFUSERS, ldm.convert_ldm_unet_checkpoint(tensors, unet), _built(like, "unet"), file)
    _write(like, out, "vae", DIFFUSERS, ldm.convert_ldm_vae_checkpoint(tensors, vae), _built(like, "vae"), file)
    encoders = ("text_encoder", "text_encoder_2") if family.paired else ("text_encoder",)
    for folder in encoders:
        module = _built(like, folder)
        _write(like, out, folder, TRANSFORMERS, _clip(tensors, folder, module), module, file)
    (out / INDEX).write_bytes(like.read(INDEX))


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        raise ModelError(f"{file} is no .safetensors file, and no other is opened: a .ckpt is a program")
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}): fetch it again") from None


def _carry(like: Source, out: Path) -> None:
    """What is no weight, but for model_index.json. ModelError where something lies there already."""
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty: name a new folder")
    names = [name for name in like.names() if name.startswith(_CARRIED) or name.endswith("/config.json")]
    root = like.fetch(names)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, out / name)


def _built(like: Source, folder: str) -> nn.Module:
    """The module of a folder, without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    classes: dict[str, Callable[[dict], nn.Module]] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
    }
    with torch.device("meta"):
        if folder in classes:
            return classes[folder](config_of(like, folder))
        return Encoding(like, None, "none", folder).build()


def _clip(tensors: Tensors, folder: str, module: nn.Module) -> dict[str, Tensor]:
    """By today's names of the class, in one of whose versions all lies below `text_model`."""
    prefix = _OPEN_CLIP[folder]
    if folder == "text_encoder_2" or any(name.startswith(prefix) for name in tensors):
        found = ldm.convert_open_clip_checkpoint(module, tensors, prefix=prefix)
    else:
        found = ldm.convert_ldm_clip_checkpoint(tensors)
    wanted = module.state_dict()
    named = {name if name in wanted else name.removeprefix("text_model."): value for name, value in found.items()}
    # A pooled embedding that nobody asks for, and positions that are 0, 1, 2, ...
    return {name: value for name, value in named.items() if name in wanted}


def _write(like: Source, out: Path, folder: str, stem: str, found: Tensors, module: nn.Module, file: Path) -> None:
    """ModelError where a tensor is missing, or of another shape than the configuration says."""
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{file} lacks the {folder}'s {missing[0]!r}{more}, which {like.address} has: another family?")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)}, and {list(tensor.shape)} in {like.address}"
            raise ModelError(f"{file}: the {folder}'s {name!r} is {shapes}: another family?")
    (out / folder).mkdir(parents=True, exist_ok=True)
    whole = {name: found[name].contiguous().clone() for name in wanted}
    save_file(whole, out / folder / f"{stem}.safetensors", {"format": "pt"})
