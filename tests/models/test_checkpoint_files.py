"""A single file of weights, as the first publishers named them, becomes the pipeline that it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from darkroom.batch.sample import sample
from darkroom.jobs import convert as job
from darkroom.models.catalog import open_model
from darkroom.models.checkpoint_files import convert_checkpoint
from darkroom.models.errors import ModelError
from darkroom.models.sources import open_source

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
    # of two blocks with a layer each, the first with attention down, the last up
    "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv", "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1", "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"self_attn.out_proj": "attn.out_proj", "embeddings.token_embedding": "token_embedding"}
OPEN_CLIP |= {"final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks"}


def renamed(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        name = re.sub(rf"(^|\.){re.escape(new)}\.", rf"\g<1>{old}.", name)
    return name


def unet_name(name: str) -> str:
    return renamed(renamed(name, RESNET) if ".resnets." in name else name, UNET)


def vae_name(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{2 - int(found[1])}", name)
    name = name.replace("down_blocks.", "down.").replace("resnets.", "block.").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.block\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("downsamplers.0.conv", "downsample.conv").replace("upsamplers.0.conv", "upsample.conv")
    name = name.replace("conv_shortcut", "nin_shortcut")
    if "mid_block.attentions.0." in name:
        name = renamed(name.replace("mid_block.attentions.0", "mid.attn_1"), ATTENTION)
        tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # a convolution of one pixel then
    return name, tensor


def open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, tensor in tensors.items():
        own = name.removeprefix("text_model.")
        if own == "text_projection.weight":
            made["text_projection"] = tensor.T.contiguous()
        elif own == "embeddings.position_embedding.weight":
            made["positional_embedding"] = tensor
        elif found := re.match(r"(.*)\.self_attn\.q_proj\.(weight|bias)", own):
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            made[renamed(f"{found[1]}.attn.in_proj_{found[2]}", OPEN_CLIP)] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", own):
            made[renamed(own, OPEN_CLIP)] = tensor
    return made


def single_file(folder: Path, file: Path) -> Path:
    """The weights of a toy pipeline in one file."""
    made: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        made[f"model.diffusion_model.{unet_name(name)}"] = tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        own, tensor = vae_name(name, tensor)
        made[f"first_stage_model.{own}"] = tensor
    paired = (folder / "text_encoder_2").is_dir()
    prefix = "conditioner.embedders.0.transformer." if paired else "cond_stage_model.transformer."
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        made[f"{prefix}text_model.{name.removeprefix('text_model.')}"] = tensor
    if paired:
        second = open_clip(load_file(folder / "text_encoder_2/model.safetensors"))
        made |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second.items()}
    made["model_ema.decay"] = torch.zeros(())  # and what else trainers leave in such files
    save_file({name: tensor.contiguous().clone() for name, tensor in made.items()}, file)
    return file


@pytest.mark.parametrize("kind", ["sd", "inpaint", "sdxl"])
def test_a_single_file_is_the_pipeline_that_it_was_made_of(toy_sd: str, tmp_path: Path, kind: str) -> None:
    folder, out = Path(toy_sd) / kind, tmp_path / "out"
    convert_checkpoint(single_file(folder, tmp_path / "model.safetensors"), open_source(str(folder)), out)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for path in (folder / part).glob("*.safetensors"):
            wanted, found = load_file(path), load_file(out / part / path.name)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted), part
    assert open_model(str(out)).stages[0].shape == open_model(str(folder)).stages[0].shape
    if kind != "inpaint":
        row = {"task": "text_to_image", "prompt": "a", "steps": 2}
        (ours,), (theirs,) = (sample(str(where), row, capacity=2) for where in (out, folder))
        assert np.array_equal(np.array(ours), np.array(theirs))


def test_the_command(toy_sd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = single_file(Path(toy_sd) / "sd", tmp_path / "dreamy.safetensors")
    job.main(str(file), str(tmp_path / "dreamy"), like=f"{toy_sd}/sd")
    assert capsys.readouterr().out == f"the model in {tmp_path}/dreamy\n"
    assert open_model(str(tmp_path / "dreamy")).name == "dreamy"
    with pytest.raises(typer.Exit) as ended:
        job.main(str(file), str(tmp_path / "jobs.jsonl"))
    assert ended.value.exit_code == 2 and "say by --like which model it is like" in capsys.readouterr().err


def test_what_is_no_checkpoint_of_that_family_is_refused(toy_sd: str, tmp_path: Path) -> None:
    plain, paints = (open_source(f"{toy_sd}/{kind}") for kind in ("sd", "inpaint"))
    file = single_file(Path(toy_sd) / "sd", tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"the unet's 'conv_in.weight' is \[8, 4, 3, 3\], and \[8, 9, 3, 3\] in .*inpaint"
    ):
        convert_checkpoint(file, paints, tmp_path / "one")
    with pytest.raises(ModelError, match=r"lacks the text_encoder_2's 'text_model.* and \d+ more, .*another family"):
        convert_checkpoint(
            _without_the_second_encoder(toy_sd, tmp_path), open_source(f"{toy_sd}/sdxl"), tmp_path / "two"
        )
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"\x80\x04")
    with pytest.raises(
        ModelError, match="model.ckpt is no .safetensors file, and no other is opened: a .ckpt is a program"
    ):
        convert_checkpoint(pickle, plain, tmp_path / "three")
    convert_checkpoint(file, plain, tmp_path / "four")
    with pytest.raises(ModelError, match="four is not empty: name a new folder"):
        convert_checkpoint(file, plain, tmp_path / "four")


def _without_the_second_encoder(toy_sd: str, folder: Path) -> Path:
    """A file of SDXL's without its second encoder."""
    file = single_file(Path(toy_sd) / "sdxl", folder / "xl.safetensors")
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("conditioner.embedders.1.")}
    save_file(kept, file)
    return file
